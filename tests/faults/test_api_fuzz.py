"""Whatever its arguments, every public function ends with a result, an `InputError`, or a `TypeError` for a type.

The argument that is odd is drawn at random. `make test` runs `FAST` calls. `make test-all` runs `FULL` calls in
`SHARDS` tests, each with its own seed, so that pytest-xdist can run them side by side.
"""

import inspect
import math
import signal

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.faults.public_calls import LEFT_OUT, ODD, WRONG, functions, known, usual
from unpact_lens.errors import InputError

FAST, FULL, SHARDS = 200, 10_080, 28
"""Number of calls in `make test` and in `make test-all`, and of tests that share the latter."""

SEED = 20260102
"""Seed of the calls in `make test`; the shards in `make test-all` have the next ones."""

LONGEST = 30
"""Largest duration of a call, whole seconds."""

SMALL = ("answer", "seed", "draws", "progress", "methods", "drawn", "steps", "limit", "budget")
"""Optional parameters that are always given, because their default makes a call long."""

VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
CALLED = sorted(name for name in functions() if name not in LEFT_OUT)


def odd_values(function, parameter):
    """Return hostile values of the types that a parameter usually has."""
    kinds = {type(v) for v in usual(function, parameter)}
    return [v for kind, values in ODD.items() if kind in kinds for v in values]


@st.composite
def call(draw, names=None):
    """A function, its arguments, and the names of the arguments whose Python type may be wrong."""
    name = draw(st.sampled_from(names or CALLED))
    parameters = inspect.signature(functions()[name]).parameters
    arguments, wrong = {}, []
    for parameter, about in parameters.items():
        if about.kind in VARIADIC or not known(name, parameter):
            continue
        needed = about.default is inspect.Parameter.empty or parameter in SMALL
        if not needed and draw(st.integers(0, 3)):
            continue
        odd, kind = odd_values(name, parameter), draw(st.integers(0, 11))
        if kind == 0:
            arguments[parameter] = draw(st.sampled_from(WRONG))
            wrong.append(parameter)
        elif kind <= 2 and odd:
            arguments[parameter] = draw(st.sampled_from(odd))
        else:
            arguments[parameter] = draw(st.sampled_from(usual(name, parameter)))
    if any(about.kind is inspect.Parameter.VAR_KEYWORD for about in parameters.values()) and not draw(
        st.integers(0, 5)
    ):
        arguments[draw(st.sampled_from(["nosuch", "batch_tokens", "chat", "steps", "lr"]))] = draw(
            st.sampled_from([0, -1, 1, "x", True, float("nan"), 2**63])
        )
        wrong.append("options")
    return name, arguments, wrong


def hung(*_):
    """End a call that takes too long; not an `Exception`, so nothing catches it."""
    raise GeneratorExit(f"takes more than {LONGEST} s")


def told(arguments):
    return {k: repr(v)[:60] for k, v in arguments.items()}


def outcome(name, arguments, wrong, folder):
    """Make one call; return how it ended: `result`, `refused` or `type`."""
    if "path" in arguments and name in ("save", "export_hf"):
        path = arguments["path"]
        arguments = {**arguments, "path": folder / path if isinstance(path, str) and "/" not in path else folder / "x"}
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(LONGEST)
    try:
        found = functions()[name](**arguments)
    except InputError:
        return "refused"
    except TypeError as error:
        if wrong or "() got " in str(error):  # A guard names an argument of a wrong type.
            return "type"
        raise AssertionError(f"{name}({told(arguments)}) raises {error!r} for right types") from error
    except Exception as error:
        raise AssertionError(f"{name}({told(arguments)}) raises {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if name == "log_prob" and isinstance(found, float):
        assert math.isfinite(found), (name, told(arguments))
    return "result"


def fuzzed(examples, first, folder, monkeypatch):
    """Run this number of calls with this seed; count how they end and list those that end otherwise."""
    ends, wrongly = {"result": 0, "refused": 0, "type": 0}, {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder / "work").mkdir()
    monkeypatch.chdir(folder / "work")

    @seed(first)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(call())
    def one(drawn):
        name, arguments, wrong = drawn
        try:
            ends[outcome(name, arguments, wrong, folder)] += 1
            assert list((folder / "work").iterdir()) == [], (name, told(arguments))
        except (AssertionError, GeneratorExit) as error:  # The other calls go on; a failure is shown once.
            wrongly.setdefault((name, str(error)[-60:]), str(error))

    one()
    return ends, list(wrongly.values())


def test_a_few_hundred_calls(tmp_path, monkeypatch):
    ends, wrongly = fuzzed(FAST, SEED, tmp_path, monkeypatch)
    assert wrongly == []
    assert ends["result"] > 50
    assert ends["refused"] > 20


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_ten_thousand_calls(shard, tmp_path, monkeypatch, record_property):
    ends, wrongly = fuzzed(FULL // SHARDS, SEED + 1 + shard, tmp_path, monkeypatch)
    for end, count in ends.items():
        record_property(end, count)
    assert wrongly == []
    assert sum(ends.values()) >= FULL // SHARDS


def test_every_public_function_is_called_or_left_out_with_a_reason():
    assert set(LEFT_OUT) <= set(functions())
    lacking = [
        (name, parameter)
        for name in CALLED
        for parameter, about in inspect.signature(functions()[name]).parameters.items()
        if about.default is inspect.Parameter.empty and about.kind not in VARIADIC and not known(name, parameter)
    ]
    assert lacking == []
