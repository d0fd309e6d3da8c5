r"""What share of the loss of log-probability runs through attention *to the KeyTokens*: finding 1, head by head.

In the model after, what each head moves from the KeyTokens' positions, $\sum_{k \in \mathrm{Key}} A_{tk}\,v_k$, is put
back to what it was before, at every layer while the forward pass goes on, and the answer is scored. The share is how
much of the lost log-probability that brings back. As a control, the same is done with as many other prompt tokens,
drawn at random; and with the attention weights alone, which asks whether the heads stopped *looking*.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution import KeyRule, TopK, attribute
from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.result import beside_floor
from unpact_lens.decomposition.components import head_labels
from unpact_lens.decomposition.intervene import activations, answer_log_probs, chunks
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.tokens import Encoded, Text, encode, token_strings
from unpact_lens.results import Result
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS, gather_log_probs

RESTORE = ("moved", "pattern")
"""What is put back: all that heads moved from those positions, or their attention weights alone."""


@dataclass(frozen=True, eq=False)
class KeyPath(Result):
    """How much of a lost answer comes back when heads read the KeyTokens again as they did before.

    Attributes:
        log_prob_before: LP(x, y) of the model before, nats.
        log_prob_after: the same after.
        log_prob_key: the same after, with what all heads move from the KeyTokens put back.
        log_prob_rest: `[draw]`, the same for as many other prompt tokens, drawn at random; empty where all are key.
        log_prob_all: the same for all input positions.
        by_head: `[layer, head]`, the same for the KeyTokens, one head alone; NaN where it was not asked for.
        keys: indices of the KeyTokens among the prompt's tokens.
        restore: `"moved"` or `"pattern"`.
        labels: layers and heads.
        tokens: the prompt's tokens.
        prompt: the prompt, as text.
        answer: the answer, as text.
        settings: seed and draws.
        floor: the same between two models that differ by noise only, for the same KeyTokens and draws; or None.
    """

    figure: ClassVar[str | None] = "interventions:key_path"

    log_prob_before: float
    log_prob_after: float
    log_prob_key: float
    log_prob_rest: Float[Tensor, " draw"]
    log_prob_all: float
    by_head: Float[Tensor, "layer head"]
    keys: tuple[int, ...]
    restore: str
    labels: tuple[tuple[str, ...], tuple[str, ...]]
    tokens: tuple[str, ...]
    prompt: str
    answer: str
    settings: dict[str, Any] = field(default_factory=dict)
    floor: KeyPath | None = None

    def _share(self, log_prob: float) -> float:
        gap = self.log_prob_before - self.log_prob_after
        return (log_prob - self.log_prob_after) / gap if gap else float("nan")

    @property
    def share(self) -> float:
        """Share of the loss that comes back through the KeyTokens; NaN where nothing was lost. May leave 0 to 1."""
        return self._share(self.log_prob_key)

    @property
    def share_rest(self) -> float:
        """The same through as many other tokens, mean over the draws; NaN where there are none."""
        return self._share(float(self.log_prob_rest.mean())) if len(self.log_prob_rest) else float("nan")

    @property
    def share_all(self) -> float:
        """The same through all positions."""
        return self._share(self.log_prob_all)

    @property
    def values(self) -> Float[Tensor, "layer head"]:
        """What each head alone brings back from the KeyTokens, nats."""
        return self.by_head - self.log_prob_after

    def to_frame(self) -> pd.DataFrame:
        """One row for each way: its log-probability and what it brings back, nats; that as a share of the loss.

        A noise floor stands behind what is brought back, in nats, and as a share of *this* loss: how much of it noise
        alone would account for.
        """
        rows = {
            "before": self.log_prob_before,
            "after": self.log_prob_after,
            "key tokens": self.log_prob_key,
            "other tokens": float(self.log_prob_rest.mean()),
            "all tokens": self.log_prob_all,
        }
        frame = pd.DataFrame(
            {
                "path": list(rows),
                "log_prob": list(rows.values()),
                "change": [v - self.log_prob_after for v in rows.values()],
                "share": [self._share(v) for v in rows.values()],
            }
        )
        if self.floor is not None:
            beside_floor(frame, self.floor, ("change",))
            frame["share_floor"] = [self._share(self.log_prob_after + v) for v in frame["change_floor"]]
        return frame


def key_path(
    before: Any,
    after: Any,
    prompt: Text,
    answer: Text,
    *,
    keys: KeyRule | Sequence[int] | None = None,
    restore: str = "moved",
    draws: int = 8,
    seed: int = 0,
    by_head: bool = True,
    floor: Sequence[Any] | None = None,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> KeyPath:
    """Share of the loss of log-probability that runs through attention to the KeyTokens.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        keys: a rule applied to the leave-one-out contributions under the model before, or indices of prompt tokens;
            `TopK(3)` by default.
        restore: `"moved"`: attention weights and values of the model before; `"pattern"`: its attention weights on
            the values of the model after.
        draws: how many sets of other tokens.
        seed: of the draws.
        by_head: also put back what each head alone reads, which is a run for each of them.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text): in the second, the same KeyTokens, and the same other tokens, are read as in the first.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Raises:
        InputError: if `restore` is unknown, an index lies outside the prompt, or the models are not comparable.
    """
    if restore not in RESTORE:
        raise InputError(f"restore={restore!r}; {nearest(str(restore), RESTORE)}")
    require_comparable(before, after)
    noise = None if floor is None else floor_of(before, floor)
    example = encode(before, prompt, answer, chat=chat, prefill=prefill)
    chosen = _keys(before, prompt, answer, keys, chat, prefill)
    for k in chosen:
        if not 0 <= k < len(example.prompt):
            raise InputError(f"key token {k} lies outside the prompt of {len(example.prompt)} tokens")
    others = [i for i in range(len(example.prompt)) if i not in chosen]
    generator = torch.Generator().manual_seed(seed)
    sets = [
        [others[j] for j in torch.randperm(len(others), generator=generator)[: len(chosen)].tolist()]
        for _ in range(draws if others else 0)
    ]
    layers, heads = before.cfg.n_layers, before.cfg.n_heads
    every = [(l, h) for l in range(layers) for h in range(heads)]
    offset = len(example.head)
    rows = [
        _Row([offset + k for k in chosen], every),
        _Row(list(range(len(example.ids) - 1)), every),
        *(_Row([offset + k for k in drawn], every) for drawn in sets),
        *(_Row([offset + k for k in chosen], [head]) for head in every if by_head),
    ]
    unedited = answer_log_probs(after, example, [[]]).mean()
    found = _restored(before, after, example, rows, restore, unedited, batch_tokens)
    labels = head_labels(before)
    beside = None
    if noise is not None:
        beside = key_path(
            *noise, prompt, answer, keys=chosen, restore=restore, draws=draws, seed=seed, by_head=by_head, chat=chat,
            prefill=prefill, batch_tokens=batch_tokens,
        )  # fmt: skip
    return KeyPath(
        log_prob_before=float(answer_log_probs(before, example, [[]]).mean()),
        log_prob_after=float(unedited),
        log_prob_key=float(found[0]),
        log_prob_rest=found[2 : 2 + len(sets)],
        log_prob_all=float(found[1]),
        by_head=found[2 + len(sets) :].reshape(layers, heads) if by_head else torch.full((layers, heads), float("nan")),
        keys=tuple(chosen),
        restore=restore,
        labels=labels,
        tokens=token_strings(before, example.prompt),
        prompt=text_of(before, prompt),
        answer=text_of(before, answer),
        settings={"draws": len(sets), "seed": seed, "batch_tokens": batch_tokens},
        floor=beside,
    )


def _keys(
    model: Any, prompt: Text, answer: Text, keys: KeyRule | Sequence[int] | None, chat: bool, prefill: Text
) -> list[int]:
    if keys is not None and not isinstance(keys, KeyRule):
        return [int(k) for k in keys]
    rule = TopK(3) if keys is None else keys
    return list(attribute(model, prompt, answer, chat=chat, prefill=prefill).key_tokens(rule).indices)


@dataclass(frozen=True)
class _Row:
    """One run: which source positions are put back, in which heads."""

    positions: list[int]
    heads: list[tuple[int, int]]


def _restored(
    before: Any,
    after: Any,
    example: Encoded,
    rows: Sequence[_Row],
    restore: str,
    unedited: Float[Tensor, ""],
    batch_tokens: int,
) -> Float[Tensor, " row"]:
    """LP(x, y) of the model after, with those readings as before, for each row; nats.

    A row whose readings are already as before, to the last bit, is not run: it brings back exactly nothing.
    """
    layers = range(before.cfg.n_layers)
    names = [f"blocks.{l}.attn.{part}" for l in layers for part in ("hook_pattern", "hook_v")]
    given, own = (activations(model, example, names) for model in (before, after))
    differs = torch.tensor([_differs(row, given, own, restore) for row in rows])
    found = unedited.repeat(len(rows))
    for chunk in chunks(differs.nonzero()[:, 0].tolist(), len(example.ids) - 1, batch_tokens):
        masks = torch.zeros(len(chunk), len(layers), before.cfg.n_heads, len(example.ids) - 1)
        for i, row in enumerate(rows[place] for place in chunk):
            for layer, head in row.heads:
                masks[i, layer, head, row.positions] = 1
        found[chunk] = _run(after, example, given, masks, restore).cpu()
    return found


def _differs(row: _Row, given: dict[str, Tensor], own: dict[str, Tensor], restore: str) -> bool:
    """Whether any reading that this row puts back is another in the two models."""
    for layer, head in row.heads:
        pattern, values = (f"blocks.{layer}.attn.{part}" for part in ("hook_pattern", "hook_v"))
        group = given[pattern].shape[0] // given[values].shape[1]
        if not torch.equal(given[pattern][head][:, row.positions], own[pattern][head][:, row.positions]):
            return True
        kept = (row.positions, head // group)
        if restore == "moved" and not torch.equal(given[values][kept], own[values][kept]):
            return True
    return False


def _run(
    model: Any, example: Encoded, given: dict[str, Tensor], masks: Float[Tensor, "row layer head source"], restore: str
) -> Float[Tensor, " row"]:
    device = hooked.device_of(model)
    tokens = torch.tensor([example.ids[:-1]], device=device).expand(len(masks), -1)
    positions = len(example.context) - 1 + torch.arange(len(example.answer), device=device)
    now: dict[str, Tensor] = {}

    def take(act: Tensor, hook: Any, *, name: str) -> None:
        now[name] = act

    def put_back(z: Tensor, hook: Any, *, layer: int) -> Tensor:
        pattern, v = (now[f"blocks.{layer}.attn.{part}"] for part in ("hook_pattern", "hook_v"))
        old_pattern, old_v = (given[f"blocks.{layer}.attn.{part}"] for part in ("hook_pattern", "hook_v"))
        mask = masks[:, layer, :, None].to(z)
        group = z.shape[2] // v.shape[2]
        values = v.repeat_interleave(group, dim=2)
        wanted = old_v.repeat_interleave(group, dim=1).expand_as(values) if restore == "moved" else values
        change = torch.einsum("bhts,bshe->bthe", mask * old_pattern, wanted)
        return z + change - torch.einsum("bhts,bshe->bthe", mask * pattern, values)

    hooks: list[tuple[str, Callable[..., Tensor | None]]] = []
    for layer in range(model.cfg.n_layers):
        for part in ("hook_v", "hook_pattern"):
            name = f"blocks.{layer}.attn.{part}"
            hooks.append((name, functools.partial(take, name=name)))
        hooks.append((f"blocks.{layer}.attn.hook_z", functools.partial(put_back, layer=layer)))
    with torch.no_grad():
        logits = hooked.read_out_at(model, tokens, lambda resid: resid[:, positions], hooks)
    labels = torch.tensor(example.answer, device=device).expand(len(masks), -1)
    return gather_log_probs(logits, labels).mean(-1)
