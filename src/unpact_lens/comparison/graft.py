"""Put weights of one model into the other, to see which matrix or layer holds what was lost."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.comparison.model_pair import DIRECTIONS, ModelPair, require_comparable
from unpact_lens.comparison.patching_map import PatchingMap
from unpact_lens.comparison.question import Question
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.checkpoint import clone, named_weights
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tied_embedding import tied_names
from unpact_lens.models.tokens import Encoded, Text, token_strings
from unpact_lens.models.weight_matrices import weight_matrices
from unpact_lens.scoring import score_rows

UNITS = ("matrix", "layer")


def graft(recipient: HookedModel, donor: HookedModel, weights: str | Sequence[str]) -> HookedModel:
    """Copy one model and put some weights of another into the copy.

    Args:
        recipient: Model that is copied; it is not changed.
        donor: Model of the same shape, which gives the weights.
        weights: Names, or patterns such as `"blocks.1.*"`; a tied embedding goes with its unembedding.

    Raises:
        InputError: If the models are not comparable, a pattern matches no weight, or the models differ and none of the
            matched weights does.
    """
    require_comparable(recipient, donor)
    names = matching(recipient, [weights] if isinstance(weights, str) else weights)
    _require_difference(recipient, donor, names, f"weights={weights!r}")
    copy: HookedModel = clone(recipient)
    _put(copy, named_weights(donor), names)
    return copy


def matching(model: HookedModel, patterns: Sequence[str]) -> list[str]:
    """List the weights that the patterns match, each once, and both of a tied pair if one is matched.

    Raises:
        InputError: If a pattern matches none; the message offers the nearest names.
    """
    known = list(named_weights(model))
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = fnmatch.filter(known, pattern)
        if not hits:
            raise InputError(f"no weight matches {pattern!r}; {nearest(pattern, known)}")
        found.update(dict.fromkeys(hits))
    if any(name in found for name in tied_names(model)):
        found.update(dict.fromkeys(name for name in tied_names(model) if name in known))
    return list(found)


def graft_map(
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA,
    answer: Text | None = None,
    *,
    unit: str = "matrix",
    direction: str = "before_into_after",
    floor: Sequence[HookedModel] | None = None,
    **asking: Unpack[AskingOptions],
) -> PatchingMap:
    """Score the answer with one matrix, or one layer, of the other model's weights at a time.

    Cells whose weights are the same in both models change nothing, and are not run.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        prompt: Text or ids; or a `QA`, which holds its answer.
        answer: Text, leading space included, or ids.
        unit: `"matrix"`: each weight of each block alone, layer × weight; `"layer"`: the embedding, each block whole,
            and everything after the last block.
        direction: Which model gives its weights to the other.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text), grafted in the same direction. Compare the changes in nats.
        **asking: `chat`, `prefill` and `batch_tokens`; see `AskingOptions`.

    Raises:
        InputError: If an option is unknown, or the models are not comparable.
    """
    check_graft(unit, direction)
    asked = Asking(**asking)
    return graft_of_pair(ModelPair.of(before, after, floor=floor), Question.of(prompt, answer), unit, direction, asked)


def graft_of_pair(pair: ModelPair, question: Question, unit: str, direction: str, asked: Asking) -> PatchingMap:
    """Score one question under each graft; see `graft_map`."""
    before = pair.before
    example = asked.encode(before, question.prompt, question.answer)
    scores = grafted_scores(pair, [example], unit, direction, asked.batch_tokens)
    found = PatchingMap(
        log_prob=scores.grafted[0],
        labels=scores.labels,
        baseline=float(scores.recipient[0]),
        donor=float(scores.donor[0]),
        what=f"weights by {unit}",
        direction=direction,
        prompt=text_of(before, question.prompt),
        answer=text_of(before, question.answer),
        tokens=token_strings(before, example.ids[:-1]),
        id=question.id,
        subject=question.subject,
    )
    if pair.noise is None:
        return found
    return replace(found, floor=graft_of_pair(pair.noise, question, unit, direction, asked))


@dataclass(frozen=True)
class Grafted:
    """Hold the mean log-probability of each answer, nats.

    Attributes:
        grafted: `[item, row, column]`, with the weights of that cell put in.
        recipient: `[item]`, of the recipient without a graft.
        donor: `[item]`, of the model that gives the weights.
        labels: Names of rows and columns.
    """

    grafted: Float[Tensor, "item row column"]
    recipient: Float[Tensor, " item"]
    donor: Float[Tensor, " item"]
    labels: tuple[tuple[str, ...], tuple[str, ...]]


def check_graft(unit: str, direction: str) -> None:
    """Refuse an unknown unit or direction.

    Raises:
        InputError: Naming the known ones.
    """
    if unit not in UNITS:
        raise InputError(f"unit={unit!r}; {nearest(str(unit), UNITS)}")
    if direction not in DIRECTIONS:
        raise InputError(f"direction={direction!r}; known are {' and '.join(map(repr, DIRECTIONS))}")


def grafted_scores(
    pair: ModelPair, rows: Sequence[Encoded], unit: str, direction: str, batch_tokens: int | None = None
) -> Grafted:
    """Score each row under each graft; every graft is made once for all rows.

    Args:
        pair: Models that give and take weights.
        rows: Prompts with their answers.
        unit: One of `UNITS`.
        direction: One of `DIRECTIONS`.
        batch_tokens: Largest number of input tokens in one forward pass.

    Raises:
        InputError: If the models differ and no weight of any graft does.
    """
    donor, recipient = pair.donor_and_recipient(direction)

    def means(model: HookedModel) -> Float[Tensor, " item"]:
        return torch.stack([scores.mean() for scores in score_rows(model, rows, batch_tokens=batch_tokens)])

    cells, labels = _cells(pair.before, unit)
    _require_difference(recipient, donor, [name for names in cells for name in names], f"unit={unit!r}")
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
    shape = (len(rows), len(labels[0]), len(labels[1]))  # [item, row, column]
    return Grafted(torch.stack(found, dim=1).reshape(shape), baseline, means(donor), labels)


def _cells(model: HookedModel, unit: str) -> tuple[list[list[str]], tuple[tuple[str, ...], tuple[str, ...]]]:
    """List the names of the weights of each cell, row by row, and the labels of rows and columns."""
    known = list(named_weights(model))
    layers = [f"blocks.{layer}." for layer in range(model.cfg.n_layers)]
    blocks = tuple(f"L{layer}" for layer in range(model.cfg.n_layers))
    if unit == "matrix":
        kinds = tuple(dict.fromkeys(n.removeprefix(layer) for layer in layers for n in known if n.startswith(layer)))
        return [[n for n in known if n == layer + kind] for layer in layers for kind in kinds], (blocks, kinds)
    tied = tied_names(model)
    front = [n for n in known if n in tied or n.startswith(("embed", "pos_embed"))]
    inside = [[n for n in known if n.startswith(layer)] for layer in layers]
    behind = [n for n in known if n not in front and not any(n in names for names in inside)]
    return [front, *inside, behind], (("embedding", *blocks, "readout"), ("weights",))


def _require_difference(recipient: HookedModel, donor: HookedModel, names: Sequence[str], what: str) -> None:
    """Refuse a graft that changes nothing although the models differ, or that leaves weights without a name behind.

    Args:
        recipient: Model that takes the weights.
        donor: Model that gives them.
        names: Weights of the graft.
        what: The user's argument, for the message.

    Raises:
        InputError: If all these weights are equal and others are not, or the weights of experts have no name.
    """
    own, given = named_weights(recipient), named_weights(donor)
    held = {weight.data_ptr() for weight in own.values()}
    if lost := [m.name for m in weight_matrices(recipient) if m.weight.ndim == 3 and m.weight.data_ptr() not in held]:
        raise InputError(
            f"weights of experts cannot be grafted: TransformerLens's bridge gives {lost[0]!r} no name; "
            "use patch(what='mlp')"
        )
    if any(not torch.equal(own[name], given[name]) for name in names):
        return
    if other := next((name for name in own if not torch.equal(own[name], given[name])), None):
        raise InputError(
            f"{what} changes nothing: these weights are equal in both models; others differ, e.g. {other!r}"
        )


def _put(model: HookedModel, weights: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Overwrite the named weights of a model."""
    own = named_weights(model)
    with torch.no_grad():
        for name in names:
            own[name].copy_(weights[name])
