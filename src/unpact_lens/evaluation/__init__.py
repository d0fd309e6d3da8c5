"""How well a model answers, what it lost, and what can be said of that with confidence."""

from unpact_lens.evaluation.agreement import (
    ANSWER_METRICS,
    Agreement,
    AnswerMetric,
    LabelledPair,
    agreement,
    labelled_pairs,
)
from unpact_lens.evaluation.answer_metrics import METRICS, Metric, metrics
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
from unpact_lens.evaluation.harness import HarnessScores, run_harness
from unpact_lens.evaluation.known_facts import knowledge, known_facts, right_facts
from unpact_lens.evaluation.membership_inference import Membership, auc, membership, muse_auc, privacy_leakage, privleak
from unpact_lens.evaluation.memorisation import Memorisation, exact_memorisation, extraction_strength, knowmem, verbmem
from unpact_lens.evaluation.multiple_choice import Choices, choose
from unpact_lens.evaluation.perplexity import perplexity, score_texts
from unpact_lens.evaluation.published import PUBLISHED, Published, published
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.semantic import Judge, Judgement, embed, entailment, judge_answers, semantic_similarity
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
from unpact_lens.evaluation.verdict import Verdict, distance_to_reliable, facts_to_decide, verdict
from unpact_lens.stats.bootstrap import mean_interval, paired_difference, quantiles, resampled_means
from unpact_lens.stats.estimate import Contrast, Difference, Estimate, MeanRate, Rate, lost
from unpact_lens.stats.intervals import paired_score_interval, wilson
from unpact_lens.stats.ks import KSTest, ks_test
from unpact_lens.stats.tests import holm, mcnemar
from unpact_lens.text_tables import to_latex, to_markdown

__all__ = [
    "ANSWER_METRICS",
    "METRICS",
    "PUBLISHED",
    "Agreement",
    "AnswerMetric",
    "Answers",
    "Choices",
    "Contrast",
    "Difference",
    "Estimate",
    "HarnessScores",
    "Judge",
    "Judgement",
    "KSTest",
    "LabelledPair",
    "MeanRate",
    "Membership",
    "Memorisation",
    "Metric",
    "Published",
    "Rate",
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
    "fact_right",
    "fact_tokens",
    "facts_to_decide",
    "forget_quality",
    "holds_fact",
    "holm",
    "judge_answers",
    "knowledge",
    "knowmem",
    "known_facts",
    "ks_test",
    "labelled_pairs",
    "log_truth_ratio",
    "lost",
    "mcnemar",
    "mean_interval",
    "membership",
    "metrics",
    "model_utility",
    "muse_auc",
    "normalise",
    "option_probability",
    "paired_difference",
    "paired_score_interval",
    "perplexity",
    "prefill_for",
    "privacy_leakage",
    "privleak",
    "published",
    "quantiles",
    "resampled_means",
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
    "wilson",
]
