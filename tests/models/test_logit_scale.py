"""A factor behind the unembedding, and a limit on value vectors, count in lenses, references and decompositions."""

import pytest
import torch

from tests.models.families import tokenizer
from tests.models.zoo import zoo_model
from unpact_lens.decomposition.decompose import decompose
from unpact_lens.decomposition.lens import lens_curves
from unpact_lens.models import hooked
from unpact_lens.models.convert import to_bridge

IDS = torch.randint(2, 320, (1, 12), generator=torch.Generator().manual_seed(1))
PROMPT, ANSWER = IDS[0, :8].tolist(), IDS[0, 8:].tolist()


@pytest.mark.parametrize(
    ("name", "factor"), [("granite", 1 / 4), ("granitemoe", 1 / 4), ("cohere", 1 / 4), ("llama", 1)]
)
def test_the_final_residual_is_read_as_the_model_reads_it(name, factor):
    model = to_bridge(zoo_model(name), tokenizer())
    assert hooked.logit_scale(model) == factor
    with torch.inference_mode():
        logits = model(IDS, return_type="logits")
        read = hooked.unembed(model, hooked.final_residual(model, IDS))
        weight, bias = hooked.unembedding(model)
        by_hand = model.ln_final(hooked.final_residual(model, IDS)) @ weight + (0 if bias is None else bias)
    torch.testing.assert_close(read, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_hand, logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["granite", "granitemoe"])
def test_the_last_layer_of_the_lens_is_the_log_probability_of_the_source_model(name):
    source = zoo_model(name)
    curves = lens_curves(to_bridge(source, tokenizer()), PROMPT, ANSWER)
    expected = source(IDS).logits.log_softmax(-1)[0, 7:11].gather(-1, torch.tensor(ANSWER)[:, None])[:, 0]
    torch.testing.assert_close(curves.log_prob[-1], expected, atol=1e-5, rtol=0)


def test_a_scaled_model_without_other_factors_decomposes():
    model = to_bridge(zoo_model("granite", residual_multiplier=1.0), tokenizer())
    found = decompose(model, PROMPT, ANSWER, by="component")
    total = model(IDS, return_type="logits")[0, 7:11].gather(-1, torch.tensor(ANSWER)[:, None])[:, 0]
    torch.testing.assert_close(found.total, total, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.values.sum(0) + found.remainder.sum(0), total, atol=1e-4, rtol=0)


@pytest.mark.parametrize("limit", [None, 0.4])
def test_heads_by_source_token_sum_to_the_head_under_limited_values(limit):
    model = to_bridge(zoo_model("olmo", clip_qkv=limit), tokenizer())
    values = []
    model.run_with_hooks(IDS, fwd_hooks=[("blocks.0.attn.hook_v", lambda act, hook: values.append(act))])
    assert limit is None or bool((values[0].abs() > limit).any())
    heads = decompose(model, PROMPT, ANSWER, by="head")
    sources = decompose(model, PROMPT, ANSWER, by="source")
    torch.testing.assert_close(sources.values.sum(2), heads.values, atol=1e-5, rtol=0)
