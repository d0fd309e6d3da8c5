"""Every family that TransformerLens converts becomes a `HookedTransformer` that computes and trains as its source."""

import pytest
import torch

from tests.models.families import tokenizer
from tests.models.zoo import ZOO, zoo_model
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, load_checkpoint, model_hash, save_model
from unpact_lens.models.convert import to_hooked
from unpact_lens.models.hooked_families import FAMILIES
from unpact_lens.models.tied_embedding import TiedEmbedding

pytestmark = pytest.mark.hooked

IDS = torch.randint(2, 320, (2, 20), generator=torch.Generator().manual_seed(1))
CONVERTED = (
    "apertus", "bloom", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "llama",
    "llama, Llama 3 positions", "mistral", "mixtral", "olmo", "olmo3", "olmoe", "opt", "phi", "phi3", "qwen2", "qwen3",
)  # fmt: skip


def loss(logits):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


UNGROUPED = ("olmo2", {"num_key_value_heads": 4})
"""OLMo 2 as its public models are; with grouped keys and values it is refused."""


@pytest.mark.parametrize(("name", "changes"), [*((name, {}) for name in CONVERTED), UNGROUPED])
def test_logits_and_trained_weights_equal_those_of_the_source_model(name, changes):
    source = zoo_model(name, **changes)
    before = [p.requires_grad for p in source.parameters()]
    model = to_hooked(source, tokenizer())
    assert [p.requires_grad for p in source.parameters()] == before
    torch.testing.assert_close(model(IDS), source(IDS).logits, atol=2e-5, rtol=0)
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    tied = TiedEmbedding(model, params)
    ours, theirs = (torch.optim.SGD(p, lr=0.02) for p in (tied.distinct(params), list(source.parameters())))
    for _ in range(3):
        loss(model(IDS)).backward()
        tied.fold_gradient()
        ours.step()
        tied.copy_weight()
        loss(source(IDS).logits).backward()
        theirs.step()
        ours.zero_grad()
        theirs.zero_grad()
    torch.testing.assert_close(model(IDS), source(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["gemma", "gptj", "phi", "olmo", "mixtral"])
def test_saved_models_and_clones_keep_shared_weights_and_constants(name, tmp_path):
    model = to_hooked(zoo_model(name), tokenizer())
    for other in (load_checkpoint(save_model(model, tmp_path / "m")), clone(model)):
        assert model_hash(other) == model_hash(model)
        assert torch.equal(other(IDS), model(IDS))
        assert other.embedding_scale == model.embedding_scale
        assert (other.blocks[0].ln1.w is other.blocks[0].ln2.w) is (name in ("gptj", "phi"))
        assert {n for n, p in other.named_parameters() if p.requires_grad} == {
            n for n, p in model.named_parameters() if p.requires_grad
        }


def test_constants_of_the_conversion_are_not_trained():
    model = to_hooked(zoo_model("olmo"), tokenizer())
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {"blocks.0.ln1.w", "ln_final.w", "blocks.1.attn.b_Q", "unembed.b_U"} <= frozen


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("olmo2", {}, "olmo2 model with grouped keys and values cannot become a HookedTransformer with equal logits"),
        ("opt, projected", {}, "opt model with norms after each layer cannot become a HookedTransformer"),
        ("phi3, LongRoPE", {}, "phi3 model with rotary positions of type 'longrope' cannot become"),
        (
            "bloom",
            {"apply_residual_connection_post_layernorm": True},
            "bloom model with residual streams after the norm",
        ),
        ("stablelm", {}, 'StableLmForCausalLM cannot become a HookedTransformer; .*wrap="bridge"'),
    ],
)
def test_refusals_name_the_reason_and_point_to_the_bridge(name, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        to_hooked(zoo_model(name, **changes), None)
    assert 'wrap="bridge"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_weight_without_a_place_is_refused():
    source = zoo_model("gpt2")
    source.extra = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(InputError, match=r"weight extra has no place in a HookedTransformer of this GPT2LMHeadModel"):
        to_hooked(source, None)


@pytest.mark.parametrize("folder", ["llama", "gemma-2-2b", "meta-llama-7b"])
def test_the_name_of_the_temporary_directory_does_not_matter(folder, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / folder))
    source = zoo_model("qwen3")
    torch.testing.assert_close(to_hooked(source, None)(IDS), source(IDS).logits, atol=2e-5, rtol=0)


def test_every_converted_architecture_is_in_the_zoo():
    built = {type(zoo_model(name)).__name__ for name in ZOO}
    assert set(FAMILIES) <= built
