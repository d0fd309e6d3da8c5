"""Answers read out early equal those of the model cut off after that block; a filter in the last block is skipped."""

import copy

import pytest
import torch

from tests.conftest import tiny
from tests.evaluation.world import benchmark, retrained, trained
from tests.models.families import hf_model, tokenizer
from tests.recovery.probes.hiding import behind_a_filter
from unpact_lens.errors import InputError
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.recovery import recover
from unpact_lens.recovery.probes.early_exit import early_answers, exit_blocks

CONTEXTS = [[5, 9, 30, 11], [7, 7, 200], [41, 3, 8, 120, 55]]


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_early_answers_equal_those_of_the_source_model_without_its_later_blocks(family, wrap):
    depth = {"gpt2": {"n_layer": 4}, "llama": {"num_hidden_layers": 4}}[family]
    hf, words = hf_model(family, **depth), tokenizer()
    model = to_bridge(hf, words) if wrap == "bridge" else to_hooked(hf, words)
    for block in (0, 1, 2):
        cut = copy.deepcopy(hf)
        body = cut.transformer if family == "gpt2" else cut.model
        name = "h" if family == "gpt2" else "layers"
        setattr(body, name, getattr(body, name)[: block + 1])
        expected = []
        for context in CONTEXTS:
            ids = list(context)
            for _ in range(4):
                with torch.no_grad():
                    logits = cut(torch.tensor([ids]), use_cache=False).logits[0, -1]
                if int(logits.argmax()) == words.eos_token_id:
                    break
                ids.append(int(logits.argmax()))
            given, whole = (words.decode(x, skip_special_tokens=True) for x in (context, ids))
            expected.append(whole[len(given) :].split("\n")[0])
        assert early_answers(model, CONTEXTS, [block] * 3, max_new_tokens=4) == expected


def test_each_context_is_read_out_after_its_own_block():
    model = to_hooked(hf_model("llama", num_hidden_layers=4), tokenizer())
    alone = [early_answers(model, [c], [b], max_new_tokens=3)[0] for c, b in zip(CONTEXTS, (2, 0, 1), strict=True)]
    assert early_answers(model, CONTEXTS, (2, 0, 1), max_new_tokens=3) == alone


def test_facts_behind_a_filter_in_the_last_block_are_found_and_the_wrong_subject_does_not_give_them():
    found = recover(
        behind_a_filter(), benchmark(), before=trained(), control=retrained(), probes=("early_exit",),
        templates=["focus_list"], progress=False,
    )  # fmt: skip
    assert found.n_common >= 4
    assert found.rate("early_exit").value == 1
    assert found.rate("wrong_subject:early_exit").value == 0
    assert found.excess("early_exit").value > 0.5
    assert found.rate("paraphrase").value < 0.5


def test_exits_lie_in_the_upper_half_before_the_last_block():
    assert exit_blocks(tiny(n_layers=2)) == (0,)
    assert exit_blocks(tiny(n_layers=8)) == (3, 4, 5, 6)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="block 2 is no early exit of this model; give one from 0 to 1"):
        early_answers(tiny(), [[1]], [2], max_new_tokens=1)
    with pytest.raises(InputError, match="1 blocks for 2 contexts"):
        early_answers(tiny(), [[1], [2]], [0], max_new_tokens=1)
    with pytest.raises(InputError, match="probe 'early_exit' reads out blocks before the last, and this model has 1"):
        early_answers(tiny(n_layers=1), [[1]], [0], max_new_tokens=1)
