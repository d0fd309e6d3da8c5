"""Check that a value has the type that a dataclass declares for a field, before a saved result is made from it."""

from __future__ import annotations

import collections.abc
import sys
import types
import typing
from collections.abc import Mapping
from functools import cache

from torch import Tensor

SEQUENCES = (list, tuple)
"""Types that stand for any declared sequence."""


def misfit(cls: type, field: str, value: object) -> str | None:
    """Return the declared type of a field, as text, if a value does not have it; else None.

    A type that cannot be looked up at run time, or that no saved value has, is not checked. Shapes of tensors are not
    checked either: the class does so itself where it depends on them.

    Args:
        cls: Dataclass.
        field: Name of the field.
        value: Value for the field.

    >>> from unpact_lens.data.benchmark import QA
    >>> misfit(QA, "prompt", 3), misfit(QA, "prompt", "Where?")
    ('str', None)
    """
    hint = _hints(cls).get(field)
    return None if hint is None or fits(value, hint) else _text(hint)


@cache
def _hints(cls: type) -> dict[str, object]:
    """Return the type of each field that can be looked up."""
    found: dict[str, object] = {}
    for home in reversed(cls.__mro__):
        names = vars(sys.modules.get(home.__module__, types.ModuleType("none")))
        for field, text in vars(home).get("__annotations__", {}).items():
            try:
                found[field] = eval(text, dict(names)) if isinstance(text, str) else text
            except Exception:  # It is imported for type checkers only.
                found.pop(field, None)
    return found


def fits(value: object, hint: object) -> bool:
    """Return whether a value has a type, as far as that can be told; sequences and their items are checked too.

    >>> fits((1, 2.5), tuple[float, ...]), fits(["a"], tuple[float, ...]), fits(None, int | None)
    (True, False, True)
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, h) for h in inside)
    if origin is typing.Literal:
        return value in inside
    if origin in (tuple, list, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable):
        return _sequence_fits(value, inside)
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping) and all(fits(v, inside[1]) for v in value.values())
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if hasattr(hint, "array_type"):  # a tensor with a shape
        return isinstance(value, hint.array_type) if isinstance(hint.array_type, type) else True
    if hint is Tensor:
        return isinstance(value, Tensor)
    plain = (bool, int, float, str, list, tuple, dict)
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return not (value is None or isinstance(value, (*plain, Tensor)))
    return True


def _sequence_fits(value: object, inside: tuple[object, ...]) -> bool:
    if not isinstance(value, SEQUENCES):
        return False
    if not inside or inside == ((),):
        return True
    if len(inside) == 1 or inside[1:] == (Ellipsis,):
        return all(fits(v, inside[0]) for v in value)
    return len(value) == len(inside) and all(fits(v, h) for v, h in zip(value, inside, strict=True))


def _text(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("unpact_lens.", "")
