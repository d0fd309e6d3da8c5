"""Test the tests: change one operator, number or name of a formula at a time, and see whether a test fails.

    python -m scripts.mutants [--jobs N] [--shard I/N] [--out FILE] [--only PART] [--most N]

Each mutant runs in a fork of a process that has collected the tests already, with the code of one function replaced.
Outcomes are JSON lines in `--out`. A run that finds them there does not repeat them, as long as neither the module nor
its tests have changed. Mutants that no test notices must be in `justified_mutants.json`, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAST = 0.9  # share of the mutants that tests must notice

TARGETS = {
    "unpact_lens.unlearning.losses": ["tests/unlearning/test_losses.py", "tests/unlearning/test_loss_details.py"],
    "unpact_lens.decomposition.norm": ["tests/decomposition/test_norm.py"],
    "unpact_lens.stats.intervals": ["tests/stats/test_intervals.py"],
    "unpact_lens.stats.estimate": ["tests/stats/test_estimate.py", "tests/stats/test_paired.py"],
    "unpact_lens.stats.tests": ["tests/stats/test_tests.py"],
    "unpact_lens.evaluation.verdict": ["tests/evaluation/test_verdict.py"],
    "unpact_lens.study.keys": ["tests/study/test_keys.py"],
}
"""Tests of each module: losses, norm algebra, rates, verdict, cache keys."""

JUSTIFIED = Path(__file__).with_name("justified_mutants.json")
"""Mutants that no test can notice, by the name that the list of survivors gives, with the reason."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
"""Operator that takes the place of each."""

CALLS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "sum": "max", "sqrt": "abs", "startswith": "endswith",
    "detach": "clone", "mean": "sum", "softmax": "log_softmax", "log_softmax": "softmax", "relu": "abs",
    "square": "abs", "softplus": "relu", "logsigmoid": "sigmoid", "exp": "abs", "hypot": "dist",
}  # fmt: skip
"""Function or method that takes the place of each; one that does not exist where it is called is noticed too."""

KILLED, SURVIVED, SLOW = "killed", "survived", "took too long"


@dataclass(frozen=True)
class Mutant:
    """Name one change of a module.

    Attributes:
        module: Module whose source is changed.
        index: Position among the changes of the module.
        place: Module, function and change; equal changes of one function are numbered.
    """

    module: str
    index: int
    place: str


def mutants(module: str) -> list[Mutant]:
    """List every change of a module."""
    found: dict[str, int] = {}
    listed = []
    for index, (function, edit) in enumerate(edits(tree_of(module))):
        with edit as change:
            name = f"{module.removeprefix('unpact_lens.')} {function}: {change}"
        found[name] = found.get(name, 0) + 1
        listed.append(Mutant(module, index, name if found[name] == 1 else f"{name} #{found[name]}"))
    return listed


def source_of(module: str) -> Path:
    """Return the file of a module."""
    return Path(str(importlib.import_module(module).__file__))


def tree_of(module: str) -> ast.Module:
    """Parse the source of a module."""
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


Edit = contextlib.AbstractContextManager[str]
"""A block during which one change is in place; it gives how the change reads."""


def edits(tree: ast.Module) -> Iterator[tuple[str, Edit]]:
    """Yield every change of the functions and methods in a tree, in a fixed order, with the function's name."""
    holders: list[ast.Module | ast.ClassDef] = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]
    for holder in holders:
        prefix = f"{holder.name}." if isinstance(holder, ast.ClassDef) else ""
        for function in holder.body:
            if isinstance(function, ast.FunctionDef):
                skipped = untested(function)
                for part in [*function.args.defaults, *function.args.kw_defaults, *function.body]:
                    for node in ast.walk(part) if part is not None else ():
                        if id(node) not in skipped:
                            yield from ((prefix + function.name, edit) for edit in changes(node))


def untested(function: ast.FunctionDef) -> set[int]:
    """Return the nodes that stay: what is raised, annotations, and the words of a message."""
    found: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise):
            found |= {id(n) for n in ast.walk(node)}
        elif isinstance(node, ast.AnnAssign):
            found |= {id(n) for n in ast.walk(node.annotation)}
        elif isinstance(node, ast.JoinedStr):
            found |= {id(n) for n in ast.walk(node) if isinstance(n, ast.Constant)}
    return found


def changes(node: ast.AST) -> Iterator[Edit]:
    """Yield the changes of one node."""
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
        yield replaced(node, "op", SWAPS[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield replaced(node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield replaced(node, "op", ast.UAdd())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield replaced(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield replaced(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield replaced(node, "value", node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
        yield replaced(node, "value", f"X{node.value}")
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield replaced(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Call):
        name = {ast.Name: "id", ast.Attribute: "attr"}.get(type(node.func))
        if name and getattr(node.func, name) in CALLS:
            yield replaced(node.func, name, CALLS[getattr(node.func, name)])


@contextlib.contextmanager
def replaced(node: ast.AST, field: str, new: object) -> Iterator[str]:
    """Replace a field of a node while the block runs; give how the change reads."""
    old, before = getattr(node, field), _text(node)
    setattr(node, field, new)
    try:
        yield f"{before} -> {_text(node)}"
    finally:
        setattr(node, field, old)


def _text(node: ast.AST) -> str:
    text = ast.unparse(node.test if isinstance(node, ast.If) else node)
    return text if len(text) <= 100 else f"{text[:99]}…"


def put(mutant: Mutant) -> None:
    """Give every function of the module the code and the defaults of the mutant."""
    module = importlib.import_module(mutant.module)
    tree = tree_of(mutant.module)
    for index, (_, edit) in enumerate(edits(tree)):
        if index == mutant.index:
            with edit:
                new = codes(compile(ast.fix_missing_locations(tree), str(module.__file__), "exec"))
                defaults = {(f.name, _first_line(f)): f.args for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}
                for function in functions(module):
                    key = (function.__code__.co_name, function.__code__.co_firstlineno)
                    if key in new:
                        function.__code__ = new[key]
                    if key in defaults:
                        _put_defaults(function, defaults[key])
            return


def _first_line(function: ast.FunctionDef) -> int:
    return min([function.lineno, *(d.lineno for d in function.decorator_list)])


def _put_defaults(function: types.FunctionType, arguments: ast.arguments) -> None:
    """Give a function the defaults of a changed tree that are numbers or truth values."""
    if function.__defaults__:
        function.__defaults__ = tuple(
            node.value if isinstance(node, ast.Constant) else old
            for node, old in zip(arguments.defaults, function.__defaults__, strict=True)
        )
    for name, node in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if function.__kwdefaults__ and isinstance(node, ast.Constant):
            function.__kwdefaults__[name.arg] = node.value


def codes(code: types.CodeType) -> dict[tuple[str, int], types.CodeType]:
    """Return the code of every function in compiled source, by its name and first line."""
    found: dict[tuple[str, int], types.CodeType] = {}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found[constant.co_name, constant.co_firstlineno] = constant
            found |= codes(constant)
    return found


def functions(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """Yield the functions and methods that a module defines, without their decorators."""
    for value in list(vars(module).values()):
        own = isinstance(value, type) and value.__module__ == module.__name__
        for item in list(vars(value).values()) if own else [value]:
            while hasattr(item, "__wrapped__"):
                item = item.__wrapped__
            item = item.__func__ if isinstance(item, (classmethod, staticmethod)) else item
            item = item.fget if isinstance(item, property) else item
            if isinstance(item, types.FunctionType) and item.__module__ == module.__name__:
                yield item


class Forks:
    """Run the collected tests once for each mutant, each time in a fork: a plugin of pytest.

    Attributes:
        is_fork: Whether this process is a fork, which must end after its tests.
    """

    def __init__(
        self, todo: list[Mutant], jobs: int, done: Callable[[Mutant, str, float], None], scratch: Path
    ) -> None:
        """Take the mutants, the number of forks at a time, what is told each outcome, and a folder for the tests."""
        self.todo, self.jobs, self.done, self.scratch = todo, jobs, done, scratch
        self.is_fork = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Fork for each mutant; pytest's own loop runs in the forks only."""
        if session.testsfailed:
            sys.exit("error: the tests cannot be collected")
        began = time.monotonic()
        if not self._fork(None, 600):
            return None
        if os.wait()[1]:
            sys.exit(f"error: tests fail without a mutant: {' '.join(session.config.args)}")
        limit = int(10 + 5 * (time.monotonic() - began))
        running: dict[int, tuple[Mutant, float]] = {}
        waiting = iter(self.todo)
        while True:
            for mutant in waiting:
                if not (pid := self._fork(mutant, limit)):
                    return None
                running[pid] = (mutant, time.monotonic())
                if len(running) >= self.jobs:
                    break
            if not running:
                return True
            pid, status = os.wait()
            mutant, began = running.pop(pid)
            outcome = SLOW if os.WIFSIGNALED(status) else KILLED if status else SURVIVED
            self.done(mutant, outcome, time.monotonic() - began)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """End a fork at its first failure: no traceback is made."""
        if self.is_fork and report.failed:
            os._exit(1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """End a fork after its tests: what pytest does then takes longer than most tests."""
        if self.is_fork:
            os._exit(int(exitstatus != 0))

    def _fork(self, mutant: Mutant | None, seconds: int) -> int:
        """Fork; return 0 in the fork, with the mutant in place and an alarm that ends it, and its pid in the parent."""
        pid = os.fork()
        if not pid:
            self.is_fork = True
            signal.alarm(seconds)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            own = self.scratch / str(os.getpid())
            own.mkdir()
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(own)
            if mutant is not None:
                put(mutant)
        return pid


def run(todo: list[Mutant], jobs: int, done: Callable[[Mutant, str, float], None]) -> None:
    """Run mutants of one module in forks side by side.

    Args:
        todo: Mutants to run.
        jobs: Number of forks at a time.
        done: Called with each mutant, its outcome and its seconds.
    """
    options = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "--capture=sys", "--tb=no", "--no-summary"]
    with tempfile.TemporaryDirectory() as scratch:
        forks = Forks(todo, jobs, done, Path(scratch))
        try:
            code = pytest.main([*options, "-m", "not slow and not smollm2", *TARGETS[todo[0].module]], plugins=[forks])
        finally:
            if forks.is_fork:  # A fork comes here only if pytest itself fails.
                os._exit(1)
    if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(f"error: pytest ended with {code!r}")


def state_of(module: str) -> str:
    """Compute a hash of a module and its tests: outcomes of another state are not used."""
    files = [source_of(module), *(ROOT / test for test in TARGETS[module])]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


def kept(file: Path | None, states: dict[str, str]) -> dict[str, str]:
    """Read the outcomes of earlier runs, by place; a last line that was cut off is skipped."""
    outcomes = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            if states.get(record["module"]) == record["state"]:
                outcomes[record["place"]] = record["outcome"]
    return outcomes


def summary(chosen: list[Mutant], outcomes: dict[str, str]) -> bool:
    """Print how many mutants each module's tests noticed and which survived; return whether this is enough."""
    justified: dict[str, str] = json.loads(JUSTIFIED.read_text(encoding="utf-8"))
    ran = [m for m in chosen if m.place in outcomes]
    for module in dict.fromkeys(m.module for m in ran):
        own = [m for m in ran if m.module == module]
        alive = [m.place for m in own if outcomes[m.place] == SURVIVED]
        late = sum(outcomes[m.place] == SLOW for m in own)
        print(f"{module}: {len(own) - len(alive)} of {len(own)} mutants noticed, {late} of them by their time")
        for place in alive:
            print(f"  survived: {place} ({justified.get(place, 'not justified')})")
    alive = [m.place for m in ran if outcomes[m.place] == SURVIVED]
    open_ = [place for place in alive if place not in justified]
    stale = [place for place in justified if outcomes.get(place, SURVIVED) != SURVIVED]
    share = 1 - len(alive) / max(len(ran), 1)
    print(
        f"{len(ran) - len(alive)} of {len(ran)} mutants noticed ({share:.1%}); {len(alive)} survive, {len(open_)} of "
        f"them without a reason; {len(chosen) - len(ran)} not run; justified but noticed: {stale or 'none'}"
    )
    return share >= LEAST and not open_ and not stale and len(ran) == len(chosen)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="forks at a time; default all cores")
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th mutant, from the I-th on (0-based)")
    parser.add_argument("--out", type=Path, default=None, help="file of outcomes, JSON lines; a run goes on from it")
    parser.add_argument("--only", default="", help="part of the name of the module")
    parser.add_argument(
        "--most", type=int, default=None, help="largest number of mutants of a module, drawn with seed 0"
    )
    return parser.parse_args()


def main() -> int:
    """Run the mutants and print the survivors; return 1 if too many survive or one is not justified."""
    asked = options()
    os.chdir(ROOT)
    shard, shards = map(int, asked.shard.split("/"))
    chosen = []
    for module in (m for m in TARGETS if asked.only in m):
        found = mutants(module)
        found = random.Random(0).sample(found, min(asked.most, len(found))) if asked.most is not None else found
        chosen += found
    chosen = chosen[shard::shards]
    states = {module: state_of(module) for module in TARGETS}
    outcomes = kept(asked.out, states)
    todo = [m for m in chosen if m.place not in outcomes]

    def done(mutant: Mutant, outcome: str, seconds: float) -> None:
        outcomes[mutant.place] = outcome
        record = {"module": mutant.module, "place": mutant.place, "outcome": outcome, "seconds": round(seconds, 2)}
        if asked.out is not None:
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**record, "state": states[mutant.module]}, ensure_ascii=False) + "\n")

    for module in dict.fromkeys(m.module for m in todo):
        run([m for m in todo if m.module == module], asked.jobs, done)
    return 0 if summary(chosen, outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
