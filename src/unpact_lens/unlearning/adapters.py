r"""Train low-rank adapters: $W + \frac{\alpha}{r} A B$ with only A and B trained, kept apart or merged."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.low_rank import LowRank, attach, holder, merge_adapters
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.trainable import readable_names, trainable


class Adapters:
    """Attach adapters to a model. Afterwards `keep` leaves them apart, or `merge` writes them into its weights.

    Args:
        model: Hooked model, changed in place.
        modules: Names or patterns of weights. If None, every matrix of attention and MLPs is adapted.
        rank: Rank of each adapter.
        alpha: Scale, relative to the rank.
        seed: Random seed of the initial values.

    Raises:
        InputError: If no matrix is chosen.
    """

    def __init__(self, model: HookedModel, modules: Sequence[str] | None, rank: int, alpha: float, seed: int) -> None:
        self.model = model
        self.flags = [(p, p.requires_grad) for p in model.parameters()]
        names, every = readable_names(model), modules is None
        chosen = [n for n, p in trainable(model, modules).items() if is_matrix(names[n], p, in_blocks=every)]
        if not chosen:
            raise InputError(f"rank={rank}: {', '.join(modules or ['the model'])} holds no matrix to adapt")
        generator = torch.Generator().manual_seed(seed)
        model.requires_grad_(False)
        self.places = []
        self.names = [names[n] for n in chosen]
        for name in chosen:
            module, leaf = holder(model, name)
            heads_last = leaf.lstrip("_") in ("W_Q", "W_K", "W_V")
            linear = isinstance(module, nn.Linear)
            weight = getattr(module, leaf)
            adapter = LowRank.drawn(weight, rank, alpha, generator, heads_last=heads_last, transposed=linear)
            attach(module, leaf, adapter)
            self.places.append((module, leaf, adapter))

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return every A and B."""
        return (p for _, _, adapter in self.places for p in (adapter.A, adapter.B))

    def by_name(self) -> dict[str, LowRank]:
        """Return each adapter by the TransformerLens name of its weight."""
        return dict(zip(self.names, (a for _, _, a in self.places), strict=True))

    def keep(self) -> None:
        """Leave the adapters apart from the weights: freeze A and B, and restore the weights' `requires_grad` flags."""
        for p in self.parameters():
            p.requires_grad_(False)
        for p, flag in self.flags:
            p.requires_grad_(flag)

    def merge(self) -> None:
        """Write the sums into the weights, remove the adapters, and restore the `requires_grad` flags."""
        self.keep()
        merge_adapters(self.model)


def keeps_adapters(model: HookedModel, rank: int | None) -> bool:
    """Return whether adapters of a rank stay apart from the weights, which the original model then shares."""
    return rank is not None and hooked.is_bridge(model)


@contextmanager
def trained_adapters(model: HookedModel, settings: Settings, seed: int) -> Iterator[Settings]:
    """Attach the adapters that the hyperparameters ask for, to be trained inside a `with` block.

    Afterwards they are kept apart on a bridge and merged on a `HookedTransformer`. Without a rank, nothing is done.

    Args:
        model: Copy to be changed.
        settings: Hyperparameters; `rank`, `modules` and `lora_alpha` are read.
        seed: Random seed of the initial values.

    Yields:
        The hyperparameters for the trainer, which then trains everything that requires a gradient.

    Raises:
        InputError: If no matrix is chosen.
    """
    if settings.rank is None:
        yield settings
        return
    adapters = Adapters(model, settings.modules, settings.rank, settings.lora_alpha, seed)
    yield dataclasses.replace(settings, modules=None)
    if keeps_adapters(model, settings.rank):
        adapters.keep()
    else:
        adapters.merge()


def is_matrix(name: str, weight: Tensor, *, in_blocks: bool = True) -> bool:
    """Return whether a parameter is a weight matrix.

    Args:
        name: TransformerLens name of the parameter.
        weight: Parameter.
        in_blocks: Whether only matrices of blocks count.
    """
    leaf = name.rpartition(".")[2].lstrip("_")
    return (
        weight.ndim >= 2
        and (leaf.startswith("W_") or leaf == "weight")
        and (not in_blocks or re.match(r"(parts\.\d+\.)?blocks\.", name) is not None)
    )
