"""Where the heads that changed most look, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.diff import diff
from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.result import beside_floor
from unpact_lens.decomposition.intervene import activations
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text, encode, token_strings
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class AttentionPatterns(Result):
    """Attention of some heads over one example, under two models.

    Attributes:
        before: `[head, query, key]`, attention weights; each row sums to 1, or less where the model has a sink.
        after: the same after.
        heads: `(layer, head)` of each.
        delta: `[head]`, Δ of what each adds to the answer's logit, mean over the answer tokens; the order of the heads.
        tokens: the S input tokens.
        prompt: the prompt, as text.
        answer: the answer, as text.
        floor: the same heads under a pair of models that differ by noise only; or None.
    """

    figure: ClassVar[str | None] = "interventions:attention_patterns"

    before: Float[Tensor, "head query key"]
    after: Float[Tensor, "head query key"]
    heads: tuple[tuple[int, int], ...]
    delta: Float[Tensor, " head"]
    tokens: tuple[str, ...]
    prompt: str
    answer: str
    floor: AttentionPatterns | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row for each head and key: attention from the position that predicts the answer's last token, and Δ."""
        rows = [(h, k) for h in range(len(self.heads)) for k in range(len(self.tokens))]
        before, after = self.before[:, -1].flatten(), self.after[:, -1].flatten()
        frame = pd.DataFrame(
            {
                "head": ["L{}H{}".format(*self.heads[h]) for h, _ in rows],
                "position": [k for _, k in rows],
                "token": [self.tokens[k] for _, k in rows],
                "before": before.tolist(),
                "after": after.tolist(),
                "delta": (after - before).tolist(),
            }
        )
        return beside_floor(frame, self.floor, ("delta",))


def attention_patterns(
    before: Any,
    after: Any,
    prompt: Text,
    answer: Text,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    top: int = 6,
    floor: Sequence[Any] | None = None,
    chat: bool = False,
    prefill: Text = "",
) -> AttentionPatterns:
    """Attention patterns of chosen heads, or of those whose part in the answer's logit changed most.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        heads: `(layer, head)` pairs; by default the `top` heads by |Δ|.
        top: how many.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text), under which the same heads are shown.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Raises:
        InputError: if a head does not exist, `top` is not positive, or for any input that `diff` refuses.
    """
    if top < 1:
        raise InputError(f"top={top}; give a positive number of heads")
    require_comparable(before, after)
    noise = None if floor is None else floor_of(before, floor)
    n_layers, n_heads = before.cfg.n_layers, before.cfg.n_heads
    for head in heads or ():
        if not (0 <= head[0] < n_layers and 0 <= head[1] < n_heads):
            raise InputError(
                f"head {tuple(head)} is not in the model: layers 0 to {n_layers - 1}, heads 0 to {n_heads - 1}"
            )
    changes = diff(before, after, prompt, answer, contributions=False, weights=False, chat=chat, prefill=prefill)
    delta = changes.delta_heads.mean(-1)
    order = delta.abs().flatten().argsort(descending=True, stable=True)[:top].tolist()
    chosen = [(i // n_heads, i % n_heads) for i in order] if heads is None else [(int(l), int(h)) for l, h in heads]
    example = encode(before, prompt, answer, chat=chat, prefill=prefill)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in dict.fromkeys(layer for layer, _ in chosen)]
    sides = [activations(model, example, names) for model in (before, after)]
    patterns = [torch.stack([acts[f"blocks.{l}.attn.hook_pattern"][h].cpu() for l, h in chosen]) for acts in sides]
    return AttentionPatterns(
        before=patterns[0],
        after=patterns[1],
        heads=tuple(chosen),
        delta=torch.stack([delta[l, h] for l, h in chosen]),
        tokens=token_strings(before, example.ids[:-1]),
        prompt=text_of(before, prompt),
        answer=text_of(before, answer),
        floor=None
        if noise is None
        else attention_patterns(*noise, prompt, answer, heads=chosen, chat=chat, prefill=prefill),
    )
