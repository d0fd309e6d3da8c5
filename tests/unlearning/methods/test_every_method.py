"""Each registered method computes its formula in the training loop."""

import pytest
import torch

from tests.unlearning.runs import ONE, first, row
from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import unlearn


def test_first_value_of_each_token_loss_equals_its_formula(learned, facts):
    forget, _ = facts
    scores = torch.cat(score_rows(learned, [row(learned, q.prompt, q.answer) for q in forget]))
    p = scores.exp()
    assert first(unlearn(learned, forget, method="ga", **ONE)) == pytest.approx(float(scores.mean()), abs=1e-6)
    assert first(unlearn(learned, forget, method="wga", beta=2.0, **ONE)) == pytest.approx(
        float((p**2 * scores).mean()), abs=1e-6
    )
    satimp = unlearn(learned, forget, method="satimp", beta1_weight=2.0, beta2_weight=0.5, **ONE)
    assert first(satimp) == pytest.approx(float((p**2 * (1 - p) ** 0.5 * scores).mean()), abs=1e-6)
    assert satimp.config["gamma"] == 0.1


@pytest.mark.parametrize("method", ["unpact_select", "unpact_recall", "unpact_blind", "idk_ft", "dpo"])
def test_methods_that_need_questions_refuse_raw_text(learned, method):
    with pytest.raises(InputError, match="the forget set is raw text; give QA items"):
        unlearn(learned, Corpus(("ann was born in rome",)), method=method, **ONE)


@pytest.mark.parametrize(
    "method",
    ["idk_dpo_klr", "altpo_gdr", "whp", "rmu", "undial_klr", "simnpo_gdr", "unpact_select_npo", "unpact_blind"],
)
def test_accumulation_equals_one_big_batch_for_every_kind_of_loss(learned, facts, method):
    forget, retain = facts
    forget = [*forget, QA("where was ann born", " the town was the town of the town .", kind="place", id="long")]
    settings = {"lr": 1e-3, "steps": 3, "batch_size": 6, "clip": None, "progress": False}
    whole = unlearn(learned, forget, retain, method=method, **settings)
    parts = unlearn(learned, forget, retain, method=method, micro_batch=2, **settings)
    for a, b in zip(whole.history.rows[:1], parts.history.rows[:1], strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


def test_retain_variants_have_the_same_forget_loss(learned, facts):
    for base in ("wga", "simnpo", "ce_u", "undial"):
        plain, held = (unlearn(learned, *facts, method=m, **ONE) for m in (base, f"{base}_gdr"))
        assert first(plain) == first(held)
        assert "retain" not in plain.history.rows[0]
        assert first(held, "retain") > 0
