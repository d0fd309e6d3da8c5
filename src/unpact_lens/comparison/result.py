"""What a comparison of two models is: the same measures before and after, and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.result import Attribution
from unpact_lens.decomposition.result import Decomposition
from unpact_lens.errors import InputError
from unpact_lens.results import Result


def beside_floor(frame: pd.DataFrame, floor: Result | None, columns: Sequence[str]) -> pd.DataFrame:
    """The table with `{column}_floor` behind each of these columns, where there is a noise floor."""
    return _beside(frame, None if floor is None else floor.to_frame(), columns)


def _beside(frame: pd.DataFrame, floor: pd.DataFrame | None, columns: Sequence[str]) -> pd.DataFrame:
    if floor is not None:
        for column in columns:
            frame.insert(list(frame.columns).index(column) + 1, f"{column}_floor", floor[column].to_numpy())
    return frame


def _sides(names: dict[str, Sequence[Any]], before: Tensor, after: Tensor) -> pd.DataFrame:
    """Names of the rows, and a measure before, after, and Δ."""
    values = {"before": before, "after": after, "delta": after - before}
    return pd.DataFrame({**names, **{side: v.tolist() for side, v in values.items()}})


@dataclass(frozen=True, eq=False)
class WeightChanges(Result):
    """How much each weight changed; one entry a row in every tensor.

    Attributes:
        names: the weights.
        norm_before: Frobenius norm before.
        norm_after: Frobenius norm after.
        norm_delta: Frobenius norm of Δ.
        relative: norm of Δ over norm before; NaN where both are zero.
        spectral: largest singular value of Δ; for a vector its norm.
        effective_rank: exp of the entropy of Δ's singular values normalised to sum 1; NaN where Δ is zero.
        cosine: cosine of the weight before with the weight after; 1 where they are equal.
        task_vector_cosine: cosine of Δ with a given task vector; NaN where none was given or one of them is zero.
        floor: the same of a pair of models that differ by noise only; or None.
    """

    names: tuple[str, ...]
    norm_before: Float[Tensor, " weight"]
    norm_after: Float[Tensor, " weight"]
    norm_delta: Float[Tensor, " weight"]
    relative: Float[Tensor, " weight"]
    spectral: Float[Tensor, " weight"]
    effective_rank: Float[Tensor, " weight"]
    cosine: Float[Tensor, " weight"]
    task_vector_cosine: Float[Tensor, " weight"]
    floor: WeightChanges | None = None

    figure: ClassVar[str | None] = "comparison:weight_changes"

    def to_frame(self) -> pd.DataFrame:
        """One row for each weight."""
        columns = (
            "norm_before", "norm_after", "norm_delta", "relative", "spectral", "effective_rank", "cosine",
            "task_vector_cosine",
        )  # fmt: skip
        frame = pd.DataFrame({"weight": self.names, **{c: getattr(self, c).tolist() for c in columns}})
        return beside_floor(frame, self.floor, columns[2:7])


@dataclass(frozen=True, eq=False)
class HeadSplit(Result):
    """Why each head's part in the answer's logit changed: four players, whose shares sum to its Δ exactly.

    Attributes:
        values: `[player, layer, head, T]`, logits: each player's Shapley value.
        players: `"pattern"` (where the head looks), `"input"` (the normed residual stream it reads its values from),
            `"ov"` (`W_V`, `b_V`, `W_O`), `"readout"` (final norm, unembedding, and a norm behind the attention).
        before: `[layer, head, T]`, what each head adds to the logit before.
        after: the same after.
        pattern_parts: `[2, layer, head, T]`, where asked for: the pattern's share split into `"qk_weights"` and
            `"qk_input"` (what queries and keys are made from); they sum to it.
        labels: layers, heads, answer tokens.
        prompt: the prompt, as text.
        answer: the answer, as text.
        floor: the same of a pair of models that differ by noise only; or None.
    """

    figure: ClassVar[str | None] = "comparison:head_split"

    values: Float[Tensor, "player layer head answer"]
    players: tuple[str, ...]
    before: Float[Tensor, "layer head answer"]
    after: Float[Tensor, "layer head answer"]
    pattern_parts: Float[Tensor, "2 layer head answer"] | None
    labels: tuple[tuple[str, ...], ...]
    prompt: str
    answer: str
    floor: HeadSplit | None = None

    @property
    def delta(self) -> Float[Tensor, "layer head answer"]:
        """Δ of each head, logits: the sum of `values` over the players."""
        return self.after - self.before

    def to_frame(self) -> pd.DataFrame:
        """One row for each head, mean over the answer tokens; one column for each player. Logits."""
        mean = self.values.mean(-1)
        rows = list(product(*self.labels[:2]))
        frame = pd.DataFrame({"layer": [l for l, _ in rows], "head": [h for _, h in rows]})
        for k, player in enumerate(self.players):
            frame[player] = mean[k].flatten().tolist()
        if self.pattern_parts is not None:
            for part, share in zip(("qk_weights", "qk_input"), self.pattern_parts.mean(-1), strict=True):
                frame[part] = share.flatten().tolist()
        frame["delta"] = self.delta.mean(-1).flatten().tolist()
        return beside_floor(frame, self.floor, list(frame.columns[2:]))


@dataclass(frozen=True, eq=False)
class ActivationChanges(Result):
    """How far the activations of two models are apart, hook by hook and position by position.

    Attributes:
        hooks: the hook names.
        tokens: the S input tokens.
        norm_before: `[hook, S]`, length of the activation before.
        norm_delta: `[hook, S]`, length of Δ.
        cosine: `[hook, S]`, cosine of before and after; 1 where they are equal, NaN where one is zero.
        cka: `[hook]`, linear CKA over the positions: 1 where the two agree up to rotation and scale; NaN where one is
            the same at every position.
        kl: `[S]`, KL(before ‖ after) of the next-token distributions, nats.
        prompt: the prompt, as text.
        answer: the answer, as text.
        floor: the same of a pair of models that differ by noise only; or None.
    """

    figure: ClassVar[str | None] = "comparison:activation_changes"

    hooks: tuple[str, ...]
    tokens: tuple[str, ...]
    norm_before: Float[Tensor, "hook source"]
    norm_delta: Float[Tensor, "hook source"]
    cosine: Float[Tensor, "hook source"]
    cka: Float[Tensor, " hook"]
    kl: Float[Tensor, " source"]
    prompt: str
    answer: str
    floor: ActivationChanges | None = None

    @property
    def relative(self) -> Float[Tensor, "hook source"]:
        """Length of Δ over the length before; NaN where both are zero."""
        return self.norm_delta / self.norm_before

    def to_frame(self) -> pd.DataFrame:
        """One row for each hook: CKA, and means over the positions."""
        frame = pd.DataFrame(
            {
                "hook": self.hooks,
                "norm_before": self.norm_before.mean(1).tolist(),
                "norm_delta": self.norm_delta.mean(1).tolist(),
                "cosine": self.cosine.nanmean(1).tolist(),
                "cka": self.cka.tolist(),
            }
        )
        return beside_floor(frame, self.floor, ("norm_delta", "cosine", "cka"))

    def kl_frame(self) -> pd.DataFrame:
        """One row for each position: KL(before ‖ after) of what is predicted there, nats."""
        frame = pd.DataFrame({"position": range(len(self.tokens)), "token": self.tokens, "kl": self.kl.tolist()})
        if self.floor is not None:
            frame["kl_floor"] = self.floor.kl.tolist()
        return frame


@dataclass(frozen=True, eq=False)
class ModelDiff(Result):
    """One question answered by two models: Δ = after − before of all that `diff` computes.

    Exactly: Δ log-prob = Δ logit − Δ logsumexp, and Δ logit = Σ Δ components.

    Attributes:
        prompt: the prompt, as text.
        answer: the answer, as text.
        tokens: the S input tokens: BOS where there is one, prompt, answer but its last token.
        answer_tokens: the T answer tokens.
        log_prob_before: `[T]`, log p of each answer token, nats.
        log_prob_after: the same after.
        logit_before: `[T]`, its logit, before a final soft-cap.
        logit_after: the same after.
        logsumexp_before: `[T]`, the log normaliser, logit − log-prob; where there is a final soft-cap it also holds
            what the cap took off the logit.
        logsumexp_after: the same after.
        components_before: decomposition of the logit by component.
        components_after: the same after.
        heads_before: decomposition of the logit by head.
        heads_after: the same after.
        contributions_before: leave-one-out contributions of the prompt tokens; None where they were not asked for.
        contributions_after: the same after.
        sources_before: decomposition of the logit by head × source token; None where it was not asked for.
        sources_after: the same after.
        weights: one row for each matrix: how much it changed; see `weight_changes`. None where not asked for.
        split: why each head changed; see `split_heads`. None where not asked for.
        activations: how far the activations are apart; see `activation_changes`. None where not asked for.
        floor: components, heads, sources and contributions of a pair of models that differ by noise only; or None.
            That of weights, split and activations stands in each of them.
        notes: what a reader must know.
        settings: whatever else was in force.
    """

    prompt: str
    answer: str
    tokens: tuple[str, ...]
    answer_tokens: tuple[str, ...]
    log_prob_before: Float[Tensor, " answer"]
    log_prob_after: Float[Tensor, " answer"]
    logit_before: Float[Tensor, " answer"]
    logit_after: Float[Tensor, " answer"]
    logsumexp_before: Float[Tensor, " answer"]
    logsumexp_after: Float[Tensor, " answer"]
    components_before: Decomposition
    components_after: Decomposition
    heads_before: Decomposition
    heads_after: Decomposition
    contributions_before: Attribution | None = None
    contributions_after: Attribution | None = None
    sources_before: Decomposition | None = None
    sources_after: Decomposition | None = None
    weights: WeightChanges | None = None
    split: HeadSplit | None = None
    activations: ActivationChanges | None = None
    floor: ModelDiff | None = None
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    figure: ClassVar[str | None] = "comparison:model_diff"

    @property
    def delta_log_prob(self) -> Float[Tensor, " answer"]:
        """Δ log p of each answer token, nats."""
        return self.log_prob_after - self.log_prob_before

    @property
    def delta_logit(self) -> Float[Tensor, " answer"]:
        """Δ logit of each answer token."""
        return self.logit_after - self.logit_before

    @property
    def delta_logsumexp(self) -> Float[Tensor, " answer"]:
        """Δ log normaliser at each answer token, nats."""
        return self.logsumexp_after - self.logsumexp_before

    @property
    def delta_components(self) -> Float[Tensor, "component answer"]:
        """Δ of each component, logits; rows as `components_before.labels[0]`. Their sum is `delta_logit`."""
        return self.components_after.values - self.components_before.values

    @property
    def delta_heads(self) -> Float[Tensor, "layer head answer"]:
        """Δ of each head, logits."""
        return self.heads_after.values - self.heads_before.values

    @property
    def delta_contributions(self) -> Float[Tensor, " prompt"] | None:
        """Δ C(x_i, y) of each prompt token, nats; None where contributions were not asked for."""
        if self.contributions_before is None or self.contributions_after is None:
            return None
        return self.contributions_after.scores - self.contributions_before.scores

    def to_frame(self) -> pd.DataFrame:
        """One row for each component: its mean over the answer tokens before, after, and Δ. Logits."""
        sides = (d.values.mean(-1) for d in (self.components_before, self.components_after))
        frame = _sides({"component": self.components_before.labels[0]}, *sides)
        return beside_floor(frame, self.floor, ("delta",))

    def contributions_frame(self) -> pd.DataFrame:
        """One row for each prompt token: its contribution C(x_i, y) before, after, and Δ, nats.

        Raises:
            InputError: if the diff was made without contributions.
        """
        if self.contributions_before is None or self.contributions_after is None:
            raise InputError("this diff has no contributions; make it with diff(..., contributions=True)")
        scores = (a.scores for a in (self.contributions_before, self.contributions_after))
        frame = _sides({"token": self.contributions_before.tokens}, *scores)
        return _beside(frame, None if self.floor is None else self.floor.contributions_frame(), ("delta",))

    def sources_frame(self) -> pd.DataFrame:
        """One row for each source token: what all heads move from it into the answer's logit before, after, and Δ.

        Logits, mean over the answer tokens.

        Raises:
            InputError: if the diff was made without sources.
        """
        if self.sources_before is None or self.sources_after is None:
            raise InputError("this diff has no sources; make it with diff(..., sources=True)")
        moved = (d.values.sum((0, 1)).mean(-1) for d in (self.sources_before, self.sources_after))
        frame = _sides({"position": range(len(self.tokens)), "token": self.tokens}, *moved)
        return _beside(frame, None if self.floor is None else self.floor.sources_frame(), ("delta",))


@dataclass(frozen=True, eq=False)
class PatchingMap(Result):
    """Where one model's activations, put into the other, bring the answer back.

    Attributes:
        log_prob: `[row, column]`, mean log-probability of the answer with the patch at that place, nats.
        labels: the names of rows (layers) and columns (positions, heads, or the one column of an MLP map).
        baseline: mean log-probability of the recipient unpatched, nats.
        donor: mean log-probability of the model that gives the activations, nats.
        what: what is patched: `"resid_pre"`, `"attn_out"`, `"mlp_out"`, `"head"`, ...
        direction: `"before_into_after"` or `"after_into_before"`.
        prompt: the prompt, as text.
        answer: the answer, as text.
        tokens: the S input tokens.
        method: `"exact"` (one forward a patch) or `"gradient"` (attribution patching).
        error: where the gradient method was asked to check itself: the exact values minus its own; else None.
        floor: the same between two models that differ by noise only; or None.
    """

    log_prob: Float[Tensor, "row column"]
    labels: tuple[tuple[str, ...], ...]
    baseline: float
    donor: float
    what: str
    direction: str
    prompt: str
    answer: str
    tokens: tuple[str, ...]
    method: str = "exact"
    error: Float[Tensor, "row column"] | None = None
    floor: PatchingMap | None = None

    figure: ClassVar[str | None] = "comparison:patching_map"

    @property
    def values(self) -> Float[Tensor, "row column"]:
        """Change of the mean log-probability by each patch, nats."""
        return self.log_prob - self.baseline

    @property
    def restored(self) -> Float[Tensor, "row column"]:
        """Share of the gap between the two models that each patch closes: 0 none, 1 all; NaN where there is no gap."""
        gap = self.donor - self.baseline
        return self.values / gap if gap else torch.full_like(self.log_prob, float("nan"))

    def to_frame(self) -> pd.DataFrame:
        """One row for each patch; where there is a noise floor, its change stands behind the change, nats."""
        rows = list(product(*self.labels))
        frame = pd.DataFrame(
            {
                "layer": [r for r, _ in rows],
                "place": [c for _, c in rows],
                "log_prob": self.log_prob.flatten().tolist(),
                "change": self.values.flatten().tolist(),
                "restored": self.restored.flatten().tolist(),
            }
        )
        return beside_floor(frame, self.floor, ("change",))
