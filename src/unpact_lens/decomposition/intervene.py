"""Run an example with some of its activations replaced; ablation, patching and path effects are built on this."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition import linear_parts
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.memory import batch_tokens_for
from unpact_lens.models.tokens import Encoded
from unpact_lens.scoring import gather_log_probs

T = TypeVar("T")


@dataclass(frozen=True)
class Edit:
    """Hold one replacement in one activation.

    Attributes:
        hook: Hook name of the activation.
        index: Index into it, without the batch axis: `(slice(None), 2)` is head 2 of `hook_z` at every position.
        value: New value: a number, or a tensor of the shape of the indexed part.
    """

    hook: str
    index: tuple[Any, ...]
    value: Tensor | float


def activations(model: HookedModel, example: Encoded, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the named activations of one unedited run, without the batch axis.

    Raises:
        InputError: If the model has no hook of that name, or the hook is never called (fused attention).
    """
    known = hooked.hook_points(model)
    for name in names:
        if name not in known:
            raise InputError(f"the model has no hook {name!r}; names are spelled as in TransformerLens")
    tokens = torch.tensor([example.ids[:-1]], device=hooked.device_of(model))
    with torch.no_grad():
        taken = hooked.collect(model, tokens, list(names))
    for name in names:
        if name not in taken:
            raise InputError(f"hook {name!r} gave nothing; boot the model with attn_implementation='eager'")
    return {name: act[0] for name, act in taken.items()}


def answer_logits(
    model: HookedModel,
    example: Encoded,
    rows: Sequence[Sequence[Edit]],
    *,
    capped: bool = True,
    batch_tokens: int | None = None,
) -> Float[Tensor, "row answer d_vocab"]:
    """Compute the logits at the answer's positions for each set of edits.

    Args:
        model: Hooked causal model; it is not changed.
        example: Prompt and answer.
        rows: One set of edits for each run; an empty set is the unedited run.
        capped: Whether a final soft-cap is applied, as in the model's own output.
        batch_tokens: Largest number of input tokens in one forward pass.

    Raises:
        InputError: If changing an edited activation changes no output of this model.
    """
    return torch.cat(
        [_run(model, example, chunk, capped) for chunk in chunks(model, rows, len(example.ids) - 1, batch_tokens)]
    )


def answer_log_probs(
    model: HookedModel, example: Encoded, rows: Sequence[Sequence[Edit]], *, batch_tokens: int | None = None
) -> Float[Tensor, "row answer"]:
    """Compute log p of each answer token, nats, for each set of edits; see `answer_logits`."""
    found = []
    for chunk in chunks(model, rows, len(example.ids) - 1, batch_tokens):
        logits = _run(model, example, chunk, True)
        labels = torch.tensor(example.answer, device=logits.device).expand(len(chunk), -1)
        found.append(gather_log_probs(logits, labels).cpu())
    return torch.cat(found)


def replaced_one_at_a_time(
    model: HookedModel,
    example: Encoded,
    given: Mapping[str, Tensor],
    places: Sequence[tuple[str, tuple[Any, ...]]],
    *,
    batch_tokens: int | None = None,
) -> Float[Tensor, "row answer"]:
    """Compute log p of each answer token, first unedited, then with the given activation at one place at a time; nats.

    A place is not run if the model's own activation equals the given one bitwise: its effect is exactly 0. Batched
    kernels would only come close to 0.

    Args:
        model: Hooked causal model; it is not changed.
        example: Prompt and answer.
        given: Activations by hook name, without the batch axis.
        places: Hook name, and index into its activation (see `Edit.index`).
        batch_tokens: Largest number of input tokens in one forward pass.
    """
    own = activations(model, example, list(given))
    differs = torch.tensor([not torch.equal(own[name][index], given[name][index]) for name, index in places])
    edits = [[Edit(*place, given[place[0]][place[1]])] for place, run in zip(places, differs, strict=True) if run]
    found = answer_log_probs(model, example, [[], *edits], batch_tokens=batch_tokens)
    values = found[:1].repeat(1 + len(places), 1)  # [1 + place, answer]
    values[1:][differs] = found[1:]
    return values


def chunks(model: HookedModel, rows: Sequence[T], length: int, batch_tokens: int | None) -> list[Sequence[T]]:
    """Cut rows into batches of at most `batch_tokens` tokens, with at least one row each.

    Args:
        model: Model that will run.
        rows: What is cut.
        length: Number of tokens of each row.
        batch_tokens: Largest number of tokens of a batch. If None, it is chosen from the free memory.

    Raises:
        InputError: If `batch_tokens` is not a positive whole number.
    """
    size = max(1, batch_tokens_for(model, batch_tokens, length) // length)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def hold(model: HookedModel, example: Encoded, acts: Mapping[str, Tensor], names: Sequence[str]) -> list[Edit]:
    """Return the edits that freeze the named activations at the values of an earlier run of the same example.

    On some models, `ln_final` sees the answer's positions only; its scale is then cut to them.
    """
    cut = hooked.readout_hook(model) == hooked.final_hook(model)
    rows = slice(-len(example.answer), None) if cut else slice(None)
    return [Edit(name, (), acts[name][rows] if name.startswith("ln_final.") else acts[name]) for name in names]


def _run(
    model: HookedModel, example: Encoded, rows: Sequence[Sequence[Edit]], capped: bool
) -> Float[Tensor, "row answer d_vocab"]:
    """Run one batch, each row under its own edits."""
    device = hooked.device_of(model)
    tokens = torch.tensor([example.ids[:-1]], device=device).expand(len(rows), -1)  # [row, pos]
    positions = len(example.context) - 1 + torch.arange(len(example.answer), device=device)  # [answer]
    by_hook: dict[str, list[tuple[int, Edit]]] = {}
    for row, edits in enumerate(rows):
        for edit in edits:
            by_hook.setdefault(edit.hook, []).append((row, edit))
    require_acting_hooks(
        model, list(by_hook), feature="the intervention", remedy="intervene elsewhere, or load it with wrap='hooked'"
    )
    hooks: list[tuple[str, Callable[..., Tensor | None]]] = [
        (name, functools.partial(_replace, edits=tuple(edits))) for name, edits in by_hook.items()
    ]
    normed: list[Tensor] = []

    def take(act: Tensor, hook: Any) -> None:
        normed.append(act[:, -len(positions) :])

    if not capped and linear_parts.soft_cap(model) is not None:
        hooks.append(("ln_final.hook_normalized", take))
    with torch.no_grad():
        logits = hooked.read_out_at(model, tokens, lambda resid: resid[:, positions], hooks)
        if not normed:
            return logits
        norm = linear_parts.final_norm(model)
        out = normed[0] if norm.weight is None else normed[0] * norm.weight
        return hooked.project(model, out if norm.bias is None else out + norm.bias)


def _replace(act: Tensor, hook: Any, *, edits: Sequence[tuple[int, Edit]]) -> Tensor:
    """Apply edits to their rows of an activation `[row, ...]`."""
    act = act.clone()
    for row, edit in edits:
        act[(row, *edit.index)] = edit.value
    return act
