"""Refuse a model that cannot be analysed as it is: with NaN weights, or with dropout that is switched on.

Every analysis runs a model through `unpact_lens.models.hooked`, and each call there asks `require_ready` first. Weights
are read again only after a change.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from unpact_lens.boundary import CHECKS
from unpact_lens.errors import InputError

CHECKED = "_unpact_checked_weights"
"""Attribute in which a model keeps its parameters and their versions at the last check."""

DROPOUTS = ("attention_dropout", "dropout", "dropout_p", "p")
"""Names of attributes that hold the probability of a dropout."""


def check_sound(named: Iterable[tuple[str, Tensor]]) -> None:
    """Check that no weight contains NaN or infinity.

    Raises:
        InputError: If one does. The message names the first such tensor.
    """
    for name, tensor in named:
        if tensor.is_floating_point() and not _finite(tensor):
            raise InputError(f"weight {name} holds NaN or infinity; load a sound checkpoint")


PART = 2**22
"""Number of entries whose sum is taken at a time: a CPU copies what it sums to the type of the sum first."""


def _finite(tensor: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite: only then is their sum.

    A GPU would copy a half-precision tensor to fp64 first, so its sum is taken in fp32, and in fp64 if that overflows.
    """
    if not tensor.numel():
        return True
    rows = max(1, PART * len(tensor) // tensor.numel()) if tensor.ndim else 1
    parts = tensor.split(rows) if tensor.ndim else (tensor,)
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    if half and _all_finite([part.sum(dtype=torch.float32) for part in parts]):
        return True
    return _all_finite([part.sum(dtype=torch.float64) for part in parts])


def _all_finite(sums: list[Tensor]) -> bool:
    return bool(torch.stack(sums).isfinite().all())


def require_ready(model: object) -> None:
    """Refuse a model whose weights hold NaN or infinity, or whose dropout is switched on.

    Inside a computation with gradients nothing is checked: training finds out by its loss.

    Args:
        model: Hooked model. Of an ensemble, each member is checked when it runs.

    Raises:
        InputError: If a weight is not finite, or the model is in training mode and drops activations.
    """
    if torch.is_grad_enabled() or not isinstance(model, nn.Module):
        return
    if model.training and (where := dropout_of(model)):
        raise InputError(f"the model is in training mode and {where} drops activations at random; call model.eval()")
    require_sound(model)


def require_sound(model: object) -> None:
    """Refuse a model whose weights hold NaN or infinity; each public function asks this about its arguments.

    Args:
        model: Anything. What is no model with weights passes.

    Raises:
        InputError: If a weight is not finite.
    """
    if not isinstance(model, nn.Module):
        return
    kept = vars(model).get(CHECKED)
    if kept is not None and kept[1] == weights_version(kept[0]):
        return
    parameters = list(model.named_parameters())
    check_sound((name, parameter.detach()) for name, parameter in parameters)
    weights = [parameter for _, parameter in parameters]
    vars(model)[CHECKED] = (weights, weights_version(weights))


def dropout_of(model: nn.Module) -> str | None:
    """Return the name of the first module that drops activations in training mode, or None."""
    for name, module in model.named_modules():
        for attribute in DROPOUTS:
            if attribute == "p" and not isinstance(module, nn.Dropout):
                continue
            value = vars(module).get(attribute)
            if isinstance(value, float) and 0 < value <= 1:
                return name or type(module).__name__
    return None


def weights_version(weights: Iterable[Tensor]) -> tuple[int, int]:
    """Return numbers that change when a weight is changed in place or replaced."""
    versions = places = 0
    for weight in weights:
        if not weight.is_inference():
            versions += weight._version
        places ^= hash((weight.data_ptr(), weight.numel()))
    return versions, places


CHECKS.append(require_sound)
