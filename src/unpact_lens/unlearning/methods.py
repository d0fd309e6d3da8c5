"""What a method is, and the registry of all. They are declared in `catalogue`; a user may add their own.

```python
METHODS.add("mine", Method("mine", "one line", "formula", "source", forget=lambda view, options: ...))
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from unpact_lens.registry import Registry
from unpact_lens.unlearning.prepare import Job
from unpact_lens.unlearning.trainer import Loss, UpdateRule

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One way of unlearning.

    Attributes:
        name: its key.
        line: one line on what it does.
        formula: what is minimised, in the notation of `losses`.
        source: where it comes from.
        forget: its loss on the forget set; None where nothing is trained away from it.
        per: what that loss is a mean over.
        sums: whether the loss grows with the answer's length, as sums over an answer do. The trainer divides such a
            loss by the mean answer length of the forget set, so that it weighs the same against a retain term, which
            is a mean over tokens. `length_scale=False` leaves it as in the source.
        retain: its loss on the retain set; None where it needs no retain set.
        defaults: of the shared settings, where they differ from `Settings`.
        options: its own settings with their defaults.
        prepare: run once before training: other answers, a reinforced model, token weights, a direction.
        rule: from the copy to be trained and the options to what else every update must do.
        note: what differs here from the source, and why.
        wrap: from the model and the options to what is trained in its place.
        kind: `"trained"` by the loop; `"arithmetic"` on weights; `"inference"`: the model is left as it is and predicts
            together with others; `"gated"`: adapters that apply only where the request is in question.
    """

    name: str
    line: str
    formula: str
    source: str
    forget: Loss | None = None
    per: Literal["token", "example"] = "token"
    sums: bool = False
    retain: Loss | None = None
    defaults: Options = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    prepare: Callable[[Job], None] | None = None
    rule: Callable[[Any, Options], UpdateRule] | None = None
    note: str = ""
    wrap: Callable[[Any, Options], Any] | None = None
    kind: Literal["trained", "arithmetic", "inference", "gated"] = "trained"


METHODS: Registry[Method] = Registry("unlearning method")


def methods() -> pd.DataFrame:
    """The registered methods: name, one line, formula, defaults, source, and what differs from it."""
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
    """The method of that name; `lora_` before a trained method's name trains adapters of rank 8.

    Raises:
        InputError: if there is none; the message offers the nearest names.
    """
    base = name.removeprefix("lora_")
    if base == name or base not in METHODS or METHODS[base].kind != "trained":
        return METHODS[name]
    method = METHODS[base]
    return replace(method, name=name, defaults={**method.defaults, "rank": 8})
