"""A hook that fires without effect is found on every architecture, and the intervention that needs it is refused."""

import itertools

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import FAMILIES, UNCOMMON, hf_model, tokenizer, uncommon_hf_model
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import ACTING, inert_hooks, require_acting_hooks
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.convert import to_bridge

PARTS = (
    "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z",
    "hook_attn_out", "hook_mlp_out", "hook_resid_pre", "hook_resid_post", "ln1.hook_scale",
)  # fmt: skip
RECORDED_ONLY = {"gpt_neo", "gptj", "opt"}
"""Architectures whose attention runs in Hugging Face's own code: the bridge records its pattern, or not even that."""


def bridge(family):
    made = uncommon_hf_model(family) if family in UNCOMMON else hf_model(family)
    return to_bridge(made, tokenizer())


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("family", [*FAMILIES, *UNCOMMON])
def test_a_hook_is_called_inert_exactly_if_zeros_there_leave_all_logits_as_they_are(family):
    model = bridge(family)
    names = [f"blocks.1.{part}" for part in PARTS if f"blocks.1.{part}" in hooked.hook_points(model)]
    tokens = torch.randint(320, (2, 9), generator=torch.Generator().manual_seed(3))
    plain = model(tokens, return_type="logits")

    def acts(name):
        doubled = lambda act, hook: 2 * act + 0.1 * (~torch.isinf(act) & (act > -1e30))  # noqa: E731
        return not torch.equal(model.run_with_hooks(tokens, fwd_hooks=[(name, doubled)], return_type="logits"), plain)

    expected = tuple(name for name in names if not acts(name))
    assert inert_hooks(model, names) == expected
    assert bool(expected) is (family in RECORDED_ONLY)


def test_no_hook_of_a_hooked_transformer_is_inert(style):
    model = tiny(style, attn_only=False)
    names = [f"blocks.{layer}.{part}" for layer, part in itertools.product(range(3), PARTS)]
    assert inert_hooks(model, [n for n in names if n in hooked.hook_points(model)]) == ()


def test_a_layer_whose_attention_is_not_read_is_not_called_inert():
    model = tiny()
    with torch.no_grad():
        model.blocks[1].attn.W_O.zero_()
    assert inert_hooks(model, [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]) == ()


def test_a_hook_whose_result_is_dropped_is_found_in_one_layer_of_three():
    model = tiny()
    model.blocks[1].attn.hook_pattern.forward = lambda x: (torch.nn.Module.__call__(torch.nn.Identity(), x), x)[1]
    model.blocks[1].attn.hook_pattern.add_hook = lambda *args, **kwargs: None
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    assert inert_hooks(model, names) == (names[1],)


def test_the_check_changes_no_weight_and_no_output_and_is_kept_with_copies():
    model, tokens = tiny(), torch.arange(6)[None]
    plain, state = model(tokens), torch.get_rng_state()
    require_acting_hooks(model, ["blocks.0.attn.hook_z"], feature="x", remedy="y")
    assert torch.equal(model(tokens), plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(clone(model))[ACTING] == {"blocks.0.attn.hook_z": True}


def test_the_message_names_feature_hook_architecture_and_remedy():
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(2)]
    with pytest.raises(
        InputError,
        match=r"^probe 'attention' would do nothing on this GPTNeoForCausalLM: changing "
        r"'blocks\.0\.attn\.hook_pattern' and 1 more changes no output; leave it out$",
    ):
        require_acting_hooks(bridge("gpt_neo"), names, feature="probe 'attention'", remedy="leave it out")
    with pytest.raises(InputError, match=r"no hook 'blocks\.0\.attn\.hook_patern'; did you mean"):
        inert_hooks(tiny(), ["blocks.0.attn.hook_patern"])
