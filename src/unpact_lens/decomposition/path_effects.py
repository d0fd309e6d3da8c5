r"""Separate the direct and indirect effect of a source token: by a head alone, or by that head and later layers.

The *total* effect of a head's reading of a source token is the decrease of the answer's logit when the vector
$A_{ts}\,v_s W_O$ is removed from that head's output at every position t, and everything after it is recomputed. The
*direct* effect is the value of `decompose(by="source")`: only the unembedding sees the change, at the unedited scale of
`ln_final`. The *indirect* effect is the difference of the two. The user chooses what is recomputed: later attention
patterns and norm scales can be frozen at their unedited values, MLPs never are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.decompose import decompositions
from unpact_lens.decomposition.intervene import Edit, activations, answer_logits, chunks, hold
from unpact_lens.decomposition.logit_direction import logit_direction
from unpact_lens.display import joined, largest, quoted
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, Text
from unpact_lens.results import Result

FREEZABLE = ("patterns", "norms")
"""What can be frozen after the head: attention patterns of later layers; scales of all norms, `ln_final` included."""


@dataclass(frozen=True, eq=False)
class PathEffects(Result):
    """Hold the direct and total effect of each head's reading of each source token on the answer's logit. Logits.

    Attributes:
        direct: `[head, S, T]`, effect directly on the unembedding, at the unedited scale of `ln_final`.
        total: `[head, S, T]`, decrease of the logit without the reading.
        heads: `(layer, head)` of each row.
        frozen: What was frozen after the head: of `"patterns"`, `"norms"`.
        tokens: The S input tokens.
        answer_tokens: The T answer tokens.
        prompt: Text of the prompt.
        answer: Text of the answer.
        versus: Foil whose logit is subtracted, or None.
    """

    direct: Float[Tensor, "head source answer"]
    total: Float[Tensor, "head source answer"]
    heads: tuple[tuple[int, int], ...]
    frozen: tuple[str, ...]
    tokens: tuple[str, ...]
    answer_tokens: tuple[str, ...]
    prompt: str
    answer: str
    versus: str | None = None

    figure: ClassVar[str | None] = "mechanisms:path_effects"

    def _brief(self) -> str:
        return joined(
            [
                quoted(self.answer, 20),
                f"{len(self.heads)} heads × {len(self.tokens)} tokens",
                f"total {largest(self.total.sum(1).mean(-1), ([f'L{l}H{h}' for l, h in self.heads],))}",
            ]
        )

    @property
    def indirect(self) -> Float[Tensor, "head source answer"]:
        """Effect by later layers, and by the scale of `ln_final` if norms were not frozen: `total − direct`. Logits."""
        return self.total - self.direct

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each head and source token, mean over the answer tokens."""
        rows = list(product(self.heads, enumerate(self.tokens)))
        return pd.DataFrame(
            {
                "head": [f"L{l}H{h}" for (l, h), _ in rows],
                "position": [s for _, (s, _) in rows],
                "token": [token for _, (_, token) in rows],
                "direct": self.direct.mean(-1).flatten().tolist(),
                "indirect": self.indirect.mean(-1).flatten().tolist(),
                "total": self.total.mean(-1).flatten().tolist(),
            }
        )


def path_effects(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    freeze: Sequence[str] = FREEZABLE,
    versus: Text | None = None,
    **asking: Unpack[AskingOptions],
) -> PathEffects:
    """Compute the direct and indirect effect of each head's reading of each source token.

    This takes one row of a forward pass for each head and source token. Choose `heads` on large models.

    Args:
        model: Hooked causal model.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        heads: `(layer, head)` pairs. If None, all heads.
        freeze: What is frozen after the head: of `"patterns"` (later attention patterns) and `"norms"` (scales of all
            norms after it). With both, the rest is linear except for the MLPs.
        versus: Foil, as for `decompose`.
        asking: Options of `AskingOptions`.

    Raises:
        InputError: If no head is given or one does not exist, `freeze` names something else or would freeze nothing on
            this model, or `decompose` refuses the input.

    Source: Goldowsky-Dill et al. 2023, arXiv 2304.05969 (path patching); Elhage et al. 2021 (virtual heads).
    """
    asked = Asking(**asking)
    for what in freeze:
        if what not in FREEZABLE:
            raise InputError(f"freeze={what!r}; what can be frozen is {' and '.join(map(repr, FREEZABLE))}")
    every = list(product(range(model.cfg.n_layers), range(model.cfg.n_heads)))
    if heads is not None and not len(heads):
        raise InputError("heads=[]; give at least one (layer, head) pair, or leave heads out for all")
    for head in heads or ():
        if tuple(head) not in every:
            raise InputError(
                f"head {tuple(head)} is not in the model: layers 0 to {every[-1][0]}, heads 0 to {every[-1][1]}"
            )
    chosen = every if heads is None else [(int(l), int(h)) for l, h in heads]
    _require_effect(model, sorted({layer for layer, _ in chosen}), freeze)
    (direct,), _ = decompositions(model, prompt, answer, ("source",), asked, versus=versus)
    wide, _ = linear_parts.in_full_precision(model)
    example = asked.encode(wide, prompt, answer)
    direction = logit_direction(wide, example, versus)
    layers = sorted({layer for layer, _ in chosen})
    parts = [f"blocks.{l}.attn.{part}" for l in layers for part in ("hook_pattern", "hook_v", "hook_z")]
    frozen = [name for l in layers for name in _after(wide, l, freeze)]
    acts = activations(wide, example, list(dict.fromkeys([*parts, *frozen])))

    def numbers(rows: list[list[Edit]]) -> Float[Tensor, "row answer"]:
        logits = answer_logits(wide, example, rows, capped=False, batch_tokens=asked.batch_tokens)
        return torch.stack([direction.of_logits(row[list(direction.steps)]) for row in logits]).cpu()

    whole = numbers([[]])[0]
    # Shape [head, source, answer]; the sources of one head share batches.
    total = torch.stack(
        [
            torch.cat(
                [
                    whole - numbers([_without(wide, example, acts, head, s, freeze) for s in sources])
                    for sources in chunks(wide, range(len(direct.tokens)), len(direct.tokens), asked.batch_tokens)
                ]
            )
            for head in chosen
        ]
    )
    return PathEffects(
        direct=torch.stack([direct.values[l, h] for l, h in chosen]),
        total=total,
        heads=tuple(chosen),
        frozen=tuple(freeze),
        tokens=direct.tokens,
        answer_tokens=direct.answer_tokens,
        prompt=direct.prompt,
        answer=direct.answer,
        versus=direct.versus,
    )


def _require_effect(model: HookedModel, layers: Sequence[int], freeze: Sequence[str]) -> None:
    """Refuse to remove readings, or to freeze what comes after, where that would do nothing.

    Raises:
        InputError: Naming what would do nothing, and what to freeze instead.
    """
    heads = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    require_acting_hooks(model, heads, feature="path_effects", remedy="load the model with wrap='hooked'")
    for what in freeze:
        others = tuple(w for w in freeze if w != what)
        names = [name for layer in layers for name in _after(model, layer, [what])]
        require_acting_hooks(model, names, feature=f"path_effects(freeze={what!r})", remedy=f"use freeze={others!r}")


def _without(
    model: HookedModel,
    example: Encoded,
    acts: dict[str, Tensor],
    head: tuple[int, int],
    source: int,
    freeze: Sequence[str],
) -> list[Edit]:
    """Return the edits that remove one head's reading of one source token and freeze what is frozen after it."""
    layer, h = head
    pattern, v = (acts[f"blocks.{layer}.attn.{part}"] for part in ("hook_pattern", "hook_v"))
    v = hooked.values_read(model, v)
    group = model.cfg.n_heads // v.shape[1]  # query heads of one value head
    moved = pattern[h, :, source, None] * v[source, h // group]  # [pos, d_head]
    z = acts[f"blocks.{layer}.attn.hook_z"][:, h]
    hook = f"blocks.{layer}.attn.hook_z"
    return [Edit(hook, (slice(None), h), z - moved), *hold(model, example, acts, _after(model, layer, freeze))]


def _after(model: HookedModel, layer: int, freeze: Sequence[str]) -> list[str]:
    """Return the names of the activations to freeze after the heads of a layer."""
    names = []
    if "norms" in freeze:
        names += [f"blocks.{layer}.{part}.hook_scale" for part in ("ln1_post", "ln2", "ln2_post")]
        if linear_parts.norm_behind(model, layer, "attn") is not None:
            names.append(f"blocks.{layer}.ln1.hook_scale")
    for later in range(layer + 1, model.cfg.n_layers):
        if "patterns" in freeze:
            names.append(f"blocks.{later}.attn.hook_pattern")
        if "norms" in freeze:
            names += [f"blocks.{later}.{part}.hook_scale" for part in ("ln1", "ln1_post", "ln2", "ln2_post")]
    if "norms" in freeze:
        names.append("ln_final.hook_scale")
    known = hooked.hook_points(model)
    return [name for name in names if name in known]
