"""Check that a value has the type that a field or a parameter declares."""

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

PLAIN = (bool, int, float, str, list, tuple, dict)
"""Types of JSON, which no dataclass is."""


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
    return None if hint is None or fits(value, hint) else type_text(hint)


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


def fits(value: object, hint: object, *, exact: bool = False) -> bool:
    """Return whether a value has a type, as far as that can be told; sequences and their items are checked too.

    Args:
        value: Value.
        hint: Declared type.
        exact: Whether an instance must be one of the declared class. Otherwise another class will do, because a saved
            result may be of a version with other classes.

    >>> fits((1, 2.5), tuple[float, ...]), fits(["a"], tuple[float, ...]), fits(None, int | None)
    (True, False, True)
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, h, exact=exact) for h in inside)
    if origin is typing.Literal:
        return value in inside
    if origin is tuple and not isinstance(value, SEQUENCES):
        return False
    if origin in (tuple, list, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable):
        return _sequence_fits(value, inside, exact)
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping) and all(fits(v, inside[1], exact=exact) for v in value.values())
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return callable(value)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hasattr(hint, "array_type"):  # a tensor with a shape
        return isinstance(value, hint.array_type) if isinstance(hint.array_type, type) else True
    if hint is Tensor or hint in (str, bool):
        return isinstance(value, hint)
    if isinstance(origin, type):  # e.g. an array of numbers
        return isinstance(value, origin) or not exact
    return _instance_fits(value, hint, exact)


def _instance_fits(value: object, hint: object, exact: bool) -> bool:
    if not isinstance(hint, type) or hint is object:
        return True
    if exact:
        try:
            return isinstance(value, hint)
        except TypeError:  # a protocol that cannot be checked at run time
            return True
    return not (hasattr(hint, "__dataclass_fields__") and (value is None or isinstance(value, (*PLAIN, Tensor))))


def _sequence_fits(value: object, inside: tuple[object, ...], exact: bool) -> bool:
    if not isinstance(value, SEQUENCES):
        # Of other sequences, e.g. an array or a series, items are not looked at. A text is none.
        if isinstance(value, Tensor) and inside and inside[0] not in (bool, int, float):
            return False
        return exact and isinstance(value, collections.abc.Iterable) and not isinstance(value, (str, bytes, Mapping))
    if not inside or inside == ((),):
        return True
    if len(inside) == 1 or inside[1:] == (Ellipsis,):
        return all(fits(v, inside[0], exact=exact) for v in value)
    return len(value) == len(inside) and all(fits(v, h, exact=exact) for v, h in zip(value, inside, strict=True))


def type_text(hint: object) -> str:
    """Return a type as a reader writes it."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("unpact_lens.", "").replace("collections.abc.", "")
