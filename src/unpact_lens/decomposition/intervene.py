"""Run an example with some of its activations replaced: the tool that every check of a reading is made with."""

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
from unpact_lens.models.tokens import Encoded
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS, gather_log_probs

T = TypeVar("T")


@dataclass(frozen=True)
class Edit:
    """One replacement in one activation.

    Attributes:
        hook: the activation's hook name.
        index: where in it, batch axis left out: `(slice(None), 2)` is head 2 of `hook_z` at every position.
        value: what stands there instead; a number, or a tensor of that place's shape.
    """

    hook: str
    index: tuple[Any, ...]
    value: Tensor | float


def activations(model: Any, example: Encoded, names: Sequence[str]) -> dict[str, Tensor]:
    """The named activations of one unedited run, without the batch axis.

    Raises:
        InputError: if the model has no hook of that name, or the hook gives nothing (fused attention).
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
    model: Any,
    example: Encoded,
    rows: Sequence[Sequence[Edit]],
    *,
    capped: bool = True,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Float[Tensor, "row answer d_vocab"]:
    """Logits at the answer's positions, once for each set of edits.

    Args:
        model: a hooked causal model; it is not changed.
        example: prompt and answer.
        rows: one set of edits a run; an empty set is the unedited run.
        capped: after a final soft-cap, as the model gives them, or before it.
        batch_tokens: bound on the input tokens of one forward pass.
    """
    return torch.cat(
        [_run(model, example, chunk, capped) for chunk in chunks(rows, len(example.ids) - 1, batch_tokens)]
    )


def answer_log_probs(
    model: Any, example: Encoded, rows: Sequence[Sequence[Edit]], *, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> Float[Tensor, "row answer"]:
    """Log p of each answer token, nats, once for each set of edits; see `answer_logits`."""
    found = []
    for chunk in chunks(rows, len(example.ids) - 1, batch_tokens):
        logits = _run(model, example, chunk, True)
        labels = torch.tensor(example.answer, device=logits.device).expand(len(chunk), -1)
        found.append(gather_log_probs(logits, labels).cpu())
    return torch.cat(found)


def replaced_one_at_a_time(
    model: Any,
    example: Encoded,
    given: Mapping[str, Tensor],
    places: Sequence[tuple[str, tuple[Any, ...]]],
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Float[Tensor, "row answer"]:
    """Log p of each answer token, first unedited, then with the given activation at one place at a time; nats.

    A place where the model's own activation equals the given one to the last bit is not run: what it changes is
    exactly 0, which rows of a batch on different kernels would only approach.

    Args:
        model: a hooked causal model; it is not changed.
        example: prompt and answer.
        given: activations by hook name, without the batch axis.
        places: hook name, and where in its activation (see `Edit.index`).
        batch_tokens: bound on the input tokens of one forward pass.
    """
    own = activations(model, example, list(given))
    differs = torch.tensor([not torch.equal(own[name][index], given[name][index]) for name, index in places])
    edits = [[Edit(*place, given[place[0]][place[1]])] for place, run in zip(places, differs, strict=True) if run]
    found = answer_log_probs(model, example, [[], *edits], batch_tokens=batch_tokens)
    values = found[:1].repeat(1 + len(places), 1)
    values[1:][differs] = found[1:]
    return values


def chunks(rows: Sequence[T], length: int, batch_tokens: int) -> list[Sequence[T]]:
    """Rows cut into batches of at most `batch_tokens` tokens, at least one row each.

    Raises:
        InputError: if the budget is not positive.
    """
    if batch_tokens < 1:
        raise InputError(f"batch_tokens={batch_tokens}; give a positive number of tokens")
    size = max(1, batch_tokens // length)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def hold(model: Any, example: Encoded, acts: Mapping[str, Tensor], names: Sequence[str]) -> list[Edit]:
    """Edits that hold the named activations at the values of an earlier run of the same example.

    The scale of `ln_final` is cut to the positions that it sees here, which are the answer's only on some models.
    """
    cut = hooked.readout_hook(model) == hooked.final_hook(model)
    rows = slice(-len(example.answer), None) if cut else slice(None)
    return [Edit(name, (), acts[name][rows] if name.startswith("ln_final.") else acts[name]) for name in names]


def _run(
    model: Any, example: Encoded, rows: Sequence[Sequence[Edit]], capped: bool
) -> Float[Tensor, "row answer d_vocab"]:
    device = hooked.device_of(model)
    tokens = torch.tensor([example.ids[:-1]], device=device).expand(len(rows), -1)
    positions = len(example.context) - 1 + torch.arange(len(example.answer), device=device)
    by_hook: dict[str, list[tuple[int, Edit]]] = {}
    for row, edits in enumerate(rows):
        for edit in edits:
            by_hook.setdefault(edit.hook, []).append((row, edit))
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
    act = act.clone()
    for row, edit in edits:
        act[(row, *edit.index)] = edit.value
    return act
