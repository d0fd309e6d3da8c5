r"""Measure the share of the lost log-probability that runs through attention to the KeyTokens, head by head.

In the unlearned model, the sum that each head moves from the KeyTokens' positions,
$\sum_{k \in \mathrm{Key}} A_{tk}\,v_k$, is replaced by the original model's, at every layer of one forward pass. The
answer is scored. The share is the part of the lost log-probability that this brings back. As a control, the same is
done with as many other prompt tokens, drawn at random. Restoring the attention weights alone tests whether the heads
stopped attending to the KeyTokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.attribution import KeyRule, TopK, attribute
from unpact_lens.comparison.model_pair import ModelPair
from unpact_lens.comparison.noise_columns import beside_floor
from unpact_lens.comparison.question import Question
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition.components import head_labels
from unpact_lens.decomposition.intervene import activations, answer_log_probs, chunks
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.display import joined, quoted
from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.same_weights import same_weights
from unpact_lens.models.tokens import Encoded, Text, token_strings
from unpact_lens.results import Result
from unpact_lens.scoring import gather_log_probs

RESTORE = ("moved", "pattern")
"""What is restored: all that heads moved from those positions, or their attention weights alone."""


@dataclass(frozen=True, eq=False)
class KeyPath(Result):
    """Hold how much of a lost answer comes back when heads read the KeyTokens as in the original model.

    Attributes:
        log_prob_before: LP(x, y) of the original model, nats.
        log_prob_after: LP(x, y) of the unlearned model, nats.
        log_prob_key: LP(x, y) of the unlearned model with the readings of the KeyTokens restored in all heads, nats.
        log_prob_rest: `[draw]`, the same for as many other prompt tokens, drawn at random; empty if all are key.
        log_prob_all: The same for all input positions.
        by_head: `[layer, head]`, the same for the KeyTokens, one head alone; NaN if not asked for.
        keys: Indices of the KeyTokens among the prompt's tokens.
        restore: `"moved"` or `"pattern"`.
        labels: Names of layers and heads.
        tokens: Tokens of the prompt.
        prompt: Prompt, as text.
        answer: Answer, as text.
        settings: Seed, number of draws, `batch_tokens`.
        floor: The same for the noise baseline, with the same KeyTokens and draws; or None.
        id: Id of the `QA`, or empty.
        subject: Subject of the `QA`, or empty; averages draw whole subjects.
    """

    figure: ClassVar[str | None] = "key_path:key_path"

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
    id: str = ""
    subject: str = ""

    def _brief(self) -> str:
        return joined(
            [
                quoted(self.answer, 20),
                f"KeyTokens bring back {self.share:.0%} of the loss",
                f"others {self.share_rest:.0%}",
                f"all {self.share_all:.0%}",
            ]
        )

    def _share(self, log_prob: float) -> float:
        gap = self.log_prob_before - self.log_prob_after
        return (log_prob - self.log_prob_after) / gap if gap else float("nan")

    @property
    def share(self) -> float:
        """Share of the loss that comes back through the KeyTokens; NaN if nothing was lost. May lie outside 0 to 1."""
        return self._share(self.log_prob_key)

    @property
    def share_rest(self) -> float:
        """Share that comes back through as many other tokens, mean over the draws; NaN if there are none."""
        return self._share(float(self.log_prob_rest.mean())) if len(self.log_prob_rest) else float("nan")

    @property
    def share_all(self) -> float:
        """Share that comes back through all positions."""
        return self._share(self.log_prob_all)

    @property
    def values(self) -> Float[Tensor, "layer head"]:
        """Change of LP(x, y) by restoring the KeyTokens in each head alone, nats."""
        return self.by_head - self.log_prob_after

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per path: log-probability and its change (nats), and the change over the loss.

        The noise baseline follows the change in nats, and again as a share of this comparison's loss.
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


@dataclass(frozen=True)
class Restoring:
    """Hold what is restored and in how many ways; see `key_path`.

    Raises:
        InputError: If `restore` is unknown.
    """

    keys: KeyRule | Sequence[int] | None = None
    restore: str = "moved"
    draws: int = 8
    seed: int = 0
    by_head: bool = True

    def __post_init__(self) -> None:
        if self.restore not in RESTORE:
            raise InputError(f"restore={self.restore!r}; {nearest(str(self.restore), RESTORE)}")


def key_path(
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA,
    answer: Text | None = None,
    *,
    keys: KeyRule | Sequence[int] | None = None,
    restore: str = "moved",
    draws: int = 8,
    seed: int = 0,
    by_head: bool = True,
    floor: Sequence[HookedModel] | None = None,
    **asking: Unpack[AskingOptions],
) -> KeyPath:
    """Measure the share of the lost log-probability that runs through attention to the KeyTokens.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        prompt: Text or ids; or a `QA`, which holds its answer.
        answer: Text, leading space included, or ids.
        keys: Rule applied to the leave-one-out contributions under the original model, or indices of prompt tokens;
            `TopK(3)` if None.
        restore: `"moved"`: attention weights and values of the original model; `"pattern"`: its attention weights on
            the values of the unlearned model.
        draws: Number of random sets of other tokens.
        seed: Random seed of the draws.
        by_head: Also restore the readings of each head alone, which is one run per head.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text). The second reads the same KeyTokens, and the same other tokens, as the
            first.
        **asking: `chat`, `prefill` and `batch_tokens`; see `AskingOptions`.

    Raises:
        InputError: If `restore` is unknown, an index lies outside the prompt, the models are not comparable, or they
            differ and all heads read all tokens alike.
    """
    restoring = Restoring(keys, restore, draws, seed, by_head)
    asked = Asking(**asking)
    return key_path_of_pair(ModelPair.of(before, after, floor=floor), Question.of(prompt, answer), restoring, asked)


def key_path_of_pair(pair: ModelPair, question: Question, restoring: Restoring, asked: Asking) -> KeyPath:
    """Measure the key path of one question; see `key_path`."""
    before, after = pair.models
    example = asked.encode(before, question.prompt, question.answer)
    chosen = _keys(before, question, restoring.keys, asked)
    for k in chosen:
        if not 0 <= k < len(example.prompt):
            raise InputError(f"key token {k} lies outside the prompt of {len(example.prompt)} tokens")
    sets = _other_sets(len(example.prompt), chosen, restoring)
    layers, heads = before.cfg.n_layers, before.cfg.n_heads
    every = [(l, h) for l in range(layers) for h in range(heads)]
    require_acting_hooks(
        after, [f"blocks.{layer}.attn.hook_z" for layer in range(layers)], feature="key_path",
        remedy="load both models with wrap='hooked'",
    )  # fmt: skip
    offset = len(example.head)
    rows = [
        _Row([offset + k for k in chosen], every),
        _Row(list(range(len(example.ids) - 1)), every),
        *(_Row([offset + k for k in drawn], every) for drawn in sets),
        *(_Row([offset + k for k in chosen], [head]) for head in every if restoring.by_head),
    ]
    unedited = answer_log_probs(after, example, [[]]).mean()
    scores = _restored(pair, example, rows, restoring.restore, unedited, asked.batch_tokens)
    single = scores[2 + len(sets) :] if restoring.by_head else torch.full((layers * heads,), float("nan"))
    found = KeyPath(
        log_prob_before=float(answer_log_probs(before, example, [[]]).mean()),
        log_prob_after=float(unedited),
        log_prob_key=float(scores[0]),
        log_prob_rest=scores[2 : 2 + len(sets)],
        log_prob_all=float(scores[1]),
        by_head=single.reshape(layers, heads),
        keys=tuple(chosen),
        restore=restoring.restore,
        labels=head_labels(before),
        tokens=token_strings(before, example.prompt),
        prompt=text_of(before, question.prompt),
        answer=text_of(before, question.answer),
        settings={"draws": len(sets), "seed": restoring.seed, "batch_tokens": asked.batch_tokens},
        id=question.id,
        subject=question.subject,
    )
    if pair.noise is None:
        return found
    return replace(found, floor=key_path_of_pair(pair.noise, question, replace(restoring, keys=chosen), asked))


def _keys(model: HookedModel, question: Question, keys: KeyRule | Sequence[int] | None, asked: Asking) -> list[int]:
    """Return the indices of the KeyTokens, by a rule or as given."""
    if keys is not None and not isinstance(keys, KeyRule):
        return [int(k) for k in keys]
    rule = TopK(3) if keys is None else keys
    found = attribute(model, question.prompt, question.answer, **asked.reading)
    return list(found.key_tokens(rule).indices)


def _other_sets(tokens: int, keys: Sequence[int], restoring: Restoring) -> list[list[int]]:
    """Draw sets of other prompt tokens, as many in each as there are KeyTokens; none if all tokens are key."""
    others = [i for i in range(tokens) if i not in keys]
    generator = torch.Generator().manual_seed(restoring.seed)
    return [
        [others[j] for j in torch.randperm(len(others), generator=generator)[: len(keys)].tolist()]
        for _ in range(restoring.draws if others else 0)
    ]


@dataclass(frozen=True)
class _Row:
    """Hold which source positions are restored in one run, in which heads."""

    positions: list[int]
    heads: list[tuple[int, int]]


def _restored(
    pair: ModelPair,
    example: Encoded,
    rows: Sequence[_Row],
    restore: str,
    unedited: Float[Tensor, ""],
    batch_tokens: int | None,
) -> Float[Tensor, " row"]:
    """Compute LP(x, y) of the unlearned model with each row's readings restored, nats.

    A row whose readings are already equal to the last bit is not run: its change is exactly 0.

    Args:
        pair: Original and unlearned model.
        example: Prompt and answer.
        rows: Readings to restore, one set per run.
        restore: One of `RESTORE`.
        unedited: LP(x, y) of the unlearned model, nats.
        batch_tokens: Largest number of input tokens in one forward pass.

    Raises:
        InputError: If no reading of any row differs, although the models do.
    """
    layers = range(pair.before.cfg.n_layers)
    names = [f"blocks.{l}.attn.{part}" for l in layers for part in ("hook_pattern", "hook_v")]
    given, own = (activations(model, example, names) for model in pair.models)
    differs = torch.tensor([_differs(row, given, own, restore) for row in rows])
    if not differs.any() and not same_weights(*pair.models):
        raise InputError(
            f"restore={restore!r} changes nothing: no head reads any token differently in the two models, so "
            "unlearning changed other parts; use patch(what='mlp') or graft_map"
        )
    found = unedited.repeat(len(rows))
    for chunk in chunks(pair.after, differs.nonzero()[:, 0].tolist(), len(example.ids) - 1, batch_tokens):
        masks = torch.zeros(len(chunk), len(layers), pair.before.cfg.n_heads, len(example.ids) - 1)
        for i, row in enumerate(rows[place] for place in chunk):
            for layer, head in row.heads:
                masks[i, layer, head, row.positions] = 1
        found[chunk] = _run(pair.after, example, given, masks, restore).cpu()
    return found


def _differs(row: _Row, given: dict[str, Tensor], own: dict[str, Tensor], restore: str) -> bool:
    """Check whether any reading that this row restores differs between the two models."""
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
    model: HookedModel,
    example: Encoded,
    given: dict[str, Tensor],
    masks: Float[Tensor, "row layer head source"],
    restore: str,
) -> Float[Tensor, " row"]:
    """Score the answer with the masked readings of each row replaced by the given ones, nats."""
    device = hooked.device_of(model)
    tokens = torch.tensor([example.ids[:-1]], device=device).expand(len(masks), -1)
    positions = len(example.context) - 1 + torch.arange(len(example.answer), device=device)
    now: dict[str, Tensor] = {}

    def take(act: Tensor, hook: Any, *, name: str) -> None:
        now[name] = act

    def put_back(z: Tensor, hook: Any, *, layer: int) -> Tensor:
        pattern, v = (now[f"blocks.{layer}.attn.{part}"] for part in ("hook_pattern", "hook_v"))
        old_pattern, old_v = (given[f"blocks.{layer}.attn.{part}"] for part in ("hook_pattern", "hook_v"))
        v, old_v = hooked.values_read(model, v), hooked.values_read(model, old_v)
        mask = masks[:, layer, :, None].to(z)  # [row, head, 1, source]
        group = z.shape[2] // v.shape[2]
        values = v.repeat_interleave(group, dim=2)  # [row, source, head, d_head]
        wanted = old_v.repeat_interleave(group, dim=1).expand_as(values) if restore == "moved" else values
        change = torch.einsum("bhts,bshe->bthe", mask * old_pattern, wanted)  # [row, target, head, d_head]
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
