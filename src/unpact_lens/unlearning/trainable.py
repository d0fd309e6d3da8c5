"""Choose the parameters that training changes, by the names that TransformerLens gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch.nn import Parameter

from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.low_rank import without_adapters


def trainable(model: HookedModel, modules: Sequence[str] | None = None) -> dict[str, Parameter]:
    """Return the parameters to train, by name.

    Args:
        model: Hooked model.
        modules: Names or patterns. `"blocks.*.mlp"` chooses all parameters below that module. If None, chooses every
            parameter that requires a gradient.

    Raises:
        InputError: If a pattern matches no parameter.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if modules is None:
        return named
    readable = {n: short for n, short in readable_names(model).items() if n in named}
    chosen: set[str] = set()
    for pattern in modules:
        hits = {n for n, short in readable.items() if fnmatchcase(short, pattern) or fnmatchcase(short, f"{pattern}.*")}
        if not hits:
            raise InputError(f"modules pattern {pattern!r} matches no parameter; {nearest(pattern, readable.values())}")
        chosen |= hits
    return {n: p for n, p in named.items() if n in chosen}


def readable_names(model: HookedModel) -> dict[str, str]:
    """Map each parameter's name to the name that TransformerLens gives it.

    The names differ on a bridge, whose parameters are named by the Hugging Face model inside. The bridge's `state_dict`
    holds the same memory under TransformerLens names, so parameters are matched by address and shape.
    """
    named = dict(model.named_parameters())
    if parts := getattr(model, "parts", ()):
        short: dict[int, str] = {}
        for i, part in enumerate(parts):
            own = readable_names(part)
            short |= {id(p): f"parts.{i}.{own[n]}" for n, p in part.named_parameters()}
        return {n: short.get(id(p)) or n for n, p in named.items()}
    if not hooked.is_bridge(model):
        return {n: n for n in named}
    with exclusive(model), without_adapters(model):
        known = {(t.data_ptr(), t.shape): n for n, t in model.state_dict().items()}
    return {n: known.get((p.data_ptr(), p.shape)) or n for n, p in named.items()}


class only_these_train:
    """Withhold gradients from all other parameters inside a `with` block.

    Args:
        model: Hooked model.
        params: Parameters that keep their gradients. The `requires_grad` flags of the others are restored afterwards.
    """

    def __init__(self, model: HookedModel, params: Mapping[str, Parameter]) -> None:
        kept = {id(p) for p in params.values()}
        self.paused = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]

    def __enter__(self) -> None:
        for p in self.paused:
            p.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for p in self.paused:
            p.requires_grad_(True)
