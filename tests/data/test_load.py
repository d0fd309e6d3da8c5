"""Load benchmarks by name; a wrong name or option is answered with the nearest."""

import inspect
import re

import pytest

from unpact_lens.data.benchmark import BENCHMARKS, Benchmark, benchmark
from unpact_lens.data.load import load_benchmark
from unpact_lens.errors import InputError


def test_every_data_set_registers_itself_in_its_file():
    files = {name: inspect.unwrap(getattr(load, "func", load)).__module__ for name, load in BENCHMARKS.items()}
    assert len(files) == 12
    assert all(file.rpartition(".")[2] in ("custom", name.partition("-")[0]) for name, file in files.items())


def test_a_new_data_set_is_one_decorated_function():
    @benchmark("mine-small", 1)
    @benchmark("mine")
    def mine(size: int = 3, *, chat: bool = False) -> Benchmark:
        return Benchmark(f"mine {size}", forget=(), retain=(), chat=chat)

    assert load_benchmark("mine", size=2).name == "mine 2"
    assert load_benchmark("mine-small", chat=True) == mine(1, chat=True)
    with pytest.raises(InputError, match="benchmark 'mine-small' has no option 'size'"):
        load_benchmark("mine-small", size=2)
    with pytest.raises(ValueError, match="benchmark 'mine' is registered already"):
        benchmark("mine")(mine)


def test_options_reach_the_data_set():
    small = load_benchmark("facts", forget_share=0.1, seed=3)
    assert len(small.forget) < len(small.near)
    assert small.name == "facts"


def test_the_builtin_benchmark_has_near_and_far_items_and_unique_ids():
    bench = load_benchmark("builtin")
    assert {q.group for q in bench.retain} == {"near", "far"}
    assert len(bench.all_items()) == len({q.id for q in bench.all_items()})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("factz", {}, "unknown benchmark 'factz'; did you mean 'facts'?"),
        ("zzz", {}, "unknown benchmark 'zzz'; known are 'builtin', 'facts', "),
        ("facts", {"forget_shar": 0.1}, "benchmark 'facts' has no option 'forget_shar'; did you mean 'forget_share'?"),
        ("facts", {"path": "/no/where"}, "benchmark 'facts' comes with its package and has no files; drop path="),
        ("tofu", {"path": "/no/where"}, "path='/no/where' of benchmark 'tofu' does not exist"),
    ],
)
def test_bad_input_is_named_with_the_nearest_name(name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load_benchmark(name, **options)
