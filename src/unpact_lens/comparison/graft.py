"""Put back some of the old weights: which matrix, or which layer, holds what was lost?"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import DIRECTIONS, donor_and_recipient, floor_of, require_comparable
from unpact_lens.comparison.result import PatchingMap
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.checkpoint import clone, named_weights
from unpact_lens.models.tokens import Encoded, Text, encode, token_strings
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS, score_rows

UNITS = ("matrix", "layer")
TIED = ("embed.W_E", "unembed.W_U")
"""Where a tied `HookedTransformer` keeps its one embedding twice: they are grafted together."""


def graft(recipient: Any, donor: Any, weights: str | Sequence[str]) -> Any:
    """A copy of one model with some weights of another.

    Args:
        recipient: a hooked model; it is not changed.
        donor: one of the same shape.
        weights: names, or patterns such as `"blocks.1.*"`; a tied embedding goes with its unembedding.

    Raises:
        InputError: if the models are not comparable, or a pattern matches no weight.
    """
    require_comparable(recipient, donor)
    names = matching(recipient, [weights] if isinstance(weights, str) else weights)
    copy = clone(recipient)
    _put(copy, named_weights(donor), names)
    return copy


def matching(model: Any, patterns: Sequence[str]) -> list[str]:
    """Names of the weights that the patterns match, each once; both of a tied pair where one is matched.

    Raises:
        InputError: if a pattern matches none; the message offers the nearest names.
    """
    known = list(named_weights(model))
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = fnmatch.filter(known, pattern)
        if not hits:
            raise InputError(f"no weight matches {pattern!r}; {nearest(pattern, known)}")
        found.update(dict.fromkeys(hits))
    if getattr(model, "tied_embeddings", False) and any(name in found for name in TIED):
        found.update(dict.fromkeys(name for name in TIED if name in known))
    return list(found)


def graft_map(
    before: Any,
    after: Any,
    prompt: Text,
    answer: Text,
    *,
    unit: str = "matrix",
    direction: str = "before_into_after",
    floor: Sequence[Any] | None = None,
    chat: bool = False,
    prefill: Text = "",
) -> PatchingMap:
    """Score the answer with one matrix, or one layer, of the other model's weights at a time.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        unit: `"matrix"`: each weight of each block alone, layer × weight; `"layer"`: embedding, each block whole, and
            what stands behind the last.
        direction: which model's weights go into which.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text), between which the same is measured; compare the changes in nats.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Cells whose weights are the same in both models change nothing, and are not run.

    Raises:
        InputError: if an option is unknown, or the models are not comparable.
    """
    check_graft(unit, direction)
    require_comparable(before, after)
    noise = None if floor is None else floor_of(before, floor)
    example = encode(before, prompt, answer, chat=chat, prefill=prefill)
    found, labels = grafted_scores(before, after, [example], unit, direction)
    return PatchingMap(
        log_prob=found.grafted[0],
        labels=labels,
        baseline=float(found.recipient[0]),
        donor=float(found.donor[0]),
        what=f"weights by {unit}",
        direction=direction,
        prompt=text_of(before, prompt),
        answer=text_of(before, answer),
        tokens=token_strings(before, example.ids[:-1]),
        floor=None
        if noise is None
        else graft_map(*noise, prompt, answer, unit=unit, direction=direction, chat=chat, prefill=prefill),
    )


@dataclass(frozen=True)
class Grafted:
    """Mean log-probability of each answer, nats.

    Attributes:
        grafted: `[item, row, column]`, with the weights of that cell put in.
        recipient: `[item]`, with none.
        donor: `[item]`, of the model that gives the weights.
    """

    grafted: Float[Tensor, "item row column"]
    recipient: Float[Tensor, " item"]
    donor: Float[Tensor, " item"]


def check_graft(unit: str, direction: str) -> None:
    """Refuse an unknown unit or direction.

    Raises:
        InputError: naming what is known.
    """
    if unit not in UNITS:
        raise InputError(f"unit={unit!r}; {nearest(str(unit), UNITS)}")
    if direction not in DIRECTIONS:
        raise InputError(f"direction={direction!r}; known are {' and '.join(map(repr, DIRECTIONS))}")


def grafted_scores(
    before: Any,
    after: Any,
    rows: Sequence[Encoded],
    unit: str,
    direction: str,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> tuple[Grafted, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Each row's score under each graft, and the labels of the map; every graft is made once for all rows."""
    donor, recipient = donor_and_recipient(before, after, direction)

    def means(model: Any) -> Float[Tensor, " item"]:
        return torch.stack([scores.mean() for scores in score_rows(model, rows, batch_tokens=batch_tokens)])

    cells, labels = _cells(before, unit)
    copy, given = clone(recipient), named_weights(donor)
    own = {name: weight.clone() for name, weight in named_weights(recipient).items()}
    baseline, found = means(recipient), []
    for names in cells:
        if all(torch.equal(own[name], given[name]) for name in names):
            found.append(baseline)
            continue
        _put(copy, given, names)
        found.append(means(copy))
        _put(copy, own, names)
    shape = (len(rows), len(labels[0]), len(labels[1]))
    return Grafted(torch.stack(found, dim=1).reshape(shape), baseline, means(donor)), labels


def _cells(model: Any, unit: str) -> tuple[list[list[str]], tuple[tuple[str, ...], tuple[str, ...]]]:
    """Names of the weights of each cell, row by row, and the labels of rows and columns."""
    known = list(named_weights(model))
    layers = [f"blocks.{layer}." for layer in range(model.cfg.n_layers)]
    blocks = tuple(f"L{layer}" for layer in range(model.cfg.n_layers))
    if unit == "matrix":
        kinds = tuple(dict.fromkeys(n.removeprefix(layer) for layer in layers for n in known if n.startswith(layer)))
        return [[n for n in known if n == layer + kind] for layer in layers for kind in kinds], (blocks, kinds)
    tied = TIED if getattr(model, "tied_embeddings", False) else ()
    front = [n for n in known if n in tied or n.startswith(("embed", "pos_embed"))]
    inside = [[n for n in known if n.startswith(layer)] for layer in layers]
    behind = [n for n in known if n not in front and not any(n in names for names in inside)]
    return [front, *inside, behind], (("embedding", *blocks, "readout"), ("weights",))


def _put(model: Any, weights: dict[str, Tensor], names: Sequence[str]) -> None:
    """Overwrite the named weights of a model."""
    own = named_weights(model)
    with torch.no_grad():
        for name in names:
            own[name].copy_(weights[name])
