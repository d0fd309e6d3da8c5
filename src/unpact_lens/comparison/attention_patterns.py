"""Show which tokens the heads that changed most attend to, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.comparison.diff import DiffParts, diff_of_pair
from unpact_lens.comparison.model_pair import ModelPair
from unpact_lens.comparison.noise_columns import beside_floor
from unpact_lens.comparison.question import Question
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition.intervene import activations
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.display import joined, quoted
from unpact_lens.errors import InputError
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text, token_strings
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class AttentionPatterns(Result):
    """Hold attention weights of some heads over one example, under two models.

    Attributes:
        before: `[head, query, key]`, attention weights of the original model; each row sums to 1, or less if the model
            has an attention sink.
        after: `[head, query, key]`, the same in the unlearned model.
        heads: `(layer, head)` of each.
        delta: `[head]`, Δ of each head's direct contribution to the answer's logit, mean over the answer tokens. Heads
            are ordered by it unless they were chosen.
        tokens: The S input tokens.
        prompt: Prompt, as text.
        answer: Answer, as text.
        floor: The same heads for the noise baseline, or None.
    """

    figure: ClassVar[str | None] = "attention_patterns:attention_patterns"

    before: Float[Tensor, "head query key"]
    after: Float[Tensor, "head query key"]
    heads: tuple[tuple[int, int], ...]
    delta: Float[Tensor, " head"]
    tokens: tuple[str, ...]
    prompt: str
    answer: str
    floor: AttentionPatterns | None = None

    def _brief(self) -> str:
        return joined(
            [
                ", ".join(f"L{l}H{h} Δ {d:+.2f}" for (l, h), d in zip(self.heads, self.delta.tolist(), strict=True)),
                f"{len(self.tokens)} tokens",
                quoted(self.answer, 20),
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per head and key: attention of the last position, before, after, and Δ."""
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
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA,
    answer: Text | None = None,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    top: int = 6,
    floor: Sequence[HookedModel] | None = None,
    **asking: Unpack[AskingOptions],
) -> AttentionPatterns:
    """Return attention patterns of chosen heads, or of the heads whose direct contribution changed most.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        prompt: Text or ids; or a `QA`, which holds its answer.
        answer: Text, leading space included, or ids.
        heads: `(layer, head)` pairs; if None, the `top` heads by |Δ|.
        top: Number of heads.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text), whose same heads are shown.
        **asking: `chat` and `prefill`; see `AskingOptions`.

    Raises:
        InputError: If a head does not exist, `top` is not positive, or for any input that `diff` refuses.
    """
    if top < 1:
        raise InputError(f"top={top}; give a positive number of heads")
    asked = Asking(**asking)
    pair, question = ModelPair.of(before, after, floor=floor), Question.of(prompt, answer)
    n_layers, n_heads = before.cfg.n_layers, before.cfg.n_heads
    for head in heads or ():
        if not (0 <= head[0] < n_layers and 0 <= head[1] < n_heads):
            raise InputError(
                f"head {tuple(head)} is not in the model: layers 0 to {n_layers - 1}, heads 0 to {n_heads - 1}"
            )
    return _patterns_of_pair(pair, question, asked, heads, top)


def _patterns_of_pair(
    pair: ModelPair, question: Question, asked: Asking, heads: Sequence[tuple[int, int]] | None, top: int
) -> AttentionPatterns:
    """Return the patterns of both models; see `attention_patterns`."""
    if (heads is not None and not len(heads)) or top < 1:
        raise InputError(f"heads={heads}, top={top}; give at least one head")
    before, n_heads = pair.before, pair.before.cfg.n_heads
    delta = diff_of_pair(replace(pair, noise=None), question, DiffParts(), asked).delta_heads.mean(-1)  # [layer, head]
    order = delta.abs().flatten().argsort(descending=True, stable=True)[:top].tolist()
    chosen = [(i // n_heads, i % n_heads) for i in order] if heads is None else [(int(l), int(h)) for l, h in heads]
    example = asked.encode(before, question.prompt, question.answer)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in dict.fromkeys(layer for layer, _ in chosen)]
    sides = [activations(model, example, names) for model in pair.models]
    patterns = [torch.stack([acts[f"blocks.{l}.attn.hook_pattern"][h].cpu() for l, h in chosen]) for acts in sides]
    found = AttentionPatterns(
        before=patterns[0],
        after=patterns[1],
        heads=tuple(chosen),
        delta=torch.stack([delta[l, h] for l, h in chosen]),
        tokens=token_strings(before, example.ids[:-1]),
        prompt=text_of(before, question.prompt),
        answer=text_of(before, question.answer),
    )
    if pair.noise is None:
        return found
    return replace(found, floor=_patterns_of_pair(pair.noise, question, asked, chosen, top))
