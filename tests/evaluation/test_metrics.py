"""A metric is registered by one decorator that carries its source, range and direction."""

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, split_benchmark, trained, untrained
from unpact_lens.errors import InputError
from unpact_lens.evaluation import evaluate
from unpact_lens.evaluation.metrics import METRICS, BenchmarkRun, metric


def test_the_decorator_registers_the_function_and_completes_its_docstring():
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


@pytest.fixture
def compared():
    """Register a metric of answers and a metric of the benchmark that look at the original model."""

    @metric("same_answer", source="this test", better="higher", binary=True, needs="before")
    def same_answer(answers, original):
        """Return 1 if the generated answer is the original model's, else 0."""
        return torch.tensor([float(a == b) for a, b in zip(answers.generated, original.generated, strict=True)])

    @metric("moved", source="this test", better="lower", bounds=(0.0, float("inf")), of="benchmark", needs="before")
    def moved(run):
        """Compute the distance of the weights to the original model's."""
        theirs = dict(run.original("moved").named_parameters())
        return sum(float((w - theirs[n]).norm()) for n, w in run.model.named_parameters())


def test_a_metric_sees_the_original_model(compared):
    found = evaluate(retrained(), split_benchmark(), ["same_answer", "moved"], before=trained(), reference=retrained())
    said, known = found.generated, evaluate(trained(), split_benchmark(), ["exact_match"]).generated
    assert found.of("same_answer").tolist() == [float(a == b) for a, b in zip(said, known, strict=True)]
    assert 0 < float(found.of("same_answer").mean()) < 1
    assert bool((found.values_before[found.metrics.index("same_answer")] == 1).all())
    assert torch.equal(found.values_reference, found.values)
    assert found.overall["moved"] > 0


@pytest.mark.parametrize("before", [None, "scores"])
@pytest.mark.parametrize("name", ["same_answer", "moved"])
def test_a_metric_that_compares_with_the_original_model_needs_the_model(compared, before, name):
    given = evaluate(trained(), split_benchmark(), ["exact_match"]) if before else None
    with pytest.raises(
        InputError, match=f"metric '{name}' compares with the original model; give the model as before="
    ):
        evaluate(retrained(), split_benchmark(), [name], before=given)
