"""How well a model answers, what it lost, and what can be said of that with confidence."""

from unpact_lens.evaluation.answers import (
    Answers,
    answer_all,
    ask,
    degenerate,
    exact_match,
    fact_right,
    fact_tokens,
    holds_fact,
    normalise,
    prefill_for,
    rouge,
)
from unpact_lens.evaluation.evaluate import evaluate
from unpact_lens.evaluation.known import known_facts, right_facts
from unpact_lens.evaluation.metric import METRICS, Metric, metrics
from unpact_lens.evaluation.rates import (
    Contrast,
    Difference,
    Estimate,
    MeanRate,
    Rate,
    holm,
    lost,
    mcnemar,
    mean_interval,
    paired_difference,
    paired_score_interval,
    wilson,
)
from unpact_lens.evaluation.scores import Scores
from unpact_lens.evaluation.text import perplexity, score_texts
from unpact_lens.evaluation.verdict import Verdict, distance_to_reliable, facts_to_decide, verdict

__all__ = [
    "METRICS",
    "Answers",
    "Contrast",
    "Difference",
    "Estimate",
    "MeanRate",
    "Metric",
    "Rate",
    "Scores",
    "Verdict",
    "answer_all",
    "ask",
    "degenerate",
    "distance_to_reliable",
    "evaluate",
    "exact_match",
    "fact_right",
    "fact_tokens",
    "facts_to_decide",
    "holds_fact",
    "holm",
    "known_facts",
    "lost",
    "mcnemar",
    "mean_interval",
    "metrics",
    "normalise",
    "paired_difference",
    "paired_score_interval",
    "perplexity",
    "prefill_for",
    "right_facts",
    "rouge",
    "score_texts",
    "verdict",
    "wilson",
]
