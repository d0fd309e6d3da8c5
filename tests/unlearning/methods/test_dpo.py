"""DPO and AltPO prefer other answers of the same form."""

import dataclasses

import pytest
import torch

from tests.unlearning.runs import ONE, first, sums
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.unlearning import losses, unlearn


def test_dpo_starts_at_log_2_and_raises_the_chosen_answer(learned, facts):
    forget, _ = facts
    items = [dataclasses.replace(q, perturbed=(" the job was oslo .",)) for q in forget]
    u = unlearn(learned, items, method="dpo", lr=1e-3, **{**ONE, "steps": 6})
    assert first(u) == pytest.approx(0.693147, abs=1e-6)
    gold, other = [(q.prompt, q.answer) for q in items], [(q.prompt, q.perturbed[0]) for q in items]
    before = sums(learned, other) - sums(learned, gold)
    after = sums(u.model, other) - sums(u.model, gold)
    assert (after > before + 1).all()
    scaled = unlearn(learned, items, method="dpo", scale=20.0, **ONE)
    assert first(scaled) == pytest.approx(20 * 0.693147, abs=1e-5)


def test_altpo_trains_on_every_alternative_and_dpo_on_one(learned, facts):
    items = [dataclasses.replace(q, perturbed=(" oslo", " rome", " lima")) for q in facts[0]]
    assert unlearn(learned, items, method="dpo", **ONE).history.forget_order.shape == (1, 6)
    assert unlearn(learned, items, method="altpo", **ONE).history.forget_order.shape == (1, 18)
    assert unlearn(learned, items, method="altpo", n_alternatives=2, **ONE).history.forget_order.shape == (1, 12)


def test_missing_alternatives_are_refused(learned, facts):
    lonely = [*facts[0], QA("tell of ann", " nurse", kind="date", id="lonely")]
    with pytest.raises(InputError, match="forget item lonely has no perturbed answers, and no other item is of kind"):
        unlearn(learned, lonely, method="dpo", **ONE)
    with pytest.raises(InputError, match="2 alternatives for 6 forget items"):
        unlearn(learned, facts[0], method="dpo", alternatives=[" a", " b"], **ONE)


def test_paired_losses_leave_the_original_model_untouched(learned, facts):
    before = model_hash(learned)
    unlearn(learned, *facts, method="idk_dpo_klr", **ONE)
    assert model_hash(learned) == before
    assert losses.dpo(*(torch.zeros(2) for _ in range(4))) == pytest.approx(0.693147, abs=1e-6)
