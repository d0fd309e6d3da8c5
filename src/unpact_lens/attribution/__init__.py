"""Compute how much each unit of a prompt contributes to an answer."""

from unpact_lens.attribution.attribute import attribute
from unpact_lens.attribution.attribute_many import attribute_many
from unpact_lens.attribution.compare_methods import MethodComparison, compare_methods
from unpact_lens.attribution.faithfulness import Faithfulness, faithfulness
from unpact_lens.attribution.interactions import Interactions, interactions
from unpact_lens.attribution.key_tokens import Share, Threshold, TopK
from unpact_lens.attribution.methods import METHODS, attribution_methods
from unpact_lens.attribution.result import Attribution, KeyRule, KeyTokens
from unpact_lens.attribution.rule_sensitivity import Sensitivity, sensitivity
from unpact_lens.attribution.targets import Target
from unpact_lens.boundary import guard_all
from unpact_lens.words import ENGLISH_FUNCTION_WORDS

__all__ = [
    "ENGLISH_FUNCTION_WORDS",
    "METHODS",
    "Attribution",
    "Faithfulness",
    "Interactions",
    "KeyRule",
    "KeyTokens",
    "MethodComparison",
    "Sensitivity",
    "Share",
    "Target",
    "Threshold",
    "TopK",
    "attribute",
    "attribute_many",
    "attribution_methods",
    "compare_methods",
    "faithfulness",
    "interactions",
    "sensitivity",
]

guard_all(globals(), __all__)
