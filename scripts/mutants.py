"""Test the tests: change one operator or number of a formula at a time, and see whether a test fails.

    python -m scripts.mutants [--most N] [--seed S]

Each mutant runs in a fork of this process, in which the code of one function is replaced. Mutants that no test notices
are listed. They must be on the list `JUSTIFIED`, which says why the change means nothing.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import os
import random
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAST = 0.9
"""Share of the mutants that tests must notice."""

TARGETS = {
    "unpact_lens.unlearning.losses": ["tests/unlearning/test_losses.py"],
    "unpact_lens.decomposition.norm": ["tests/decomposition/test_norm.py"],
    "unpact_lens.stats.intervals": ["tests/stats/test_intervals.py"],
    "unpact_lens.evaluation.verdict": ["tests/evaluation/test_verdict.py"],
    "unpact_lens.study.keys": ["tests/study/test_keys.py"],
}
"""Tests of each module: losses, norm algebra, rates, verdict, cache keys."""

JUSTIFIED: dict[str, str] = {}
"""Mutants that no test can notice, as the list names them, with the reason."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
"""What takes the place of each operator."""


@dataclass(frozen=True)
class Mutant:
    """Hold one change.

    Attributes:
        module: Module whose source is changed.
        place: Function and line, with the change.
        tree: Changed source.
    """

    module: str
    place: str
    tree: ast.Module


def mutants(module: str) -> Iterator[Mutant]:
    """Yield every change of the functions of a module; messages of errors and docstrings stay."""
    source = Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8")
    tree = ast.parse(source)
    for function in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]:
        left = {id(n) for s in ast.walk(function) if isinstance(s, ast.Raise) for n in ast.walk(s)}
        for statement in function.body:
            for node in ast.walk(statement):
                if id(node) in left:
                    continue
                for change in changes(node):
                    with change as name:
                        if name:
                            place = f"{function.name}:{getattr(node, 'lineno', 0)} {name}"
                            yield Mutant(module, f"{module.removeprefix('unpact_lens.')} {place}", copy.deepcopy(tree))


def changes(node: ast.AST) -> list[contextlib.AbstractContextManager[str]]:
    """Return the changes of one node, each as a block during which it is in place."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        return [replaced(node, "op", SWAPS[type(node.op)]())]
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        return [replaced(node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]])]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        return [replaced(node, "op", ast.UAdd() if isinstance(node.op, ast.USub) else ast.USub())]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [replaced(node, "value", not node.value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return [replaced(node, "value", node.value + 1)]
    return []


@contextlib.contextmanager
def replaced(node: ast.AST, field: str, new: object) -> Iterator[str]:
    """Replace a field of a node while the block runs; yield how the change reads."""
    old, before = getattr(node, field), ast.unparse(node)
    setattr(node, field, new)
    try:
        yield f"{before} -> {ast.unparse(node)}"
    finally:
        setattr(node, field, old)


def codes(code: types.CodeType) -> dict[str, types.CodeType]:
    """Return the code of every function in compiled source, by its qualified name and first line."""
    found: dict[str, types.CodeType] = {}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found[f"{constant.co_name}:{constant.co_firstlineno}"] = constant
            found |= codes(constant)
    return found


def put(mutant: Mutant) -> None:
    """Give every function of the module the code of the mutant."""
    module = importlib.import_module(mutant.module)
    new = codes(compile(mutant.tree, str(module.__file__), "exec"))
    for function in functions(module):
        key = f"{function.__code__.co_name}:{function.__code__.co_firstlineno}"
        if key in new and len(new[key].co_freevars) == len(function.__code__.co_freevars):
            function.__code__ = new[key]


def functions(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """Yield the functions and methods that a module defines, without their decorators."""
    for value in list(vars(module).values()):
        held = (
            list(vars(value).values()) if isinstance(value, type) and value.__module__ == module.__name__ else [value]
        )
        for item in held:
            while hasattr(item, "__wrapped__"):
                item = item.__wrapped__
            if isinstance(item, property) and item.fget is not None:
                item = item.fget
            if isinstance(item, types.FunctionType) and item.__module__ == module.__name__:
                yield item


def noticed(mutant: Mutant | None, tests: list[str], seconds: int = 300) -> bool:
    """Run the tests in a fork with a mutant in place; return whether one fails or the run takes too long."""
    child = os.fork()
    if not child:
        import signal

        signal.alarm(seconds)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            if mutant is not None:
                put(mutant)
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not smollm2", *tests]))
        except BaseException:
            status = 1
        os._exit(0 if status == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def main() -> int:
    """Run the mutants and print the survivors; return 1 if too many survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=None, help="largest number of mutants of a module; default all")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the choice")
    parser.add_argument("--only", default="", help="part of the name of the module")
    asked = parser.parse_args()
    os.chdir(ROOT)
    killed = total = 0
    survivors = []
    for module, tests in TARGETS.items():
        if asked.only not in module:
            continue
        for test in tests:  # A fork then needs no imports.
            importlib.import_module(test.removesuffix(".py").replace("/", "."))
        if noticed(None, tests):
            sys.exit(f"the tests of {module} fail without a mutant: {' '.join(tests)}")
        found = list(mutants(module))
        if asked.most is not None and len(found) > asked.most:
            found = random.Random(asked.seed).sample(found, asked.most)
        alive = [m.place for m in found if not noticed(m, tests)]
        unexplained = [place for place in alive if place not in JUSTIFIED]
        survivors += unexplained
        total, killed = total + len(found), killed + len(found) - len(alive)
        print(f"{module}: {len(found) - len(alive)} of {len(found)} mutants noticed", flush=True)
        for place in alive:
            print(f"  survived: {place}" + (f" ({JUSTIFIED[place]})" if place in JUSTIFIED else ""), flush=True)
    share = killed / max(total, 1)
    print(f"{killed} of {total} mutants noticed ({share:.0%}); {len(survivors)} survivors are not justified")
    return 0 if share >= LEAST and not survivors else 1


if __name__ == "__main__":
    sys.exit(main())
