"""Define an unlearning method, and the registry of all. Each family is registered by one file of `methods/`.

Users add methods of their own in the same way:

```python
from unpact_lens.unlearning import METHODS, Method, losses

METHODS.add("mine", Method("mine", "one line", "formula", "source", forget=lambda view, options: ...))
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from unpact_lens.models.hooked import HookedModel
from unpact_lens.registry import Registry
from unpact_lens.unlearning.job import Job, Plan, train_copy
from unpact_lens.unlearning.trainer import Loss, Options, Run, UpdateRule

LORA_RANK = 8
"""Rank of the adapters that `lora_` before a method's name trains."""


@dataclass(frozen=True)
class Method:
    """Define one unlearning method.

    Attributes:
        name: Key in the registry.
        line: One line on what the method does.
        formula: Quantity that is minimised, in the notation of `losses`.
        source: Paper that the method comes from.
        forget: Loss on the forget set.
        per: Unit that the forget loss is a mean over.
        sums: Whether the forget loss grows with the answer's length, as sums over an answer do. Such a loss is divided
            by the mean answer length of the forget set, so that it does not swamp a retain term, which is a mean over
            tokens. `length_scale=False` leaves it as in the source.
        retain: Loss on the retain set; None for methods without a retain term.
        defaults: Shared hyperparameters whose defaults differ from those of `Settings`.
        options: Hyperparameters of the method, with their defaults.
        prepare: Function run once before training, e.g. to draw other answers, token weights or a direction.
        rule: Function of the copy to be trained and the options to what every update must do besides the loss.
        note: Difference from the source, and its reason.
        start: Function of the given model and the options to the model that is copied and trained, where it is another.
        carry_out: Function that trains the copy, or forms the result in another way.
        combines: Whether the result is several models that predict together.
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
    defaults: Options = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    prepare: Callable[[Job], None] | None = None
    rule: Callable[[Any, Options], UpdateRule] | None = None
    note: str = ""
    start: Callable[[Any, Options], HookedModel] | None = None
    carry_out: Callable[[Plan], Run] = train_copy
    combines: bool = False
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
                "defaults": {**m.defaults, **m.options},
                "needs_retain": m.retain is not None,
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
    base = name.removeprefix("lora_")
    if base == name or base not in METHODS or METHODS[base].carry_out is not train_copy:
        return METHODS[name]
    method = METHODS[base]
    return replace(method, name=name, defaults={**method.defaults, "rank": LORA_RANK})
