"""The table of attribution methods: one name, one function, one line each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unpact_lens.attribution import attention, gradients, perturbation
from unpact_lens.attribution.base import Outcome, Run
from unpact_lens.attribution.context_cite import context_cite
from unpact_lens.attribution.leave_one_out import leave_one_out
from unpact_lens.attribution.shapley import shapley
from unpact_lens.attribution.units import Example
from unpact_lens.errors import InputError, nearest
from unpact_lens.registry import Registry

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Method:
    """One way of attributing.

    Attributes:
        run: `(run, examples, **options) -> outcomes`.
        line: what it does, in one line.
        source: where it comes from.
        deletion: `"ids"` if it removes units by deleting them, else `"none"`.
        scores_only: it needs nothing but scores of token ids, so anything that gives log-probabilities will do.
        fixed_target: what it attributes, if that is not for the user to choose.
    """

    run: Callable[..., list[Outcome]]
    line: str
    source: str
    deletion: str = "none"
    scores_only: bool = False
    fixed_target: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the keyword arguments that it takes."""
        parameters = inspect.signature(self.run).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def _leave_one_out(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    return [Outcome(found) for found in leave_one_out(run.scorer, examples)]


METHODS: Registry[Method] = Registry("attribution method")
"""Every attribution method by name, the paper's first."""

for _name, _method in {
    "leave_one_out": Method(
        _leave_one_out,
        "what the answer loses when the unit is deleted: the paper's C(x_i, y)",
        "Zhang et al. 2025, arXiv 2509.24675",
        deletion="ids",
        scores_only=True,
    ),
    "replace": Method(
        perturbation.replace,
        "what it loses when the unit becomes another token, given or drawn (mean over draws)",
        "Fong and Vedaldi 2017, arXiv 1704.03296",
        scores_only=True,
    ),
    "knockout": Method(
        perturbation.knockout,
        "what it loses when the unit is hidden from attention in every layer, positions kept",
        "Geva et al. 2023, arXiv 2304.14767",
    ),
    "zero_embed": Method(
        perturbation.zero_embed,
        "what it loses when the unit's token embeddings are zero",
        "Li et al. 2016, arXiv 1612.08220",
    ),
    "mean_embed": Method(
        perturbation.mean_embed,
        "what it loses when the unit's token embeddings are the vocabulary's mean",
        "Wang et al. 2022, arXiv 2211.00593",
    ),
    "shapley": Method(
        shapley,
        "what the unit adds, averaged over all orders of adding units; exact up to 10 units, else sampled",
        "Shapley 1953; Castro et al. 2009; Covert and Lee 2021, arXiv 2012.01536",
        deletion="ids",
        scores_only=True,
    ),
    "context_cite": Method(
        context_cite,
        "weights of a sparse linear model of what random removals cost",
        "Cohen-Wang et al. 2024, arXiv 2409.00729",
        deletion="ids",
        scores_only=True,
    ),
    "grad_norm": Method(
        gradients.grad_norm,
        "norm of the target's gradient at the token's embedding",
        "Simonyan et al. 2013, arXiv 1312.6034",
    ),
    "grad_x_input": Method(
        gradients.grad_x_input,
        "gradient times embedding",
        "Shrikumar et al. 2016, arXiv 1605.01713",
    ),
    "integrated_gradients": Method(
        gradients.integrated_gradients,
        "gradients integrated from a baseline embedding to the token's, times the difference",
        "Sundararajan et al. 2017, arXiv 1703.01365",
    ),
    "smoothgrad": Method(
        gradients.smoothgrad,
        "norm of the gradient, averaged over noisy embeddings",
        "Smilkov et al. 2017, arXiv 1706.03825",
    ),
    "attention_rollout": Method(
        attention.attention_rollout,
        "share of attention, rolled out over the layers",
        "Abnar and Zuidema 2020, arXiv 2005.00928",
        fixed_target="attention share",
    ),
    "value_zeroing": Method(
        attention.value_zeroing,
        "share of what turns a layer's output when a value is zeroed, rolled out over the layers",
        "Mohebbi et al. 2023, arXiv 2301.12971",
        fixed_target="mixing share",
    ),
    "alti_logit": Method(
        attention.alti_logit,
        "what attention moves into the answer's logit in each layer, traced back to input tokens",
        "Ferrando et al. 2023, arXiv 2305.12535",
        fixed_target="logit",
    ),
    "ov": Method(
        attention.ov,
        "what heads move from the token straight into the answer's logit",
        "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
        fixed_target="logit",
    ),
}.items():
    METHODS.add(_name, _method)


def attribution_methods() -> pd.DataFrame:
    """Every attribution method: its name, what it does in one line, and its source."""
    import pandas as pd

    rows = [{"method": name, "about": m.line, "source": m.source} for name, m in METHODS.items()]
    return pd.DataFrame(rows).set_index("method")


def check_remote(name: str, options: Mapping[str, Any], foil: object, attribute_bos: bool) -> None:
    """Refuse what an endpoint, which gives log-probabilities of texts and nothing else, cannot do.

    Raises:
        InputError: naming what it cannot do, and what it can.
    """
    if not METHODS[name].scores_only:
        able = ", ".join(n for n, m in METHODS.items() if m.scores_only)
        raise InputError(f"method {name!r} looks into the model, which an endpoint does not show; it can do: {able}")
    if name == "replace" and options.get("token") is None:
        raise InputError("method 'replace' draws from the vocabulary, which an endpoint does not show; give token=")
    if foil is not None:
        raise InputError(f"foil={foil!r} needs logits, and an endpoint gives log-probabilities of its prompt only")
    if attribute_bos:
        raise InputError("attribute_bos=True, but an endpoint adds its BOS by itself; it cannot be taken away")


def check_options(name: str, given: dict[str, Any], target: Any) -> None:
    """Refuse options that a method does not take, and a target that it cannot have.

    Raises:
        InputError: naming the option and those that would be accepted, or what the method attributes.
    """
    method = METHODS[name]
    for option in given:
        if option not in method.options:
            if not method.options:
                raise InputError(f"method {name!r} takes no option {option!r}; it has none")
            raise InputError(f"method {name!r} takes no option {option!r}; {nearest(option, method.options)}")
    if method.fixed_target is not None and target not in ("log_prob", method.fixed_target):
        shown = target if isinstance(target, str) else getattr(target, "__name__", target)
        raise InputError(
            f"method {name!r} attributes the {method.fixed_target} and cannot take target={shown!r}; leave it out"
        )
