"""Put one model's activations into the other: where does the forgotten answer come back?

Exact patching runs the recipient once for each place. Attribution patching replaces all those runs by one gradient, to
first order: (donor − own activation) · ∂LP/∂activation. Its error against the exact runs is reported where asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import DIRECTIONS, donor_and_recipient, floor_of, require_comparable
from unpact_lens.comparison.result import PatchingMap
from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.intervene import activations, answer_log_probs, replaced_one_at_a_time
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.tokens import Encoded, Text, encode, token_strings
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS, gather_log_probs


@dataclass(frozen=True)
class Place:
    """What a patch replaces.

    Attributes:
        hook: the activation of a block.
        columns: `"position"`: one patch a layer and position; `"head"`: one a layer and head, at every position;
            `"all"`: one a layer, at every position.
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
"""What can be patched. A head is its output before `W_O`, which stays the recipient's."""
METHODS = ("exact", "gradient")


def patch(
    before: Any,
    after: Any,
    prompt: Text,
    answer: Text,
    *,
    what: str = "resid_pre",
    direction: str = "before_into_after",
    method: str = "exact",
    check: bool = False,
    floor: Sequence[Any] | None = None,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> PatchingMap:
    """Patch activations of one model into the other, place by place, and score the answer.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        what: by layer × position `"resid_pre"`, `"resid_post"`, `"attn_out"`, `"mlp_out"`; by layer × head `"head"`;
            by layer, at every position, `"attn"`, `"mlp"`, `"layer"` (the residual stream).
        direction: which model's activations go into which.
        method: `"exact"`, or `"gradient"`: all places from one forward and one backward pass, to first order.
        check: with `"gradient"`, also run the exact patches and report the error.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text): the first one's activations into the second, or the reverse. Changes are compared in nats; the share
            of a gap that is itself noise says nothing.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Raises:
        InputError: if an option is unknown, the models are not comparable, or for any input that `encode` refuses.

    Source: Meng et al. 2022, arXiv 2202.05262 (causal tracing); Nanda 2023, Attribution patching.
    """
    for name, value, known in (
        ("what", what, PLACES),
        ("direction", direction, DIRECTIONS),
        ("method", method, METHODS),
    ):
        if value not in known:
            raise InputError(f"{name}={value!r}; {nearest(str(value), known)}")
    require_comparable(before, after)
    noise = None if floor is None else floor_of(before, floor)
    place = PLACES[what]
    if place.hook == "hook_mlp_out" and not linear_parts.has_mlp(before):
        raise InputError(f"what={what!r}, but the models have no MLPs (cfg.attn_only=True)")
    donor, recipient = donor_and_recipient(before, after, direction)
    example = encode(before, prompt, answer, chat=chat, prefill=prefill)
    names = [f"blocks.{layer}.{place.hook}" for layer in range(before.cfg.n_layers)]
    given = activations(donor, example, names)
    columns = _columns(before, example, place)
    exact = approximate = None
    if method == "exact" or check:
        places = list(product(names, columns.values()))
        runs = replaced_one_at_a_time(recipient, example, given, places, batch_tokens=batch_tokens).mean(-1)
        baseline, exact = runs[0], runs[1:].reshape(len(names), len(columns))
    else:
        baseline = answer_log_probs(recipient, example, [[]]).mean()
    if method == "gradient":
        approximate = baseline + _first_order(recipient, example, names, given, list(columns.values())).cpu()
    log_prob = exact if approximate is None else approximate
    assert log_prob is not None
    beside = None
    if noise is not None:
        beside = patch(
            *noise, prompt, answer, what=what, direction=direction, method=method, check=check, chat=chat,
            prefill=prefill, batch_tokens=batch_tokens,
        )  # fmt: skip
    return PatchingMap(
        log_prob=log_prob,
        labels=(tuple(f"L{layer}" for layer in range(before.cfg.n_layers)), tuple(columns)),
        baseline=float(baseline),
        donor=float(answer_log_probs(donor, example, [[]]).mean()),
        what=what,
        direction=direction,
        prompt=text_of(before, prompt),
        answer=text_of(before, answer),
        tokens=token_strings(before, example.ids[:-1]),
        method=method,
        error=exact - approximate if exact is not None and approximate is not None else None,
        floor=beside,
    )


def _columns(model: Any, example: Encoded, place: Place) -> dict[str, tuple[Any, ...]]:
    """Label and index, within an activation `[pos, ...]`, of each column of the map."""
    if place.columns == "head":
        return {f"H{h}": (slice(None), h) for h in range(model.cfg.n_heads)}
    if place.columns == "all":
        return {"all positions": (slice(None),)}
    return {f"{token}_{i}": (i,) for i, token in enumerate(token_strings(model, example.ids[:-1]))}


def _first_order(
    model: Any,
    example: Encoded,
    names: Sequence[str],
    given: dict[str, Tensor],
    columns: Sequence[tuple[Any, ...]],
) -> Float[Tensor, "row column"]:
    """Change of the mean log-probability by each patch, nats, to first order in the change of the activation."""
    gradients = gradients_at(model, example, names)
    # By the same way as the given ones, so that equal models differ by exactly 0.
    own = activations(model, example, names)
    cells = [
        ((given[name][index] - own[name][index]) * gradients[name][index]).sum()
        for name, index in product(names, columns)
    ]
    return torch.stack(cells).reshape(len(names), len(columns))


def gradients_at(model: Any, example: Encoded, names: Sequence[str]) -> dict[str, Tensor]:
    """The gradient of LP(x, y), nats, with respect to the activation at each named hook, without the batch axis."""
    tokens = torch.tensor([example.ids[:-1]], device=hooked.device_of(model))
    positions = len(example.context) - 1 + torch.arange(len(example.answer), device=tokens.device)
    taken: dict[str, Tensor] = {}
    first = "blocks.0.hook_resid_pre"

    def take(act: Tensor, hook: Any, *, name: str) -> Tensor:
        # The first residual stream is made a leaf, so that frozen weights have gradients behind them too.
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
