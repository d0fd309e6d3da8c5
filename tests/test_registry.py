"""One registry for methods, metrics, probes, attribution methods and data sets: names are taken once, or replaced."""

import sys

import pytest

from unpact_lens.attribution.methods import METHODS as ATTRIBUTION
from unpact_lens.attribution.methods import attribution_method
from unpact_lens.data.benchmark import BENCHMARKS, Benchmark, benchmark
from unpact_lens.evaluation.metrics import METRICS, metric
from unpact_lens.recovery.probes.registry import PROBES, probe
from unpact_lens.registry import Registry
from unpact_lens.unlearning import METHODS, Method


def add_method(value, **how):
    METHODS.add("written_in_a_notebook", Method("written_in_a_notebook", "", "", "", forget=value), **how)


def add_metric(value, **how):
    metric("written_in_a_notebook", source="", better="higher", **how)(value)


def add_probe(value, **how):
    probe("written_in_a_notebook", "computation", "", "", **how)(value)


def add_attribution_method(value, **how):
    value.__name__ = "written_in_a_notebook"
    attribution_method("", "", **how)(value)


def add_benchmark(value, **how):
    benchmark("written_in_a_notebook", **how)(value)


KINDS = {
    "method": (METHODS, add_method, lambda e: e.forget),
    "metric": (METRICS, add_metric, lambda e: e.compute),
    "probe": (PROBES, add_probe, lambda e: e.rows),
    "attribution method": (ATTRIBUTION, add_attribution_method, lambda e: e.run),
    "benchmark": (BENCHMARKS, add_benchmark, lambda e: e),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_of_a_notebook_can_run_again(kind):
    registry, add, read = KINDS[kind]

    def first(*_):
        """Return the first."""
        return Benchmark("first", forget=(), retain=())

    def second(*_):
        """Return the second."""
        return Benchmark("second", forget=(), retain=())

    add(first)
    with pytest.raises(
        ValueError, match=f"{kind} 'written_in_a_notebook' is registered already; give replace=True or another name"
    ):
        add(second)
    assert read(registry["written_in_a_notebook"]) is first
    add(second, replace=True)
    add(second, replace=True)
    assert read(registry["written_in_a_notebook"]) is second
    assert list(registry).count("written_in_a_notebook") == 1


def test_a_replaced_entry_stays_where_the_package_is_imported_later(tmp_path, monkeypatch):
    folder = tmp_path / "some_entries"
    folder.mkdir()
    (folder / "__init__.py").write_text("from unpact_lens.registry import Registry\nR = Registry('thing', __name__)\n")
    (folder / "a.py").write_text("from some_entries import R\nR.add('x', 'of the package')\nR.add('y', 'y')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import some_entries

    some_entries.R.add("x", "written_in_a_notebook", replace=True)
    try:
        assert dict(some_entries.R) == {"x": "written_in_a_notebook", "y": "y"}
        with pytest.raises(ValueError, match="thing 'x' is registered already"):
            some_entries.R.add("x", "another")
    finally:
        for name in [n for n in sys.modules if n.startswith("some_entries")]:
            del sys.modules[name]


def test_an_empty_registry_needs_no_package():
    assert dict(Registry("thing")) == {}
