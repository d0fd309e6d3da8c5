r"""Through which way a source token reaches the answer: a head directly, or that head and then later layers.

The *total* effect of a head's reading of a source token is what the answer's logit loses when the vector
$A_{ts}\,v_s W_O$ is taken out of that head's output at every position t, and everything behind it is computed again.
The *direct* effect is what `decompose(by="source")` gives: the same, had only the unembedding seen the change, at the
scale that `ln_final` has. The *indirect* effect is their difference. What is computed again is chosen: later attention
patterns and norm scales can be held at their unedited values, MLPs never are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.decompose import decompose
from unpact_lens.decomposition.intervene import Edit, activations, answer_logits, chunks, hold
from unpact_lens.decomposition.logit_direction import logit_direction
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.tokens import Text, encode
from unpact_lens.results import Result
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS

FREEZABLE = ("patterns", "norms")
"""What can be held behind the head: attention patterns of later layers; scales of all norms, `ln_final`'s too."""


@dataclass(frozen=True, eq=False)
class PathEffects(Result):
    """The effect of each head's reading of each source token on the answer's logit, direct and in all. Logits.

    Attributes:
        direct: `[head, S, T]`, straight into the unembedding, at the scale that `ln_final` has.
        total: `[head, S, T]`, what the logit loses without it.
        heads: `(layer, head)` of each row.
        frozen: what was held behind the head: of `"patterns"`, `"norms"`.
        tokens: the S input tokens.
        answer_tokens: the T answer tokens.
        prompt: the prompt, as text.
        answer: the answer, as text.
        versus: what is subtracted from the answer's logit, or None.
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

    @property
    def indirect(self) -> Float[Tensor, "head source answer"]:
        """By way of later layers, and of `ln_final`'s scale where norms were not held: `total − direct`. Logits."""
        return self.total - self.direct

    def to_frame(self) -> pd.DataFrame:
        """One row for each head and source token, mean over the answer tokens."""
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
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    freeze: Sequence[str] = FREEZABLE,
    versus: Text | None = None,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> PathEffects:
    """Direct and indirect effect of each head's reading of each source token.

    One row of a forward pass for each head and source token: choose `heads` on large models.

    Args:
        model: a hooked causal model.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        heads: `(layer, head)` pairs; all by default.
        freeze: what is held behind the head: of `"patterns"` (later attention patterns) and `"norms"` (scales of all
            norms behind it). With both, what remains is linear but for the MLPs.
        versus: as for `decompose`.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Raises:
        InputError: if a head does not exist, `freeze` names something else, or for any input that `decompose` refuses.

    Source: Goldowsky-Dill et al. 2023, arXiv 2304.05969 (path patching); Elhage et al. 2021 (virtual heads).
    """
    for what in freeze:
        if what not in FREEZABLE:
            raise InputError(f"freeze={what!r}; what can be held is {' and '.join(map(repr, FREEZABLE))}")
    every = list(product(range(model.cfg.n_layers), range(model.cfg.n_heads)))
    for head in heads or ():
        if tuple(head) not in every:
            raise InputError(
                f"head {tuple(head)} is not in the model: layers 0 to {every[-1][0]}, heads 0 to {every[-1][1]}"
            )
    chosen = every if heads is None else [(int(l), int(h)) for l, h in heads]
    direct = decompose(model, prompt, answer, by="source", versus=versus, chat=chat, prefill=prefill)
    wide, _ = linear_parts.in_full_precision(model)
    example = encode(wide, prompt, answer, chat=chat, prefill=prefill)
    wanted = logit_direction(wide, example, versus)
    layers = sorted({layer for layer, _ in chosen})
    parts = [f"blocks.{l}.attn.{part}" for l in layers for part in ("hook_pattern", "hook_v", "hook_z")]
    held = [name for l in layers for name in _behind(wide, l, freeze)]
    acts = activations(wide, example, list(dict.fromkeys([*parts, *held])))

    def numbers(rows: list[list[Edit]]) -> Float[Tensor, "row answer"]:
        logits = answer_logits(wide, example, rows, capped=False, batch_tokens=batch_tokens)
        return torch.stack([wanted.of_logits(row[list(wanted.steps)]) for row in logits]).cpu()

    whole = numbers([[]])[0]
    total = torch.stack(
        [
            torch.cat(
                [
                    whole - numbers([_without(wide, example, acts, head, s, freeze) for s in sources])
                    for sources in chunks(range(len(direct.tokens)), len(direct.tokens), batch_tokens)
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


def _without(
    model: Any, example: Any, acts: dict[str, Tensor], head: tuple[int, int], source: int, freeze: Sequence[str]
) -> list[Edit]:
    """Edits that take one head's reading of one source token out, and hold what is to be held behind it."""
    layer, h = head
    pattern, v = (acts[f"blocks.{layer}.attn.{part}"] for part in ("hook_pattern", "hook_v"))
    group = model.cfg.n_heads // v.shape[1]
    moved = pattern[h, :, source, None] * v[source, h // group]
    z = acts[f"blocks.{layer}.attn.hook_z"][:, h]
    hook = f"blocks.{layer}.attn.hook_z"
    return [Edit(hook, (slice(None), h), z - moved), *hold(model, example, acts, _behind(model, layer, freeze))]


def _behind(model: Any, layer: int, freeze: Sequence[str]) -> list[str]:
    """Names of the activations to hold behind the heads of a layer."""
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
