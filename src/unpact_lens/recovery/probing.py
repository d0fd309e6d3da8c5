"""Hold how forgotten facts are probed: the options of `recover` and `recovery_plan`, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from unpact_lens.attribution import KeyRule, TopK
from unpact_lens.data.emphasis import EMPHASIS, HEADLINE
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.batches import check_batch_tokens
from unpact_lens.recovery.result import PREFILL, RELEARN

ORACLE, ANSWER_FREE, AFTER = "oracle", "answer_free", "after"
KEY_SOURCES = (ORACLE, ANSWER_FREE, AFTER)
"""Sources of KeyTokens: the original model towards the gold answer, the original model towards its own answer, and the
unlearned model towards the gold answer."""

DEFAULT_PROBES = (PREFILL, RELEARN)
"""Probes that are asked beside the emphasis templates unless others are named."""

ALL = "all"
"""Value of `probes` that asks every probe that applies."""

DEFAULT_RULE = TopK(3)
"""Default rule for KeyTokens."""

GAIN = 4.0
"""Default factor on the attention to the key tokens. It was fixed before any run."""

MIN_BEFORE = 0.7
"""Smallest share of facts that the original model must answer under a template, unless it is the headline."""


class ProbingOptions(TypedDict, total=False):
    """Keyword arguments of `recover` and `recovery_plan`.

    Attributes:
        templates: Names of the emphasis templates. Default: all templates in `EMPHASIS`.
        headline: Template whose rate is R. Choose it before the run. Default `"focus_list"`.
        rule: Rule that selects the key tokens. Default `TopK(3)`.
        key_tokens: Source of the KeyTokens. `"oracle"` (default): the original model, towards the gold answer.
            `"answer_free"`: the original model, towards its own greedy answer. `"after"`: the unlearned model, towards
            the gold answer.
        probes: Names of further probes (see `probes()`), or `"all"` for every probe that applies to the benchmark.
            Default `("prefill", "relearn")`.
        relearn: Hyperparameters of relearning: `share`, and those of the unlearning trainer (`lr`, `steps`, ...).
        gain: Factor on the attention to the key tokens in the probe `attention`. Default 4.
        min_before: Smallest share of facts that the original model must answer under a template. Templates below it,
            except the headline, are excluded. Default 0.7.
        n_examples: Number of facts whose answers are kept. They are drawn by the seed. Default 3.
        seed: Random seed for every draw. Default 0.
        batch_tokens: Largest number of input tokens in one forward pass, padding included. Default: None, which is
            4096, or less where the free memory is small. It is chosen once; `settings` of the result has the number.
    """

    templates: Sequence[str] | None
    headline: str
    rule: KeyRule
    key_tokens: str
    probes: Sequence[str]
    relearn: Mapping[str, Any] | None
    gain: float
    min_before: float
    n_examples: int
    seed: int
    batch_tokens: int | None


@dataclass(frozen=True)
class Probing:
    """Hold the options of `ProbingOptions` with their defaults, checked.

    The names in `probes` are checked by `unpact_lens.recovery.probes.registry.checked`, which knows the probes.

    Raises:
        InputError: If a template or a source of KeyTokens is unknown, or a number is out of range.
    """

    templates: Sequence[str] | None = None
    headline: str = HEADLINE
    rule: KeyRule = DEFAULT_RULE
    key_tokens: str = ORACLE
    probes: Sequence[str] = DEFAULT_PROBES
    relearn: Mapping[str, Any] | None = field(default_factory=dict)
    gain: float = GAIN
    min_before: float = MIN_BEFORE
    n_examples: int = 3
    seed: int = 0
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        check_templates(self.templates, self.headline)
        check_gain(self.gain)
        check_batch_tokens(self.batch_tokens)
        if self.key_tokens not in KEY_SOURCES:
            raise InputError(f"key_tokens={self.key_tokens!r}; {nearest(str(self.key_tokens), KEY_SOURCES)}")
        if not 0 <= self.min_before <= 1:
            raise InputError(f"min_before={self.min_before}; give a share between 0 and 1")

    @property
    def chosen_templates(self) -> tuple[str, ...]:
        """Names of the emphasis templates, in order and without repetition."""
        return check_templates(self.templates, self.headline)


def check_templates(templates: Sequence[str] | None, headline: str = HEADLINE) -> tuple[str, ...]:
    """Return the names of the emphasis templates, in order and without repetition.

    Args:
        templates: Names of templates in `EMPHASIS`. If None, all of them.
        headline: Name of the template that is reported first.

    Raises:
        InputError: If a name is unknown, or the headline is not among the names.
    """
    if isinstance(templates, str):
        raise InputError(f"templates={templates!r} is one text; give a list of names, e.g. templates=[{templates!r}]")
    chosen = tuple(EMPHASIS) if templates is None else tuple(dict.fromkeys(templates))
    for name in (*chosen, headline):
        EMPHASIS[name]
    if headline not in chosen:
        raise InputError(f"headline {headline!r} is not one of the templates of this run; {nearest(headline, chosen)}")
    return chosen


def check_gain(gain: float) -> None:
    """Refuse a gain that is not a positive number, or that changes nothing.

    Raises:
        InputError: If it is 1, or not a positive number.
    """
    if not 0 < gain < float("inf") or gain == 1:
        raise InputError(f"gain={gain}; give a positive number other than 1, which changes nothing, e.g. 4")
