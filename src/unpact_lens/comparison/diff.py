"""Compare how two models answer one question, exactly, part by part."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, overload

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.attribution import Attribution, attribute
from unpact_lens.comparison.activation_changes import ActivationChanges, activations_of_pair
from unpact_lens.comparison.model_pair import ModelPair
from unpact_lens.comparison.noise_columns import before_after_delta, beside_floor, beside_frame
from unpact_lens.comparison.question import Question
from unpact_lens.comparison.split_heads import HeadSplit, split_of_pair
from unpact_lens.comparison.weight_changes import WeightChanges, weights_of_pair
from unpact_lens.data.as_facts import FactTable, as_facts
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.chat import Chat
from unpact_lens.decomposition.capture import Captured
from unpact_lens.decomposition.decompose import decompositions
from unpact_lens.decomposition.result import Decomposition
from unpact_lens.display import joined, largest, quoted
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text
from unpact_lens.results import Result
from unpact_lens.scoring import gather_log_probs

if TYPE_CHECKING:
    from unpact_lens.comparison.diff_summary import DiffSummary


@dataclass(frozen=True, eq=False)
class ModelDiff(Result):
    """Hold one question answered by two models: Δ = after − before of all that `diff` computes.

    Exactly: Δ log-prob = Δ logit − Δ logsumexp, and Δ logit = Σ Δ components.

    Attributes:
        prompt: Prompt, as text.
        answer: Answer, as text.
        tokens: The S input tokens: BOS if there is one, prompt, answer but its last token.
        answer_tokens: The T answer tokens.
        log_prob_before: `[T]`, log p of each answer token in the original model, nats.
        log_prob_after: `[T]`, the same in the unlearned model.
        logit_before: `[T]`, logit of each answer token in the original model, before a final soft-cap.
        logit_after: `[T]`, the same in the unlearned model.
        logsumexp_before: `[T]`, log normaliser, logit − log-prob. With a final soft-cap it also holds the part of the
            logit that the cap took off.
        logsumexp_after: `[T]`, the same in the unlearned model.
        components_before: Decomposition of the logit by component, original model.
        components_after: Decomposition of the logit by component, unlearned model.
        heads_before: Decomposition of the logit by head, original model.
        heads_after: Decomposition of the logit by head, unlearned model.
        contributions_before: Leave-one-out contributions of the prompt tokens, original model; None if not asked for.
        contributions_after: The same in the unlearned model.
        sources_before: Decomposition of the logit by head × source token, original model; None if not asked for.
        sources_after: The same in the unlearned model.
        weights: Change of each matrix, see `weight_changes`; None if not asked for.
        split: Why each head changed, see `split_heads`; None if not asked for.
        activations: How far the activations are apart, see `activation_changes`; None if not asked for.
        floor: Components, heads, sources and contributions of the noise baseline, or None. Weights, split and
            activations hold their own.
        notes: Remarks that a reader must know.
        settings: Other options in force.
        id: Id of the `QA`, or empty.
        subject: Subject of the `QA`, or empty; averages draw whole subjects.
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
    id: str = ""
    subject: str = ""

    figure: ClassVar[str | None] = "model_diff:model_diff"

    def _brief(self) -> str:
        return joined(
            [
                quoted(self.answer, 20),
                f"Δ log-prob {float(self.delta_log_prob.mean()):+.2f} nats",
                f"Δ logit {float(self.delta_logit.mean()):+.2f}",
                largest(self.delta_components.mean(-1), self.components_before.labels[:1]),
            ]
        )

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
        """Δ C(x_i, y) of each prompt token, nats; None if contributions were not asked for."""
        if self.contributions_before is None or self.contributions_after is None:
            return None
        return self.contributions_after.scores - self.contributions_before.scores

    def to_frame(self, what: str = "components") -> pd.DataFrame:
        """Make a table of before, after and Δ, mean over the answer tokens.

        The columns that name a row are those of `Decomposition.to_frame` and `DiffSummary.to_frame`.

        Args:
            what: Rows: `"components"` or `"heads"` (logits), `"sources"` (each source token through all heads, logits),
                or `"tokens"` (contributions of the prompt's tokens, nats).

        Raises:
            InputError: If `what` is unknown, or the diff was made without it.
        """
        views = {"heads": self.heads_frame, "sources": self.sources_frame, "tokens": self.contributions_frame}
        if what in views:
            return views[what]()
        if what != "components":
            raise InputError(f"what={what!r}; {nearest(what, ('components', *views))}")
        sides = (d.values.mean(-1) for d in (self.components_before, self.components_after))
        frame = before_after_delta({"component": self.components_before.labels[0]}, *sides)
        return beside_floor(frame, self.floor, ("delta",))

    def heads_frame(self) -> pd.DataFrame:
        """Make a table with one row per head: layer, head, before, after and Δ, logits."""
        layers, heads = self.heads_before.labels[:2]
        rows = list(product(layers, heads))
        sides = (d.values.mean(-1).flatten() for d in (self.heads_before, self.heads_after))
        frame = before_after_delta({"layer": [r[0] for r in rows], "head": [r[1] for r in rows]}, *sides)
        return beside_frame(frame, None if self.floor is None else self.floor.heads_frame(), ("delta",))

    def contributions_frame(self) -> pd.DataFrame:
        """Make a table with one row per prompt token: its contribution C(x_i, y) before, after, and Δ, nats.

        Raises:
            InputError: If the diff was made without contributions.
        """
        if self.contributions_before is None or self.contributions_after is None:
            raise InputError("this diff has no contributions; make it with diff(..., contributions=True)")
        scores = (a.scores for a in (self.contributions_before, self.contributions_after))
        frame = before_after_delta({"token": self.contributions_before.tokens}, *scores)
        return beside_frame(frame, None if self.floor is None else self.floor.contributions_frame(), ("delta",))

    def sources_frame(self) -> pd.DataFrame:
        """Make a table with one row per source token: its contribution through all heads before, after, and Δ.

        Logits, mean over the answer tokens.

        Raises:
            InputError: If the diff was made without sources.
        """
        if self.sources_before is None or self.sources_after is None:
            raise InputError("this diff has no sources; make it with diff(..., sources=True)")
        moved = (d.values.sum((0, 1)).mean(-1) for d in (self.sources_before, self.sources_after))  # each [source]
        frame = before_after_delta({"position": range(len(self.tokens)), "token": self.tokens}, *moved)
        return beside_frame(frame, None if self.floor is None else self.floor.sources_frame(), ("delta",))


@dataclass(frozen=True)
class DiffParts:
    """Hold which parts of a `ModelDiff` to compute besides components and heads; see `diff`."""

    contributions: bool = False
    sources: bool = False
    weights: bool = False
    split: bool = False
    pattern_parts: bool = False
    activations: bool = False

    @property
    def of_noise(self) -> DiffParts:
        """Parts of the noise baseline that `ModelDiff.floor` holds."""
        return replace(self, weights=False, split=False, pattern_parts=False, activations=False)


@overload
def diff(
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA,
    answer: Text | None = None,
    *,
    contributions: bool = ...,
    sources: bool = ...,
    weights: bool = ...,
    split: bool = ...,
    pattern_parts: bool = ...,
    activations: bool = ...,
    floor: Sequence[HookedModel] | None = ...,
    **asking: Unpack[AskingOptions],
) -> ModelDiff: ...


@overload
def diff(
    before: HookedModel,
    after: HookedModel,
    prompt: Benchmark | FactTable,
    answer: None = None,
    *,
    contributions: bool = ...,
    sources: bool = ...,
    weights: bool = ...,
    split: bool = ...,
    pattern_parts: bool = ...,
    activations: bool = ...,
    floor: Sequence[HookedModel] | None = ...,
    **asking: Unpack[AskingOptions],
) -> DiffSummary: ...


def diff(
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA | Benchmark | FactTable,
    answer: Text | None = None,
    *,
    contributions: bool = True,
    sources: bool = False,
    weights: bool = True,
    split: bool = False,
    pattern_parts: bool = False,
    activations: bool = False,
    floor: Sequence[HookedModel] | None = None,
    **asking: Unpack[AskingOptions],
) -> ModelDiff | DiffSummary:
    r"""Compare how two models answer one question, or a data set; Δ is after − before.

    $\Delta\log p = \Delta z_y - \Delta\log\sum_v e^{z_v}$ and $\Delta z_y = \sum_c \Delta z_c$ over the components c of
    the residual stream, both exactly. A model against itself gives exact zeros.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        prompt: Text or ids; or a `QA`, which holds its answer. Facts in any other form that `from_pairs` reads, e.g. a
            list of pairs or a `Path`, are a data set, and a `Benchmark` stands for its forget facts: the result is then
            the average over them, with 95% CIs, as `average` makes it.
        answer: Text, leading space included, or ids.
        contributions: Also attribute the answer to the prompt's tokens under each model, by leave-one-out.
        sources: Also decompose the logit under each model by head × source token.
        weights: Also compare all weights, matrix by matrix.
        split: Also split each head's Δ between pattern, input, OV and readout.
        pattern_parts: Also split the pattern's share between the weights of queries and keys and their input. Implies
            `split`.
        activations: Also compare all activations of the residual stream and its parts, and next-token distributions.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text), on which the same is measured. Tables and figures show it beside each
            measure.
        **asking: `chat` and `prefill`; see `AskingOptions`.

    Raises:
        InputError: If the models differ in shape, vocabulary or tokenizer (the first mismatch is named), or for any
            input that `decompose` refuses.
    """
    items = _items(prompt, asking.get("chat", False))
    if items and answer is not None:
        raise InputError(f"answer={answer!r:.40}, but the prompt is a data set, whose items hold their answers")
    pair = ModelPair.of(before, after, floor=floor)
    if items:
        from unpact_lens.comparison.average import average

        if isinstance(prompt, Benchmark):
            asking = {"chat": prompt.chat, **asking}
        # Weights, and source tokens of different prompts, have no average.
        parts = DiffParts(contributions, False, False, split, pattern_parts, activations)
        summary: DiffSummary = average(diff_of_pair(pair, Question.of(q), parts, Asking(**asking)) for q in items)
        return summary
    assert not isinstance(prompt, Benchmark)
    parts = DiffParts(contributions, sources, weights, split, pattern_parts, activations)
    return diff_of_pair(pair, Question.of(prompt, answer), parts, Asking(**asking))  # type: ignore[arg-type]


def _items(prompt: Text | QA | Benchmark | FactTable, chat: Chat) -> tuple[QA, ...]:
    """Return the items of a data set; none if the prompt is one question.

    Raises:
        InputError: If a benchmark has no forget facts, or a row is wrong.
    """
    if isinstance(prompt, Benchmark):
        if not prompt.forget:
            raise InputError(f"benchmark {prompt.name!r} has no forget facts; give a list of QA")
        return prompt.forget
    rows = isinstance(prompt, (list, tuple)) and len(prompt) > 0 and isinstance(prompt[0], (QA, list, tuple, Mapping))
    if rows or isinstance(prompt, (os.PathLike, pd.DataFrame, Mapping)) or hasattr(prompt, "column_names"):
        return as_facts(prompt, "prompt", chat=chat)  # type: ignore[arg-type]
    return ()


def diff_of_pair(pair: ModelPair, question: Question, parts: DiffParts, asked: Asking) -> ModelDiff:
    """Compare how a pair of models answers one question; see `diff`."""
    example = asked.encode(pair.before, question.prompt, question.answer)
    views = ("component", "head", *(("source",) if parts.sources else ()))
    (found_before, run_before), (found_after, run_after) = (
        decompositions(model, question.prompt, question.answer, views, asked, vocabulary=True) for model in pair.models
    )
    (components_before, heads_before), (components_after, heads_after) = found_before[:2], found_after[:2]
    log_probs = [_log_probs(run, example.answer) for run in (run_before, run_after)]
    looks = [_contributions(model, question, asked) if parts.contributions else None for model in pair.models]
    noise = None if pair.noise is None else diff_of_pair(pair.noise, question, parts.of_noise, asked)
    split = parts.split or parts.pattern_parts
    return ModelDiff(
        prompt=components_before.prompt,
        answer=components_before.answer,
        tokens=components_before.tokens,
        answer_tokens=components_before.answer_tokens,
        log_prob_before=log_probs[0],
        log_prob_after=log_probs[1],
        logit_before=components_before.total,
        logit_after=components_after.total,
        logsumexp_before=components_before.total - log_probs[0],
        logsumexp_after=components_after.total - log_probs[1],
        components_before=components_before,
        components_after=components_after,
        heads_before=heads_before,
        heads_after=heads_after,
        contributions_before=looks[0],
        contributions_after=looks[1],
        sources_before=found_before[2] if parts.sources else None,
        sources_after=found_after[2] if parts.sources else None,
        weights=weights_of_pair(pair, {}) if parts.weights else None,
        split=split_of_pair(pair, question, asked, parts.pattern_parts) if split else None,
        activations=activations_of_pair(pair, question, asked) if parts.activations else None,
        floor=noise,
        notes=components_before.notes,
        settings=components_before.settings,
        id=question.id,
        subject=question.subject,
    )


def _contributions(model: HookedModel, question: Question, asked: Asking) -> Attribution:
    """Attribute the answer to the prompt's tokens by leave-one-out."""
    found = attribute(model, question.prompt, question.answer, **asked.reading)
    return replace(found, id=question.id, subject=question.subject)


def _log_probs(run: Captured, answer: tuple[int, ...]) -> Float[Tensor, " answer"]:
    """Compute log p of the answer tokens from the logits of one forward pass, nats."""
    labels = torch.tensor([answer], device=run.capped.device)  # [1, answer]
    return gather_log_probs(run.capped[None], labels)[0].cpu()
