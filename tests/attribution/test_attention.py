"""Attention methods equal their definitions, computed by other means."""

import pytest
import torch

from tests.attribution.test_leave_one_out import random_ids
from tests.attribution.test_perturbation import pair
from tests.conftest import tiny
from unpact_lens.attribution import attribute
from unpact_lens.attribution.alti_logit import alti_matrices
from unpact_lens.attribution.mixing import rows_to_shares
from unpact_lens.decomposition import decompose
from unpact_lens.errors import InputError

PROMPT, ANSWER = random_ids(7), [4, 2, 9]
IDS = torch.tensor([[*PROMPT, *ANSWER[:-1]]])
AT = [len(PROMPT) - 1 + k for k in range(len(ANSWER))]


def product(matrices):
    total = torch.eye(len(matrices[0]), dtype=matrices[0].dtype)
    for m in matrices:
        total = m @ total
    return total


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_rollout_equals_the_product_of_hugging_face_attentions(wrap):
    hf, model = pair("llama", wrap)
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        layers = [a[0].mean(0) for a in hf(IDS, output_attentions=True).attentions]
    expected = product([(a + torch.eye(len(a))) / 2 for a in layers])[AT].T[: len(PROMPT)]
    a = attribute(model, PROMPT, ANSWER, method="attention_rollout")
    torch.testing.assert_close(a.per_answer_token, expected.to(a.scores), atol=1e-6, rtol=0)
    assert a.target == "attention share"


def test_rollout_shares_sum_to_one_over_all_units(model64):
    a = attribute(model64, PROMPT, ANSWER, method="attention_rollout", units=[(0, 3), (3, 7)])
    # The first answer token is predicted from the prompt alone.
    assert a.per_answer_token[:, 0].sum().item() == pytest.approx(1, abs=1e-12)
    assert (a.per_answer_token[:, 1:].sum(0) < 1).all()


def test_value_zeroing_equals_its_definition(model64):
    matrices = []
    for layer in range(model64.cfg.n_layers):
        name = f"blocks.{layer}.hook_resid_post"
        _, cache = model64.run_with_cache(IDS, names_filter=name)
        rows = torch.zeros(IDS.shape[1], IDS.shape[1], dtype=torch.float64)
        for i in range(IDS.shape[1]):

            def zero(v, hook, i=i):
                v[:, i] = 0
                return v

            with model64.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_v", zero)]):
                _, other = model64.run_with_cache(IDS, names_filter=name)
            rows[:, i] = 1 - torch.cosine_similarity(cache[name][0], other[name][0], dim=-1)
        matrices.append(rows / rows.sum(1, keepdim=True))
    a = attribute(model64, PROMPT, ANSWER, method="value_zeroing", batch_tokens=25)
    torch.testing.assert_close(a.per_answer_token, product(matrices)[AT].T[: len(PROMPT)].detach(), atol=1e-10, rtol=0)


def test_alti_vectors_equal_what_each_source_adds_alone(model64):
    """With one source left in the pattern, what the attention adds, but for its bias, is that source's part."""
    matrices = alti_matrices(model64, IDS)
    n = IDS.shape[1]
    for layer, found in enumerate(matrices):
        resid, out = f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.hook_attn_out"
        parts = []
        for j in range(n):

            def only(pattern, hook, j=j):
                kept = torch.zeros_like(pattern)
                kept[..., j] = pattern[..., j]
                return kept

            with model64.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", only)]):
                _, cache = model64.run_with_cache(IDS, names_filter=[resid, out])
            parts.append(cache[out][0] - model64.blocks[layer].attn.b_O)
        vectors = torch.stack(parts, dim=1)
        vectors[range(n), range(n)] += cache[resid][0]
        whole = vectors.sum(1, keepdim=True)
        near = (whole.abs().sum(-1) - (whole - vectors).abs().sum(-1)).clamp(min=0).tril()
        expected = (near / near.sum(1, keepdim=True)).detach()
        torch.testing.assert_close(found.detach(), expected, atol=1e-10, rtol=0)


def test_alti_logit_sums_to_the_attention_and_embedding_contributions(model64):
    a = attribute(model64, PROMPT, ANSWER, method="alti_logit")
    moved = decompose(model64, PROMPT, ANSWER, by="source").values.sum((0, 1, 2))
    parts = decompose(model64, PROMPT, ANSWER, by="component")
    start = sum(parts.values[parts.labels[0].index(name)] for name in ("embed", "pos_embed") if name in parts.labels[0])
    # Mixing rows sum to 1, so nothing is lost on the way; the first answer token is predicted from the prompt alone.
    torch.testing.assert_close(a.per_answer_token[:, 0].sum(), (moved + start)[0], atol=1e-10, rtol=0)


def test_ov_equals_the_source_view_summed_over_heads(model64):
    a = attribute(model64, PROMPT, ANSWER, method="ov", units=[(0, 2), (2, 3)])
    values = decompose(model64, PROMPT, ANSWER, by="source").values.sum((0, 1))
    torch.testing.assert_close(a.per_answer_token[0], values[:2].sum(0), atol=1e-10, rtol=0)
    torch.testing.assert_close(a.per_answer_token[1], values[2], atol=1e-10, rtol=0)
    assert a.target == "logit"


def test_a_row_of_zeros_is_assigned_to_its_own_position():
    shares = rows_to_shares(torch.tensor([[0.0, 0.0], [3.0, 1.0]]))
    assert shares.tolist() == [[1.0, 0.0], [0.75, 0.25]]


@pytest.mark.parametrize("method", ["attention_rollout", "value_zeroing", "alti_logit", "ov"])
def test_methods_with_a_fixed_target_refuse_another(method):
    with pytest.raises(InputError, match=f"method '{method}' attributes the .* and cannot take target='prob'"):
        attribute(tiny(), PROMPT, ANSWER, method=method, target="prob")
