"""Define the choices under which each conclusion is drawn again, and the baseline that they are compared with.

Three conclusions are drawn for each choice:

- *net R*: emphasis on the KeyTokens brings back more facts than the same emphasis on random words, by method;
- *focus*: the KeyTokens overlap less on forget facts than on retain facts, by method;
- *F ranking*: the difference in forgetting, by pair of methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unpact_lens.attribution import KeyRule, Share, Threshold, TopK
from unpact_lens.data.emphasis import HEADLINE
from unpact_lens.evaluation.result import FACT
from unpact_lens.results import storable
from unpact_lens.words import ENGLISH_FUNCTION_WORDS

NET_R, FOCUS, RANKING = "net R", "focus", "F ranking"
"""Names of the conclusions."""

BASELINE_NAME = "baseline"
"""Dimension of the choice that all others are compared with."""


@storable
@dataclass(frozen=True)
class Choice:
    """Hold one way to draw the conclusions; each default is that of the baseline.

    Attributes:
        dimension: What is varied.
        name: Value that it is varied to.
        rule: Rule that selects the KeyTokens.
        attribution: Method of attribution.
        answer_free: Emphasise the KeyTokens of the model's own answer.
        fact_only: Take contributions to the answer's fact tokens only.
        template: Template of the emphasis.
        metric: Metric by which an answer counts as right: `"fact_span"`, or one of `ANSWER_METRICS` at its threshold.
        phrasing: Index of the held-out paraphrase that is asked; None asks the main phrasing.
    """

    dimension: str
    name: str
    rule: KeyRule = field(default_factory=TopK)
    attribution: str = "leave_one_out"
    answer_free: bool = False
    fact_only: bool = False
    template: str = HEADLINE
    metric: str = FACT
    phrasing: int | None = None

    @property
    def conclusions(self) -> tuple[str, ...]:
        """Conclusions that this choice can change."""
        contributions = (self.rule, self.attribution, self.fact_only) != (TopK(3), "leave_one_out", False)
        general = self.dimension == BASELINE_NAME or self.phrasing is not None
        found = {NET_R: True, FOCUS: general or contributions, RANKING: general or self.metric != FACT}
        return tuple(name for name, drawn in found.items() if drawn)


BASELINE = Choice(BASELINE_NAME, "TopK(3), leave-one-out, fact span, focus_list")
"""The baseline."""

CHOICES: tuple[Choice, ...] = (
    BASELINE,
    Choice("KeyToken rule", "TopK(1)", rule=TopK(1)),
    Choice("KeyToken rule", "TopK(5)", rule=TopK(5)),
    Choice("KeyToken rule", "Share(0.8)", rule=Share(0.8)),
    Choice("KeyToken rule", "Threshold(0.1)", rule=Threshold(0.1)),
    Choice("KeyToken rule", "TopK(3), whole words", rule=TopK(3, words=True)),
    Choice(
        "KeyToken rule", "TopK(3), content words",
        rule=TopK(3, words=True, stopwords=ENGLISH_FUNCTION_WORDS, skip_punctuation=True),
    ),
    Choice("KeyTokens towards", "the model's own answer", answer_free=True),
    Choice("KeyTokens towards", "the fact's tokens only", fact_only=True),
    Choice("attribution", "knockout", attribution="knockout"),
    Choice("attribution", "grad_x_input", attribution="grad_x_input"),
    Choice("attribution", "attention_rollout", attribution="attention_rollout"),
    Choice("metric", "exact match", metric="exact_match"),
    Choice("metric", "ROUGE-L F1 >= .5", metric="rouge_l"),
    Choice("metric", "meaning, cosine >= .8", metric="semantic_similarity"),
    Choice("emphasis", "quotes", template="quotes"),
    Choice("emphasis", "doubled", template="doubled"),
    Choice("emphasis", "reminder", template="reminder"),
    Choice("question", "held-out phrasing 1", phrasing=0),
    Choice("question", "held-out phrasing 2", phrasing=1),
)  # fmt: skip
"""All choices, fixed before the run, with the baseline first."""
