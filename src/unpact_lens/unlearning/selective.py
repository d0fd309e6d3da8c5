r"""Weigh answer tokens by what they owe to the KeyTokens: the parts that the `unpact_*` methods share.

From each forget example's contribution matrix C (prompt token i, answer token k) of the original model, taken once
before unlearning:

- `unpact_select` penalises only the answer tokens that depend on the KeyTokens, with weight
  $w_k \propto \max(0, \sum_{i \in \mathrm{Key}} C_{ik})$, or a given share of each answer's tokens. Tokens that the
  KeyTokens do not decide (an answer's first words, its grammar) are kept.
- `unpact_recall` does the same for answers that are sentences. A sentence repeats words of the question, which owe most
  to the KeyTokens. The fact after them reads them there and hardly depends on the prompt. So the key words are hidden
  in the prompt and in the answer, and the tokens that become less likely are penalised, except copied ones.
- `unpact_blind` penalises nothing. The model learns to answer the whole prompt as the original model answers it without
  its KeyTokens. The loss is bounded, and its target is the answer of a model that is not told whom the question is
  about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution import Attribution, TopK, attribute_many
from unpact_lens.data.benchmark import QA
from unpact_lens.models.tokens import Encoded
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import View
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.trainer import Loss, Options

KEYS: Options = {"key_tokens": Option(3, Number(1, whole=True))}
"""Hyperparameter of the KeyTokens."""

KEEP_REST: Options = {"keep_rest": Option(1.0, Number(0))}
"""Hyperparameter of the likelihood of the tokens that are not penalised."""


def largest_1(raw: Float[Tensor, " answer"]) -> Float[Tensor, " answer"]:
    """Scale weights to a maximum of 1. If all are 0, they stay 0."""
    largest = raw.max()
    return raw / largest if largest > 0 else raw


def rest_of(weights: Float[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    """Return 1 for each token with weight 0, and 0 for all others: the tokens to keep."""
    return (weights <= 0).to(weights.dtype)


def selective_ascent(view: View, options: Options) -> Tensor:
    """Compute ascent on the weighted tokens and the likelihood of the rest."""
    keep = options["keep_rest"]
    penalty = losses.weighted_ascent(view.log_probs, view.weights, view.mask)
    return penalty - keep * losses.weighted_ascent(view.log_probs, rest_of(view.weights), view.mask)


def selective_npo(view: View, options: Options) -> Tensor:
    """Compute NPO on the weighted sequence sum and the likelihood of the rest."""
    w = view.weights  # [batch, pos]
    penalty = losses.npo(w * view.log_probs, w * view.ref_log_probs, view.mask, options["beta"])
    return penalty - options["keep_rest"] * losses.sequence_sums(rest_of(w) * view.log_probs, view.mask).mean()


def selective_simnpo(view: View, options: Options) -> Tensor:
    """Compute SimNPO on the weighted mean and the likelihood of the rest."""
    w, lengths = view.weights, view.mask.sum(-1)  # [batch, pos], [batch]
    penalty = losses.simnpo(w * view.log_probs, view.mask, options["beta"], options["delta"])
    rest = losses.sequence_sums(rest_of(w) * view.log_probs, view.mask) / lengths
    return penalty - options["keep_rest"] * rest.mean()


def on_base_loss(template: Method, base: str, loss: Loss, options: Options) -> Method:
    """Return the variant of an ascent method on a base loss that is taken of whole answers.

    Args:
        template: Method with ascent as its base loss.
        base: Name of the base loss: `"NPO"` or `"SimNPO"`.
        loss: Weighted form of the base loss.
        options: Hyperparameters of the base loss.
    """
    return dataclasses.replace(
        template,
        name=f"{template.name}_{base.lower()}",
        line=base + template.line.removeprefix("ascent"),
        forget=loss,
        per="example",
        sums="length_scale" in options,
        options={**template.options, **options},
    )


def attributed_questions(job: Job) -> tuple[list[QA], list[Attribution]]:
    """Attribute the forget set under the original model, with every phrasing that is unlearned.

    Raises:
        InputError: If the forget set is raw text.
    """
    questions = job.questions("selective unlearning attributes answers to prompts")
    every = job.settings.phrasings == "all"
    items = [
        dataclasses.replace(qa, prompt=prompt)
        for qa in questions
        for prompt in ((qa.prompt, *qa.paraphrases) if every else (qa.prompt,))
    ]
    found = attribute_many(job.before, items, chat=job.settings.chat, prefill=job.settings.prefill, progress=False)
    return items, found


def contributions(job: Job) -> list[tuple[Float[Tensor, "prompt answer"], list[int]]]:
    """Return, for each row of the forget set, its contributions under the original model and its KeyTokens' rows.

    The end token of an answer is not attributed; its contributions are 0.
    """
    rule = TopK(job.options["key_tokens"])
    found = []
    for row, a in zip(job.data.rows, attributed_questions(job)[1], strict=True):
        c = a.per_answer_token  # [prompt, answer]
        c = torch.nn.functional.pad(c, (0, len(row.answer) - c.shape[1]))  # [prompt, answer + end]
        found.append((c, list(a.key_tokens(rule).indices)))
    return found


def without_tokens(row: Encoded, keys: Sequence[int]) -> Encoded:
    """Remove these tokens from the prompt. If nothing would be left, the last of them stays."""
    spare = len(keys) == len(row.prompt) and not row.head and not row.tail
    return row.without(keys[:-1] if spare else keys)
