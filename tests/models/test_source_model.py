"""Scores on the source model equal those of transformers, one text at a time, and hooks are never passed over."""

import copy

import pytest
import torch

from tests.models.families import FAMILIES, hf_model
from tests.models.zoo import ZOO, zoo_model
from unpact_lens.attribution import attribute, attribute_many
from unpact_lens.attribution.scorer import Scorer
from unpact_lens.models import source_model as module
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.lens_version import HAS_HOOKED
from unpact_lens.models.packed_logits import packed_logits, tree_batches
from unpact_lens.models.source_model import source_model
from unpact_lens.models.token_tree import TokenTree
from unpact_lens.models.tokens import Encoded
from unpact_lens.scoring import score_rows

ELSEWHERE = {
    "bloom", "codegen", "cohere", "cohere2", "falcon", "falcon, ALiBi", "gpt_neo", "gpt_oss", "gptj",
    "hunyuan_v1_dense", "jamba", "lfm2", "mamba", "mpt", "xglm",
    *(() if HAS_HOOKED else ("opt",)),
}  # fmt: skip
"""Architectures that run through the hooked model, mostly because their attention cannot be replaced."""

QUICK = ("gpt2", "llama, Llama 3 positions", "gemma2", "gemma3_text", "granite", "gpt_neox", "opt", "olmo", "qwen3_moe")
"""Learned and rotary positions, soft-caps, windows, scaled logits, fused matrices, limited values, experts."""


def row(seed, prompt, answer, start=()):
    ids = torch.randint(2, 300, (prompt + answer,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Encoded((), (*start, *ids[:prompt]), (), tuple(ids[prompt:]), 0)


def rows():
    """Families with shared beginnings, beyond the windows of 7, and answers of two lengths."""
    first, second = row(0, 20, 3), row(1, 9, 5)
    deletions = [
        Encoded((), r.prompt[:i] + r.prompt[i + 1 :], (), r.answer, 0) for r in (first, second) for i in (0, 4, 8)
    ]
    return [first, second, *deletions, row(2, 6, 3, start=first.prompt[:11])]


def truth(hf, encoded):
    with torch.no_grad():
        log_probs = hf(torch.tensor([encoded.ids])).logits[0].float().log_softmax(-1)
    first = len(encoded.context) - 1
    return torch.stack([log_probs[first + k, token] for k, token in enumerate(encoded.answer)])


def bridge_of(name):
    hf = zoo_model(name)
    return hf, to_bridge(hf, None)


def check(name):
    hf, model = bridge_of(name)
    with torch.inference_mode():
        runs = source_model(model) is not None
    assert runs == (name not in ELSEWHERE)
    for batch_tokens in (40, 4096):
        for found, encoded in zip(score_rows(model, rows(), batch_tokens=batch_tokens), rows(), strict=True):
            torch.testing.assert_close(found, truth(hf, encoded), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", QUICK)
def test_scores_equal_those_of_transformers_one_text_at_a_time(name):
    check(name)


REFUSED = ("falcon, new", "apertus", "cohere", "cohere2", "hunyuan_v1_dense")
"""Architectures that have no bridge here, or whose bridge has wrong logits, so that `load_model` refuses it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ZOO if n not in QUICK and n not in REFUSED])
def test_scores_equal_those_of_transformers_for_every_architecture(name):
    check(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_leave_one_out_equals_a_plain_loop_over_examples_of_many_lengths(family):
    hf = hf_model(family)
    model = to_bridge(hf, None)
    pairs = [(list(r.prompt), list(r.answer)) for r in (row(3, 13, 4), row(4, 9, 4), row(5, 17, 2))]
    for found, (prompt, answer) in zip(attribute_many(model, pairs, progress=False), pairs, strict=True):
        whole = truth(hf, Encoded((), tuple(prompt), (), tuple(answer), 0))
        for i in range(len(prompt)):
            without = truth(hf, Encoded((), tuple(prompt[:i] + prompt[i + 1 :]), (), tuple(answer), 0))
            torch.testing.assert_close(found.per_answer_token[i], whole - without, atol=2e-5, rtol=0)


def test_hooks_of_the_user_act_on_scores():
    _, model = bridge_of("llama")
    plain = score_rows(model, rows())
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda act, hook: act * 0)]):
        changed = score_rows(model, rows())
        scored = attribute(model, list(range(5, 15)), [3, 4]).log_prob
    assert all(not torch.allclose(a, b) for a, b in zip(plain, changed, strict=True))
    assert scored != attribute(model, list(range(5, 15)), [3, 4]).log_prob
    for a, b in zip(plain, score_rows(model, rows()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "phi3", "llama"])
def test_changed_weights_are_seen_in_the_model_and_in_its_copies(name):
    """Fused matrices are brought up to date with the parts that are trained."""
    _, model = bridge_of(name)
    before = score_rows(model, rows())
    copied = clone(model)
    score_rows(copied, rows())
    with torch.no_grad():
        for i, weight in enumerate(p.data for p in copied.parameters() if p.requires_grad):
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
        expected = [truth_of_hooked(copied, r) for r in rows()]
    for found, want, old in zip(score_rows(copied, rows()), expected, before, strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=0)
        assert not torch.allclose(found, old, atol=1e-3)
    for found, old in zip(score_rows(model, rows()), before, strict=True):
        assert torch.equal(found, old)
    with torch.inference_mode():
        assert source_model(copied) is not None


def truth_of_hooked(model, encoded):
    log_probs = model(torch.tensor([encoded.ids]), return_type="logits")[0].log_softmax(-1)
    first = len(encoded.context) - 1
    return torch.stack([log_probs[first + k, token] for k, token in enumerate(encoded.answer)])


def test_a_replaced_module_is_not_passed_over():
    _, model = bridge_of("llama")
    plain = score_rows(model, rows())

    class Half(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **options):
            return self.inner(*args, **options) * 0.5

    model.original_model.model.norm = Half(model.original_model.model.norm)
    changed = score_rows(model, rows())
    assert not torch.allclose(torch.cat(plain), torch.cat(changed))
    for found, encoded in zip(changed, rows(), strict=True):
        torch.testing.assert_close(found, truth_of_hooked(model, encoded).detach(), atol=1e-5, rtol=0)


def test_in_double_precision_and_with_gradients_the_hooked_model_runs():
    _, model = bridge_of("gpt2")
    assert source_model(model) is None
    with torch.inference_mode():
        assert source_model(model) is not None
        assert source_model(model.to(torch.float64)) is None


def test_a_model_that_computes_something_else_is_found_out(monkeypatch):
    """Positions that are one too high give other logits on a model with learned positions."""
    _, model = bridge_of("gpt2")
    plain = module.run
    monkeypatch.setattr(module, "run", lambda source, attention, ids, places: plain(source, attention, ids, places + 1))
    with torch.inference_mode():
        assert source_model(model) is None


def test_a_tree_computes_each_beginning_once():
    tree = TokenTree()
    assert tree.add([1, 2, 3]) == (0, 1, 2)
    assert tree.add([1, 2, 9, 3]) == (0, 1, 3, 4)
    assert tree.add([1, 2]) == (0, 1)
    assert tree.add([1, 2, 9, 4]) == (0, 1, 3, 5)
    assert tree.places == [0, 1, 2, 2, 3, 3]


def test_batches_hold_at_most_the_given_number_of_tokens():
    texts = [[1, 2, 3, 4], [1, 2, 5], [6, 7, 8], [6, 7, 9], [5] * 20]
    batches = list(tree_batches(texts, 8))
    assert [members for members, *_ in batches] == [[0, 1, 2], [3], [4]]
    assert all(len(tree.tokens) <= 8 or len(members) == 1 for members, tree, _ in batches)


def test_few_logits_are_held_at_once(monkeypatch):
    from unpact_lens.models import packed_logits as packed

    _, model = bridge_of("qwen2")
    expected = score_rows(model, rows())
    monkeypatch.setattr(packed, "LOGITS_AT_ONCE", 320 * 6)
    with torch.inference_mode():
        source = source_model(model)
        for _, logits in packed_logits(model, source, rows(), 4096):
            assert logits[..., 0].numel() <= 6
    for a, b in zip(score_rows(model, rows()), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_prefix_is_computed_once_for_all_examples():
    _, model = bridge_of("llama")
    start = list(range(2, 60))
    families = [[row(seed, 4, 2, start=start) for _ in range(1)] for seed in range(6)]
    read = []
    plain = module.run_tree

    def counted(source, tree):
        read.append(len(tree.tokens))
        return plain(source, tree)

    from unpact_lens.models import packed_logits as packed

    original = packed.run_tree
    packed.run_tree = counted
    try:
        values = Scorer(model)(families)
    finally:
        packed.run_tree = original
    assert sum(read) <= len(start) + 6 * 5
    for (found,), (encoded,) in zip(values, families, strict=True):
        torch.testing.assert_close(found, truth_of_hooked(model, encoded).detach(), atol=1e-5, rtol=0)


def test_a_deep_copy_has_a_source_model_of_its_own():
    _, model = bridge_of("llama")
    score_rows(model, rows())
    copied = copy.deepcopy(model)
    with torch.inference_mode():
        assert source_model(copied).hf is not source_model(model).hf
