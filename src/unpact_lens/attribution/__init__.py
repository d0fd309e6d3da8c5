"""How much each unit of a prompt contributes to an answer."""

from unpact_lens.attribution.key_tokens import ENGLISH_FUNCTION_WORDS, KeyRule, Share, Threshold, TopK
from unpact_lens.attribution.result import Attribution, KeyTokens

__all__ = [
    "ENGLISH_FUNCTION_WORDS",
    "Attribution",
    "KeyRule",
    "KeyTokens",
    "Share",
    "Threshold",
    "TopK",
]
