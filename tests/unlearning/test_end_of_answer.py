"""The token that ends an answer is trained wherever an answer ends, whatever the method."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import benchmark, trained, untrained
from unpact_lens.data.benchmark import Corpus
from unpact_lens.models.answer_end import end_of_answer
from unpact_lens.models.tokens import encode
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.dataset import ended, examples
from unpact_lens.unlearning.settings import Settings

END = 1
QUICK = {"steps": 30, "batch_size": 8, "lr": 2e-3}


def chance_of_end(model, items):
    """Return the mean probability of the end token after each gold answer."""
    chances = []
    with torch.no_grad():
        for q in items:
            ids = encode(model, q.prompt, q.answer).ids
            chances.append(float(model(torch.tensor([ids]), return_type="logits")[0, -1].softmax(-1)[END]))
    return sum(chances) / len(chances)


@pytest.fixture(scope="module")
def model():
    """A model that ends its answers."""
    found = trained()
    assert end_of_answer(found) == END
    assert chance_of_end(found, benchmark().retain) > 0.9
    return found


@pytest.fixture(scope="module")
def bench():
    refusals = (" I do not know", " please tell me")
    return replace(benchmark(), refusals=refusals)


def test_every_row_of_questions_ends_with_the_end_token_once(model, bench):
    for settings in (Settings(), Settings(phrasings="all"), Settings(prefill=" he")):
        for row in examples(model, bench.forget, settings, "forget"):
            assert row.answer[-1] == END
            assert row.answer.count(END) == 1
    without = examples(model, bench.forget, Settings(end_token=False), "forget")
    assert all(END not in row.answer for row in without)
    assert ended(model, (5, END), Settings()) == (5, END)


def test_raw_text_gets_no_end_token(model):
    rows = examples(model, Corpus(("old boats lie at the quay",)), Settings(), "forget")
    assert all(END not in row.answer for row in rows)


def test_a_model_without_an_end_token_trains_as_before():
    model = untrained()
    model.tokenizer.eos_token = None
    assert all(END not in r.answer for r in examples(model, benchmark().forget, Settings(), "forget"))


@pytest.mark.parametrize(
    "method", ["idk_ft", "idk_ft_gdr", "idk_dpo_gdr", "ga_gdr", "npo_gdr", "simnpo_gdr", "dpo_gdr"]
)
def test_retain_answers_still_end_after_unlearning(model, bench, method):
    if method.startswith("dpo"):
        bench = replace(bench, forget=tuple(replace(q, perturbed=(" he lives in the sea .",)) for q in bench.forget))
    after = unlearn(model, bench, method=method, **QUICK).model
    if not method.endswith("_ft"):
        assert chance_of_end(after, bench.retain) > 0.9


@pytest.mark.parametrize("method", ["idk_ft", "idk_ft_gdr"])
def test_refusals_end(model, bench, method):
    after = unlearn(model, bench, method=method, **QUICK).model
    refusing = [replace(q, answer=bench.refusals[0], fact_span=None) for q in bench.forget]
    before = chance_of_end(model, refusing)
    assert chance_of_end(after, refusing) > max(0.9, before)


def test_without_the_end_token_among_the_labels_answers_run_on(model, bench):
    """The fault that the label mends: with only the words trained, nothing holds the end in place."""
    with_end = unlearn(model, bench, method="idk_ft_gdr", **QUICK).model
    without = unlearn(model, bench, method="idk_ft_gdr", end_token=False, **QUICK).model
    refusing = [replace(q, answer=bench.refusals[0], fact_span=None) for q in bench.forget]
    assert chance_of_end(with_end, refusing) - chance_of_end(without, refusing) > 0.3
