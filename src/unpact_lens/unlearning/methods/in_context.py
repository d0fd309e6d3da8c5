r"""Register in-context unlearning: put examples with other answers before every text, with the weights unchanged.

Algorithm:
    1. Draw k forget questions, each with another answer, then l retain questions with their right answers.
    2. Write each question and answer on a line of its own.
    3. At inference, put these lines before every text, after BOS if the model takes one.

Source: Pawelczyk, Neel and Lakkaraju 2023, arXiv 2310.07579.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unpact_lens.data.benchmark import Corpus
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.reading import Reading
from unpact_lens.models.tokens import bos_ids, text_ids
from unpact_lens.results import storable
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.job import Job, Plan
from unpact_lens.unlearning.methods.dpo import ALTERNATIVES, alternatives
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.trainer import Run


@storable
@dataclass(init=False, repr=False, eq=False)
class Prefixed(CombinedModel):
    """Predict with one model that reads a fixed prefix before every text.

    The prefix comes after BOS where the model takes one and the text begins with it, else first. The positions of the
    text alone are returned: position i predicts the token after the i-th of the text, given the prefix. The context of
    the model (`cfg.n_ctx`) is shorter by the prefix.

    Attributes:
        prefix: Token ids of the prefix.
        members: The model, alone.

    Raises:
        InputError: If the prefix leaves no room in the model's context.
    """

    prefix: tuple[int, ...]
    members: tuple[HookedModel, ...] = CombinedModel.members  # type: ignore[assignment]

    reads_as_given = False

    def __init__(self, members: Sequence[HookedModel], prefix: Sequence[int]) -> None:
        super().__init__(members)
        self.prefix = text_ids(members[0], prefix, "prefix")
        if len(self.prefix) >= self.cfg.n_ctx:
            raise InputError(
                f"a prefix of {len(self.prefix)} tokens leaves no room for a text: the model's context is "
                f"{self.cfg.n_ctx}; give a shorter prefix"
            )
        self.cfg.n_ctx -= len(self.prefix)
        self._bos = bos_ids(members[0])

    def readings(self, texts: Sequence[Sequence[int]]) -> list[Reading]:
        """Return the texts with the prefix before them."""
        heads = [1 if self._bos and tuple(text[:1]) == self._bos else 0 for text in texts]
        return [
            Reading([[*text[:n], *self.prefix, *text[n:]] for text, n in zip(texts, heads, strict=True)])
        ]  # fmt: skip

    def combine(self, parts: Sequence[Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute the logits of the model."""
        return hooked.unembed(self.members[0], parts[0])


def context_lines(job: Job) -> list[str]:
    """Draw forget questions with other answers and retain questions with their own, and write each as one line.

    Raises:
        InputError: If the forget set is raw text, `forgets` and `retains` are both 0, retain questions are asked for
            and there are none, or a forget question has no other answer.
    """
    items, options = job.questions("method 'in_context' shows questions with other answers"), job.options
    rng = random.Random(f"in_context/{job.seed}")
    if not options["forgets"] and not options["retains"]:
        raise InputError("forgets=0 and retains=0 leave nothing to put before a text; give at least one of them")
    if options["retains"] and (isinstance(job.retain, Corpus) or not job.retain):
        kind = "raw text" if job.retain else "missing"
        raise InputError(
            f"retains={options['retains']} shows retain questions, and the retain set is {kind}; give retain= as QA "
            "items, or retains=0"
        )
    other = alternatives(job, rng) if options["forgets"] else []
    shown = rng.sample(range(len(items)), min(options["forgets"], len(items)))
    pairs = [(items[i], other[i][0]) for i in shown]
    if job.retain and not isinstance(job.retain, Corpus):
        kept = rng.sample(list(job.retain), min(options["retains"], len(job.retain)))
        pairs += [(q, q.answer) for q in kept]
    prefill = job.settings.prefill
    return [f"{q.prompt}{prefill.replace('{subject}', q.subject)}{answer}\n" for q, answer in pairs]


def put_before(plan: Plan) -> Run:
    """Put the lines before every text that the copy reads.

    Raises:
        InputError: If they leave no room for the forget questions and their answers.
    """
    job = plan.job
    lines = context_lines(job)
    prefix = text_ids(job.before, "".join(lines), "context")
    question = max(len(row.context) for row in job.data.rows)
    answer = max(job.settings.max_new_tokens, *(len(row.answer) for row in job.data.rows))
    room = job.before.cfg.n_ctx
    if len(prefix) + question + answer > room:
        raise InputError(
            f"{len(lines)} lines of context have {len(prefix)} tokens, and the longest forget question and answer need "
            f"{question} + {answer}; the model's context is {room}: lower forgets=, retains= or max_new_tokens="
        )
    model = Prefixed((plan.after,), prefix)
    return Run([{"step": 0, **plan.checks.take(model, 0, last=True)}], "nothing to train", model)


METHODS.add(
    "in_context",
    Method(
        "in_context",
        "in-context unlearning: questions with other answers before every text, with the weights unchanged",
        "p_θ0(y | c, x), c = k forget questions with other answers and l retain questions, a line each",
        "Pawelczyk, Neel and Lakkaraju 2023, arXiv 2310.07579",
        forget=lambda view, options: losses.nll(view.log_probs, view.mask),
        options={
            "forgets": Option(6, Number(0, whole=True)),
            "retains": Option(6, Number(0, whole=True)),
            "alternatives": ALTERNATIVES["alternatives"],
        },
        carry_out=put_before,
        combines=True,
        adapts="it trains nothing",
        note="the source writes a context for each query, which holds the query's own example, and is for "
        "classification; here one context is put before all texts. The seed draws at most forgets= and retains= "
        "questions; retains= above 0 needs a retain set of questions. Other answers are chosen as in dpo: those given "
        "(alternatives=), else the item's perturbed answers, else answers of other items of its kind. A chat template "
        "does not wrap the lines. lr and steps have no effect.",
    ),
)
