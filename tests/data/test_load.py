"""Benchmarks are found by name; a wrong name or option is answered with the nearest."""

import importlib
import re

import pytest

from unpact_lens.data.load import BENCHMARKS, load_benchmark
from unpact_lens.errors import InputError


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_name_leads_to_a_function(name):
    module, function, *_ = BENCHMARKS[name].split(":")
    assert callable(getattr(importlib.import_module(f"unpact_lens.data.{module}"), function))


def test_options_reach_the_data_set():
    small = load_benchmark("facts", forget_share=0.1, seed=3)
    assert len(small.forget) < len(small.near)
    assert small.name == "facts"


def test_every_item_of_the_embedded_world_is_as_said():
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
def test_bad_input_is_named(name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load_benchmark(name, **options)
