"""A metric is registered by one decorator that carries its source, range and direction."""

from tests.evaluation.world import benchmark, untrained
from unpact_lens.evaluation.metrics import METRICS, BenchmarkRun, metric


def test_the_decorator_registers_the_function_and_completes_its_docstring(monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS))

    @metric("length", source="this test", better="lower", bounds=(0.0, float("inf")))
    def length(answers):
        """Count the characters of the generated answer.

        Blanks count.
        """
        return answers.each(lambda text, qa: len(text))

    entry = METRICS["length"]
    assert entry.compute is length
    assert entry.description == "Count the characters of the generated answer"
    assert (entry.of, entry.binary, entry.default) == ("answers", False, True)
    assert length.__doc__.endswith("Blanks count.\n\nRange: 0 to infinity; lower is better. Source: this test.")


def test_metrics_of_one_benchmark_share_what_they_compute():
    calls = []
    run = BenchmarkRun(untrained(), benchmark())

    def shared(run):
        calls.append(run)
        return len(calls)

    assert (run.once(shared), run.once(shared)) == (1, 1)
