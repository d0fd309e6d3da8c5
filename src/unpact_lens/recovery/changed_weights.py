"""Ask copies of a model whose weights were changed, and prove that they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.same_weights import same_weights
from unpact_lens.models.weight_matrices import WeightMatrix, weight_matrices
from unpact_lens.recovery.plan import Sheet, ask_sheet, plain_sheet
from unpact_lens.recovery.probes.registry import AnswerRow, Scene
from unpact_lens.recovery.wrong_subject import answered_together, plain_and_elsewhere

Change = Callable[[HookedModel], HookedModel]
"""Function that returns a changed copy of a model."""


def with_changed_matrices(
    model: HookedModel,
    change: Callable[[WeightMatrix], Tensor],
    what: str,
    remedy: str,
    error: type[InputError] = InputError,
) -> HookedModel:
    """Return a copy of a model with every weight matrix replaced.

    Args:
        model: Model to copy. It is not changed.
        change: Function from a matrix of the copy to its new values.
        what: Name of the change in error messages.
        remedy: What to do if nothing changes.
        error: Error to raise if nothing changes.

    Raises:
        InputError: If no weight changes.
    """
    copy = clone(model)
    with torch.no_grad():
        for matrix in weight_matrices(copy):
            matrix.weight.copy_(change(matrix))
    require_changed_weights(model, copy, what, remedy, error)
    return copy


def require_changed_weights(
    model: HookedModel, copy: HookedModel, what: str, remedy: str, error: type[InputError] = InputError
) -> None:
    """Refuse a change of the weights that changed none.

    Args:
        model: Model before the change.
        copy: Model after it.
        what: Name of the change.
        remedy: What to do instead.
        error: Error to raise.

    Raises:
        InputError: If all weights of both are equal.
    """
    if same_weights(model, copy):
        raise error(f"{what} changes no weight of this model; {remedy}")


def asked_of_copies(scene: Scene, name: str, changes: Sequence[Change], *, elsewhere: bool = False) -> list[AnswerRow]:
    """Ask the plain prompts of changed copies of a model. A fact counts if one of them gives it.

    Args:
        scene: What the rows are built from.
        name: Name of the row.
        changes: Functions that make the copies, one after the other.
        elsewhere: If True, add a control row: the questions about the wrong subject, asked of the same copies. The
            unlearned model is then asked the facts that count only.
    """
    sheet = plain_and_elsewhere(scene, name) if elsewhere else plain_sheet(scene.items, scene.bench, name)

    def ask(model: HookedModel, sheet: Sheet, where: Bool[Tensor, "row item"]) -> Bool[Tensor, "row item"]:
        right = torch.zeros_like(where)
        for change in changes:
            right |= ask_sheet(change(model), sheet, where & ~right, scene.bench, scene.probing.batch_tokens)[0]
        return right

    return answered_together(scene, sheet, ask, spare=elsewhere)
