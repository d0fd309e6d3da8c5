"""Put one model's activations into the other, place by place, and score the answer.

Exact patching runs the recipient once per place. Attribution patching replaces all those runs by one gradient, to first
order: (donor − own activation) · ∂LP/∂activation. On request it reports its error against the exact runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.comparison.model_pair import DIRECTIONS, ModelPair
from unpact_lens.comparison.patching_map import PatchingMap
from unpact_lens.comparison.question import Question
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.intervene import activations, answer_log_probs, replaced_one_at_a_time
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.same_weights import same_weights
from unpact_lens.models.tokens import Encoded, Text, token_strings
from unpact_lens.scoring import gather_log_probs

Index = tuple[Any, ...]
"""Index in an activation, without the batch axis."""


@dataclass(frozen=True)
class Place:
    """Hold where a patch goes.

    Attributes:
        hook: Activation of a block.
        columns: `"position"`: one patch per layer and position; `"head"`: one per layer and head, at every position;
            `"all"`: one per layer, at every position.
    """

    hook: str
    columns: str


PLACES = {
    "resid_pre": Place("hook_resid_pre", "position"),
    "resid_post": Place("hook_resid_post", "position"),
    "attn_out": Place("hook_attn_out", "position"),
    "mlp_out": Place("hook_mlp_out", "position"),
    "head": Place("attn.hook_z", "head"),
    "attn": Place("hook_attn_out", "all"),
    "mlp": Place("hook_mlp_out", "all"),
    "layer": Place("hook_resid_post", "all"),
}
"""Places that can be patched. A head is its output before `W_O`; `W_O` stays the recipient's."""
METHODS = ("exact", "gradient")


@dataclass(frozen=True)
class Patching:
    """Hold what is patched and how; see `patch`.

    Raises:
        InputError: If an option is unknown.
    """

    what: str = "resid_pre"
    direction: str = "before_into_after"
    method: str = "exact"
    check: bool = False
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, known in (("what", PLACES), ("direction", DIRECTIONS), ("method", METHODS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name}={value!r}; {nearest(str(value), known)}")
        if self.heads is not None and PLACES[self.what].columns != "head":
            raise InputError(f"heads={self.heads!r} with what={self.what!r}; give what='head', or leave out heads=")


def patch(
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA,
    answer: Text | None = None,
    *,
    what: str = "resid_pre",
    direction: str = "before_into_after",
    method: str = "exact",
    check: bool = False,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    floor: Sequence[HookedModel] | None = None,
    **asking: Unpack[AskingOptions],
) -> PatchingMap:
    """Patch activations of one model into the other, place by place, and score the answer.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        prompt: Text or ids; or a `QA`, which holds its answer.
        answer: Text, leading space included, or ids.
        what: Place. By layer × position: `"resid_pre"`, `"resid_post"`, `"attn_out"`, `"mlp_out"`; by layer × head:
            `"head"`; by layer, at every position: `"attn"`, `"mlp"`, `"layer"` (the residual stream).
        direction: Which model gives its activations to the other.
        method: `"exact"`, or `"gradient"`: all places from one forward and one backward pass, to first order.
        check: With `"gradient"`, also run the exact patches and report the error.
        layers: Layers to patch, from 0. If None, all. One head is one forward pass:
            `patch(..., what="head", layers=[5], heads=[2])`.
        heads: Heads to patch, with `what="head"`. If None, all.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text), patched in the same direction. Compare changes in nats; a share of a gap
            that is itself noise is meaningless.
        **asking: `chat`, `prefill` and `batch_tokens`; see `AskingOptions`.

    Raises:
        InputError: If an option is unknown, a layer or head does not exist, the models are not comparable, changing
            such an activation changes no output, the models differ and none of these activations does, or for any input
            that `encode` refuses.

    Source: Meng et al. 2022, arXiv 2202.05262 (causal tracing); Nanda 2023, Attribution patching.
    """
    patching = Patching(what, direction, method, check, layers, heads)
    asked = Asking(**asking)
    return patch_of_pair(ModelPair.of(before, after, floor=floor), Question.of(prompt, answer), patching, asked)


def patch_of_pair(pair: ModelPair, question: Question, patching: Patching, asked: Asking) -> PatchingMap:
    """Patch one question place by place; see `patch`."""
    before, place = pair.before, PLACES[patching.what]
    if place.hook == "hook_mlp_out" and not linear_parts.has_mlp(before):
        raise InputError(f"what={patching.what!r}, but the models have no MLPs (cfg.attn_only=True)")
    donor, recipient = pair.donor_and_recipient(patching.direction)
    example = asked.encode(before, question.prompt, question.answer)
    layers, columns = _chosen(patching.layers, before.cfg.n_layers, "layers"), _columns(before, example, patching)
    names = [f"blocks.{layer}.{place.hook}" for layer in range(before.cfg.n_layers)]
    require_acting_hooks(
        recipient, names, feature=f"patch(what={patching.what!r})", remedy="choose another place, e.g. what='resid_pre'"
    )
    given, own = activations(donor, example, names), activations(recipient, example, names)
    if all(torch.equal(given[name], own[name]) for name in names) and not same_weights(donor, recipient):
        raise InputError(
            f"what={patching.what!r} changes nothing: these activations are equal in the two models, so unlearning "
            "changed only what comes after them; choose another place, or graft_map"
        )
    names = [names[layer] for layer in layers]
    given, own = ({name: side[name] for name in names} for side in (given, own))
    exact = approximate = None
    if patching.method == "exact" or patching.check:
        places = list(product(names, columns.values()))
        runs = replaced_one_at_a_time(recipient, example, given, places, batch_tokens=asked.batch_tokens).mean(-1)
        baseline, exact = runs[0], runs[1:].reshape(len(names), len(columns))  # [layer, column]
    else:
        baseline = answer_log_probs(recipient, example, [[]]).mean()
    if patching.method == "gradient":
        approximate = baseline + _first_order(recipient, example, given, own, list(columns.values())).cpu()
    log_prob = exact if approximate is None else approximate
    assert log_prob is not None
    found = PatchingMap(
        log_prob=log_prob,
        labels=(tuple(f"L{layer}" for layer in layers), tuple(columns)),
        baseline=float(baseline),
        donor=float(answer_log_probs(donor, example, [[]]).mean()),
        what=patching.what,
        direction=patching.direction,
        prompt=text_of(before, question.prompt),
        answer=text_of(before, question.answer),
        tokens=token_strings(before, example.ids[:-1]),
        method=patching.method,
        error=exact - approximate if exact is not None and approximate is not None else None,
        id=question.id,
        subject=question.subject,
    )
    if pair.noise is None:
        return found
    return replace(found, floor=patch_of_pair(pair.noise, question, patching, asked))


def require_places_in_all_prompts(what: str) -> None:
    """Refuse a place that goes by position, over questions whose prompts differ in length.

    Raises:
        InputError: Naming the places that all prompts have.
    """
    if what in PLACES and PLACES[what].columns == "position":
        everywhere = ", ".join(repr(name) for name, place in PLACES.items() if place.columns != "position")
        raise InputError(
            f"what={what!r} goes by position, and prompts differ in length; over a data set: {everywhere}. "
            "For one question: patch()"
        )


def _chosen(places: Sequence[int] | None, count: int, name: str) -> list[int]:
    """Return the layers or heads that were asked for; all if None.

    Raises:
        InputError: If there are none, one does not exist, or one is given twice.
    """
    if places is None:
        return list(range(count))
    chosen = list(places)
    if not chosen or not all(type(p) is int and 0 <= p < count for p in chosen) or len(set(chosen)) < len(chosen):
        raise InputError(f"{name}={places!r}; give different whole numbers from 0 to {count - 1}, or leave it out")
    return chosen


def _columns(model: HookedModel, example: Encoded, patching: Patching) -> dict[str, Index]:
    """Map each column's label to its index in an activation `[pos, ...]`."""
    columns = PLACES[patching.what].columns
    if columns == "head":
        return {f"H{h}": (slice(None), h) for h in _chosen(patching.heads, model.cfg.n_heads, "heads")}
    if columns == "all":
        return {"all positions": (slice(None),)}
    return {f"{token}_{i}": (i,) for i, token in enumerate(token_strings(model, example.ids[:-1]))}


def _first_order(
    model: HookedModel,
    example: Encoded,
    given: dict[str, Tensor],
    own: dict[str, Tensor],
    columns: Sequence[Index],
) -> Float[Tensor, "row column"]:
    """Compute the change of the mean log-probability by each patch, nats, to first order in the activation's change."""
    names = list(given)
    gradients = gradients_at(model, example, names)
    cells = [
        ((given[name][index] - own[name][index]) * gradients[name][index]).sum()
        for name, index in product(names, columns)
    ]
    return torch.stack(cells).reshape(len(names), len(columns))  # [layer, column]


def gradients_at(model: HookedModel, example: Encoded, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute the gradient of LP(x, y), nats, by the activation at each named hook, without the batch axis."""
    tokens = torch.tensor([example.ids[:-1]], device=hooked.device_of(model))
    positions = len(example.context) - 1 + torch.arange(len(example.answer), device=tokens.device)
    taken: dict[str, Tensor] = {}
    first = "blocks.0.hook_resid_pre"

    def take(act: Tensor, hook: Any, *, name: str) -> Tensor:
        # The first residual stream becomes a leaf, so that gradients flow even if all weights are frozen.
        taken[name] = act.detach().clone().requires_grad_() if name == first else act.clone()
        return taken[name]

    hooks: list[tuple[str, Callable[..., Tensor]]] = [
        (name, functools.partial(take, name=name)) for name in dict.fromkeys([first, *names])
    ]
    with torch.enable_grad():
        logits = hooked.read_out_at(model, tokens, lambda resid: resid[:, positions], hooks)
        score = gather_log_probs(logits, torch.tensor([example.answer], device=tokens.device)).mean()
        gradients = torch.autograd.grad(score, [taken[name] for name in names])
    return {name: gradient[0] for name, gradient in zip(names, gradients, strict=True)}
