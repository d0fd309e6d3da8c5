r"""Compute the second moments of the inputs of MLP matrices on given text: which directions the text uses.

For a matrix with inputs $k_t$ at N tokens, the moment is $\frac1N \sum_t k_t k_t^T$.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.batches import DEFAULT_BATCH_TOKENS, length_batches, pad_right
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded
from unpact_lens.models.weight_matrices import weight_matrices
from unpact_lens.unlearning.trainable import readable_names

LEAVES = {"W_in": "in", "W_gate": "in", "W_out": "out", "in.weight": "in", "gate.weight": "in", "out.weight": "out"}
"""Which input each matrix of an MLP reads, by the end of its name: the MLP's own, or that of its output matrix."""


def mlp_matrices(model: HookedModel) -> dict[str, tuple[int, str, int]]:
    """List the matrices of the model's MLPs.

    Returns:
        For each TransformerLens name: its layer, which input it reads (`"in"` or `"out"`), and the axis of its inputs.

    Raises:
        InputError: If no MLP has an output matrix of its own, e.g. with routed experts only.
    """
    short = readable_names(model)
    names = {id(p): short[name] for name, p in model.named_parameters()}
    found = {}
    for matrix in weight_matrices(model):
        name = names.get(id(matrix.weight), "")
        parts = name.split(".")
        leaf = ".".join(parts[3:])
        if parts[0] == "blocks" and parts[2:3] == ["mlp"] and leaf in LEAVES:
            found[name] = (int(parts[1]), LEAVES[leaf], matrix.inputs[0])
    if not any(which == "out" for _, which, _ in found.values()):
        raise InputError("the model's MLPs have no output matrix of their own, e.g. because experts are routed")
    return found


def input_moments(
    model: HookedModel, rows: Sequence[Encoded], matrices: Mapping[str, tuple[int, str, int]]
) -> dict[str, Float[Tensor, "input input"]]:
    """Compute the second moment of the inputs of MLP matrices over all tokens of the given texts.

    Args:
        model: Hooked model.
        rows: Texts as token ids; all but the last token of each are read.
        matrices: Matrices, as `mlp_matrices` lists them.

    Returns:
        For each matrix, the mean of the outer products of its inputs.
    """
    wanted = sorted({(layer, which) for layer, which, _ in matrices.values()})
    sums: dict[tuple[int, str], Tensor] = {}
    tokens_read = 0
    for batch in length_batches([len(r.ids) - 1 for r in rows], DEFAULT_BATCH_TOKENS):
        tokens = pad_right([rows[i].ids[:-1] for i in batch], hooked.device_of(model))
        lengths = torch.tensor([len(rows[i].ids) - 1 for i in batch], device=tokens.device)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # [batch, pos]
        tokens_read += int(lengths.sum())
        for key, inputs in _inputs(model, tokens, wanted).items():
            kept = inputs[real].float()  # [token, input]
            moment = (kept.T @ kept).double()
            sums[key] = sums[key] + moment if key in sums else moment
    return {name: sums[layer, which] / tokens_read for name, (layer, which, _) in matrices.items()}


def _inputs(model: HookedModel, tokens: Tensor, wanted: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Tensor]:
    """Run the model and return the inputs of the MLPs and of their output matrices, `[batch, pos, input]`."""
    taken: dict[tuple[int, str], Tensor] = {}

    def keep(key: tuple[int, str]) -> hooked.HookFunction:
        def function(value: Tensor, hook: HookPoint) -> None:
            taken[key] = value

        return function

    def keep_first(key: tuple[int, str]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def function(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            taken[key] = given[0]

        return function

    hooks, handles = [], []
    for layer, which in wanted:
        if which == "out":
            hooks.append((f"blocks.{layer}.mlp.hook_post", keep((layer, which))))
        elif hooked.is_bridge(model):
            hooks.append((f"blocks.{layer}.mlp.in.hook_in", keep((layer, which))))
        else:  # a HookedTransformer's norm hooks lack the gain of RMSNorm
            handles.append(model.blocks[layer].mlp.register_forward_pre_hook(keep_first((layer, which))))
    try:
        with torch.no_grad():
            hooked.run_with_hooks(model, tokens, hooks, return_type=None if not hooked.is_bridge(model) else "logits")
    finally:
        for handle in handles:
            handle.remove()
    return taken
