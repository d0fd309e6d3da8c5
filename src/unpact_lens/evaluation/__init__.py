"""Evaluate models: what they answer, what they lost, and a verdict with confidence intervals.

Each metric is one function in one file, decorated with `metrics.metric`.
"""

# Metrics are listed and computed in the order of these imports.
# isort: off
from unpact_lens.boundary import guard_all
from unpact_lens.evaluation.answers import (
    Answers,
    answer_all,
    ask,
    fact_match,
    fact_right,
    fact_tokens,
    holds_fact,
    normalise,
    prefill_for,
)
from unpact_lens.evaluation.fact_matching import Match, match_fact
from unpact_lens.evaluation.metrics import METRICS, Metric, metric, metrics
from unpact_lens.evaluation import fact_span as _fact_span  # noqa: F401
from unpact_lens.evaluation.exact_match import exact_match
from unpact_lens.evaluation.rouge import rouge
from unpact_lens.evaluation import probability as _probability  # noqa: F401
from unpact_lens.evaluation.degenerate import degenerate
from unpact_lens.evaluation.memorisation import exact_memorisation, extraction_strength
from unpact_lens.evaluation.semantic import embed, semantic_similarity
from unpact_lens.evaluation.entailment import entailment
from unpact_lens.evaluation.judge import Judge, Judgement, judge_answers
from unpact_lens.evaluation.perplexity import perplexity, score_texts
from unpact_lens.evaluation.tofu import (
    TofuScores,
    forget_quality,
    log_truth_ratio,
    model_utility,
    option_probability,
    tofu_scores,
    truth_ratio_forget,
    truth_ratio_keep,
)
from unpact_lens.evaluation.muse import Memorisation, knowmem, verbmem
from unpact_lens.evaluation.membership_inference import Membership, auc, membership, muse_auc, privacy_leakage, privleak
from unpact_lens.evaluation.multiple_choice import Choices, choose
from unpact_lens.evaluation import mia as _mia  # noqa: F401
# isort: on

from unpact_lens.evaluation.agreement import (
    ANSWER_METRICS,
    Agreement,
    AnswerMetric,
    LabelledPair,
    agreement,
    labelled_pairs,
)
from unpact_lens.evaluation.evaluate import evaluate
from unpact_lens.evaluation.harness import HarnessScores, run_harness
from unpact_lens.evaluation.known_facts import knowledge, known_facts, right_facts
from unpact_lens.evaluation.memorised_retention import memorised_retention
from unpact_lens.evaluation.meta_evaluate import MetaEvaluation, verdict_score
from unpact_lens.evaluation.published import PUBLISHED, Published, published
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.verdict import Verdict, distance_to_reliable, facts_to_decide, verdict
from unpact_lens.text_tables import to_latex, to_markdown

__all__ = [
    "ANSWER_METRICS",
    "METRICS",
    "PUBLISHED",
    "Agreement",
    "AnswerMetric",
    "Answers",
    "Choices",
    "HarnessScores",
    "Judge",
    "Judgement",
    "LabelledPair",
    "Match",
    "Membership",
    "Memorisation",
    "MetaEvaluation",
    "Metric",
    "Published",
    "Scores",
    "TofuScores",
    "Verdict",
    "agreement",
    "answer_all",
    "ask",
    "auc",
    "choose",
    "degenerate",
    "distance_to_reliable",
    "embed",
    "entailment",
    "evaluate",
    "exact_match",
    "exact_memorisation",
    "extraction_strength",
    "fact_match",
    "fact_right",
    "fact_tokens",
    "facts_to_decide",
    "forget_quality",
    "holds_fact",
    "judge_answers",
    "knowledge",
    "knowmem",
    "known_facts",
    "labelled_pairs",
    "log_truth_ratio",
    "match_fact",
    "membership",
    "memorised_retention",
    "metric",
    "metrics",
    "model_utility",
    "muse_auc",
    "normalise",
    "option_probability",
    "perplexity",
    "prefill_for",
    "privacy_leakage",
    "privleak",
    "published",
    "right_facts",
    "rouge",
    "run_harness",
    "score_texts",
    "semantic_similarity",
    "to_latex",
    "to_markdown",
    "tofu_scores",
    "truth_ratio_forget",
    "truth_ratio_keep",
    "verbmem",
    "verdict",
    "verdict_score",
]

guard_all(globals(), __all__)
