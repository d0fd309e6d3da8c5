"""Define an unlearning method, and the registry of all. Each family is registered by one file of `methods/`.

Users add methods of their own in the same way:

```python
from unpact_lens.unlearning import METHODS, Method, Number, Option, losses

METHODS.add("mine", Method("mine", "one line", "formula", "source", forget=lambda view, options: ...,
                           options={"beta": Option(0.1, Number(0, above=True))}))
```

The default of an option may be given alone; any value of its type is then accepted. `replace=True` takes the place of a
method of the same name, e.g. where a cell of a notebook runs again. A loss that sums over an answer's tokens says
`sums=True`, and what it is a mean over `per="example"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.registry import Registry
from unpact_lens.unlearning.job import Job, Plan, train_copy
from unpact_lens.unlearning.option import default_of
from unpact_lens.unlearning.trainer import GradientRule, Loss, Options, Run, UpdateRule

LORA_RANK = 8
"""Rank of the adapters that `lora_` before a method's name trains."""

LORA_LR = 4.0
"""Factor of a method's default learning rate where adapters are trained."""

LR = 1e-4
"""Default learning rate of a method that declares none, for a model of the size `MEASURED_SIZE`."""

MEASURED_SIZE = 256
"""Size, `d_model · n_layers`, of the model on which default learning rates were searched, `builtin`."""


@dataclass(frozen=True)
class Method:
    """Define one unlearning method.

    Attributes:
        name: Key in the registry.
        line: One line on what the method does.
        formula: Quantity that is minimised, in the notation of `losses`.
        source: Paper that the method comes from.
        forget: Loss on the forget set.
        per: Unit that the forget loss is a mean over. An option `mean` takes its place.
        sums: Whether the forget loss grows with the answer's length, as sums over an answer do. Such a loss is divided
            by the mean answer length of the forget set, so that it does not swamp a retain term, which is a mean over
            tokens. A method that declares the option `length_scale` leaves it as it is where that is False.
        retain: Loss on the retain set; None for methods without a retain term.
        rehearses: Whether the original model writes a retain set itself; see `self_rehearsal`. It takes
            the place of a given one.
        writes: Whether the original model writes questions and answers that `prepare`, `rule` or `combine` read
            (`Job.written`). A retain loss reads the given retain set, unless `rehearses` is True as well.
        defaults: Shared hyperparameters whose defaults differ from those of `Settings`. The learning rate is that for a
            model of the size `MEASURED_SIZE`; see `default_settings`.
        options: Hyperparameters of the method: an `Option`, which declares default, type and range, or a default.
        prepare: Function run once before training, e.g. to draw other answers, token weights or a direction.
        rule: Function of the copy to be trained and the job to what every update must do besides the loss.
        combine: Function of the job to how the gradient of a step is formed from those of the terms. If None, it is
            their weighted sum.
        note: Difference from the source, and its reason.
        start: Function of the given model and the options to the model that is copied and trained, where it is another.
        carry_out: Function that trains the copy, or forms the result in another way.
        combines: Whether the result is several models that predict together.
        adapts: True if adapters may be trained in place of weights, else the reason why not.
        continues: Kind of combined model from which a further request may start; None for no kind.
    """

    name: str
    line: str
    formula: str
    source: str
    forget: Loss
    per: Literal["token", "example"] = "token"
    sums: bool = False
    retain: Loss | None = None
    rehearses: bool = False
    writes: bool = False
    defaults: Options = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    prepare: Callable[[Job], None] | None = None
    rule: Callable[[Any, Job], UpdateRule] | None = None
    combine: Callable[[Job], GradientRule] | None = None
    note: str = ""
    start: Callable[[Any, Options], HookedModel] | None = None
    carry_out: Callable[[Plan], Run] = train_copy
    combines: bool = False
    adapts: Literal[True] | str = True
    continues: type | None = None


METHODS: Registry[Method] = Registry("unlearning method", "unpact_lens.unlearning.methods")


def methods() -> pd.DataFrame:
    """Return the table of registered methods.

    Returns:
        One row for each method: `name`, `line`, `formula`, `defaults`, `needs_retain`, `source`, and its difference
        from the source (`note`).
    """
    return pd.DataFrame(
        [
            {
                "name": m.name,
                "line": m.line,
                "formula": m.formula,
                "defaults": {"lr": LR, **m.defaults, **default_of(m.options)},
                "needs_retain": m.retain is not None and not m.rehearses,
                "source": m.source,
                "note": m.note,
            }
            for m in METHODS.values()
        ]
    )


def find(name: str) -> Method:
    """Return the method of that name. With `lora_` before its name, a trained method trains adapters of rank 8.

    Raises:
        InputError: If there is no such method. The message offers the nearest names.
    """
    base = name.removeprefix("lora_") if isinstance(name, str) else name
    if base == name or base not in METHODS or "rank" in METHODS[base].defaults:
        return METHODS[name]
    method = METHODS[base]
    if method.adapts is not True:
        raise InputError(f"{name!r}: {cannot_adapt(method)}; use {base!r}, or adapters of another method")
    return replace(method, name=name, defaults={**method.defaults, "rank": LORA_RANK})


def cannot_adapt(method: Method) -> str:
    """Say why a method cannot train adapters."""
    return f"method {method.name!r} cannot train low-rank adapters: {method.adapts}"


def default_settings(method: Method, model: HookedModel, given: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return the defaults of the shared hyperparameters for this method and this size of model.

    The learning rate is that found for `builtin`, times $256 / (d_{model} \cdot n_{layers})$: in wide and deep models
    the same change of each weight moves the output further. It is measured on `builtin` only.

    Args:
        method: Unlearning method.
        model: Model to be trained.
        given: Hyperparameters that the caller gave. A rank asks for the learning rate of adapters.
    """
    defaults = dict(method.defaults)
    rank = given.get("rank", defaults.get("rank"))
    lr = defaults.get("lr", LR) * (LORA_LR if rank is not None and method.adapts is True else 1.0)
    return {**defaults, "lr": lr * MEASURED_SIZE / (model.cfg.d_model * model.cfg.n_layers)}
