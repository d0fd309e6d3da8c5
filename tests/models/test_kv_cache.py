"""Continuations are packed into rows with little padding."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.families import tokenizer
from tests.models.multimodal import gemma3_config
from unpact_lens.attribution import attribute
from unpact_lens.models import kv_cache
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.kv_cache import fewest_tokens, pack


def sizes_of(prompt, answer):
    after = prompt + answer - 1
    return [after - 1 - min(i, prompt - 2) for i in range(prompt)], after


@pytest.mark.parametrize(("prompt", "answer"), [(2, 1), (30, 8), (30, 20), (30, 64), (200, 8)])
def test_every_continuation_is_in_one_row_and_padding_is_small(prompt, answer):
    sizes, past = sizes_of(prompt, answer)
    rows = fewest_tokens(sizes, past, 768)
    assert sorted(i for row in rows for i in row) == list(range(prompt))
    padded = len(rows) * max(sum(sizes[i] for i in row) for row in rows)
    narrow = pack(sizes, max(*sizes, past // 4))
    assert padded <= len(narrow) * max(sum(sizes[i] for i in row) for row in narrow)
    if prompt >= 30:
        assert padded <= 1.06 * sum(sizes)


def test_rows_are_shorter_for_narrow_models():
    sizes, past = sizes_of(200, 8)
    width = [max(sum(sizes[i] for i in row) for row in fewest_tokens(sizes, past, d)) for d in (16, 4096)]
    assert width[0] < width[1]


def test_the_windows_of_a_multimodal_gemma_are_found_in_its_text_configuration():
    """Past the sliding window, a shared prefix would give other scores than the whole text."""
    config = gemma3_config(sliding_window=7, layer_types=["sliding_attention", "full_attention"])
    source = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model = to_bridge(source, tokenizer())
    assert not kv_cache.can_share(model)
    ids = torch.randint(2, 300, (1, 30), generator=torch.Generator().manual_seed(2))
    scores = attribute(model, ids[0, :24].tolist(), ids[0, 24:].tolist()).scores

    def truth(prompt):
        whole = torch.tensor([[*prompt, *ids[0, 24:].tolist()]])
        log_probs = source(whole).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        return float(log_probs.gather(-1, ids[0, 24:, None]).mean())

    prompt = ids[0, :24].tolist()
    with torch.no_grad():
        expected = [truth(prompt) - truth(prompt[:i] + prompt[i + 1 :]) for i in range(24)]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-5, rtol=0)
