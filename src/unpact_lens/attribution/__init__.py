"""How much each unit of a prompt contributes to an answer."""

from unpact_lens.attribution.attribute import attribute, attribute_many
from unpact_lens.attribution.compare_methods import compare_methods
from unpact_lens.attribution.faithfulness import faithfulness
from unpact_lens.attribution.interactions import interactions
from unpact_lens.attribution.key_tokens import KeyRule, Share, Threshold, TopK
from unpact_lens.attribution.methods import METHODS, attribution_methods
from unpact_lens.attribution.result import (
    Attribution,
    Faithfulness,
    Interactions,
    KeyTokens,
    MethodComparison,
    Sensitivity,
)
from unpact_lens.attribution.rule_sensitivity import sensitivity
from unpact_lens.attribution.targets import Target
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
