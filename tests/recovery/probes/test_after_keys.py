"""The key words of each unlearned model are emphasised by the headline template."""

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained
from unpact_lens.attribution import TopK
from unpact_lens.errors import InputError
from unpact_lens.recovery import recover, recovery_plan
from unpact_lens.recovery.probes.emphasis import key_words


def test_the_unlearned_models_own_key_words_are_emphasised():
    models = {"before": trained(), "control": retrained()}
    plan = recovery_plan(benchmark(), **models, probes=(), rule=TopK(2), progress=False)
    found = recover(retrained(), benchmark(), **models, probes=["after_keys"], rule=TopK(2), progress=False)
    counted = [q for q, c in zip(plan.sheet.items, found.common.tolist(), strict=True) if c]
    words = key_words(retrained(), counted, plan.bench, rule=TopK(2), progress=False)
    assert words != [k for k, c in zip(plan.keys, found.common.tolist(), strict=True) if c]
    row = found.probes.index("after_keys")
    # Facts that the original model cannot answer under these prompts are not asked.
    assert torch.equal(found.asked[row], found.right_before[row])
    assert not (found.asked[row] & ~found.common).any()
    assert found.families[row] == "emphasis"


def test_a_headline_without_words_is_refused():
    with pytest.raises(InputError, match="the headline 'repeat_question' takes none; use 'focus_list'"):
        recovery_plan(benchmark(), before=trained(), probes=["after_keys"], headline="repeat_question")
