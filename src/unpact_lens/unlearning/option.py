"""Declare hyperparameters: the default, the type and the range of each, written once and checked before work starts.

Every value goes through `read`, so a number may also be given as text, e.g. `"1e-5"`, as YAML and the command line give
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Protocol, runtime_checkable

from unpact_lens.data.chat import Chat, read_chat
from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel

TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")
"""Texts that count as True and as False."""


@runtime_checkable
class Accepts(Protocol):
    """Define the values that a hyperparameter accepts."""

    def read(self, name: str, value: object) -> object:
        """Return the value in its own type.

        Raises:
            InputError: If it is not accepted. The message names it and what would be accepted.
        """

    def words(self) -> str:
        """Describe the accepted values."""


@dataclass(frozen=True)
class Number:
    """Accept a finite number in a range.

    Attributes:
        low: Smallest value.
        high: Largest value.
        above: Whether `low` itself is refused.
        below: Whether `high` itself is refused.
        whole: Whether only whole numbers are accepted.
        optional: Whether None is accepted.
    """

    low: float | int = -math.inf
    high: float | int = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    optional: bool = False

    def read(self, name: str, value: object) -> float | int | None:
        """Return the value as a number."""
        if value is None and self.optional:
            return None
        number = as_number(value)
        fits = number is not None and math.isfinite(number) and (not self.whole or number == int(number))
        if not fits or number is None or not self._inside(number):
            raise InputError(f"{name}={value!r}; give {self.words()}")
        return int(number) if self.whole else number

    def _inside(self, number: float) -> bool:
        over = number > self.low if self.above else number >= self.low
        return over and (number < self.high if self.below else number <= self.high)

    def words(self) -> str:
        """Describe the accepted values.

        >>> Number(0, above=True, optional=True).words()
        'a finite number above 0, or None'
        >>> Number(0, 1, below=True).words()
        'a number from 0 to below 1'
        """
        noun = "a whole number" if self.whole else "a number" if math.isfinite(self.high) else "a finite number"
        if math.isfinite(self.low) and math.isfinite(self.high):
            if self.above:
                said = f"{noun} above {self.low:g} and {'below' if self.below else 'at most'} {self.high:g}"
            else:
                said = f"{noun} from {self.low:g} to {'below ' * self.below}{self.high:g}"
        elif math.isfinite(self.low):
            said = f"{noun} above {self.low:g}" if self.above else f"{noun} of at least {self.low:g}"
        else:
            said = noun
        return said + ", or None" * self.optional


def as_number(value: object) -> float | int | None:
    """Return a number, or a text that writes one, as `int` or `float`; None for anything else.

    >>> as_number("1e-5"), as_number("12"), as_number(True), as_number("many")
    (1e-05, 12, None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return None


def whole(name: str, value: object, least: int) -> int:
    """Return an argument that must be a whole number of at least `least`.

    Raises:
        InputError: If it is not.
    """
    number = Number(least, whole=True).read(name, value)
    assert number is not None
    return int(number)


@dataclass(frozen=True)
class OneOf:
    """Accept one of a few texts.

    Attributes:
        texts: Accepted texts.
    """

    texts: tuple[str, ...]

    def read(self, name: str, value: object) -> str:
        """Return the text."""
        if not isinstance(value, str) or value not in self.texts:
            raise InputError(f"{name}={value!r}; use {self.words()}")
        return value

    def words(self) -> str:
        """Describe the accepted values."""
        *first, last = map(repr, self.texts)
        return f"{', '.join(first)} or {last}"


@dataclass(frozen=True)
class Flag:
    """Accept True or False, also as text."""

    def read(self, name: str, value: object) -> bool:
        """Return the flag."""
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.casefold() in (*TRUE, *FALSE):
            return value.casefold() in TRUE
        raise InputError(f"{name}={value!r}; give {self.words()}")

    def words(self) -> str:
        """Describe the accepted values."""
        return "True or False"


@dataclass(frozen=True)
class MaybeFlag:
    """Accept True, False or None."""

    def read(self, name: str, value: object) -> bool | None:
        """Return the flag, or None."""
        if value is None:
            return None
        try:
            return Flag().read(name, value)
        except InputError:
            raise InputError(f"{name}={value!r}; give {self.words()}") from None

    def words(self) -> str:
        """Describe the accepted values."""
        return "True, False or None"


@dataclass(frozen=True)
class ChatTemplate:
    """Accept True, False, or the options of a chat template."""

    def read(self, name: str, value: object) -> Chat:
        """Return the flag or the options."""
        return read_chat(value) if isinstance(value, Mapping) else Flag().read(name, value)

    def words(self) -> str:
        """Describe the accepted values."""
        return "True, False, or the options of the chat template by name"


@dataclass(frozen=True)
class Text:
    """Accept a text, which may be empty."""

    def read(self, name: str, value: object) -> str:
        """Return the text."""
        if not isinstance(value, str):
            raise InputError(f"{name}={value!r}; give {self.words()}")
        return value

    def words(self) -> str:
        """Describe the accepted values."""
        return "a text"


@dataclass(frozen=True)
class Texts:
    """Accept a list of texts.

    Attributes:
        optional: Whether None is accepted.
        one: Whether a single text counts as a list of one.
        nested: Whether an entry may itself be a list of texts.
    """

    optional: bool = False
    one: bool = False
    nested: bool = False

    def read(self, name: str, value: object) -> tuple[str | tuple[str, ...], ...] | None:
        """Return the texts as a tuple."""
        if value is None and self.optional:
            return None
        if isinstance(value, str) and self.one:
            return (value,)
        if not isinstance(value, Sequence) or isinstance(value, str) or not value or not all(map(self._fits, value)):
            raise InputError(f"{name}={value!r}; give {self.words()}")
        return tuple(v if isinstance(v, str) else tuple(v) for v in value)

    def words(self) -> str:
        """Describe the accepted values."""
        return "a list of at least one text" + ", or None" * self.optional

    def _fits(self, value: object) -> bool:
        """Return whether an entry is accepted."""
        if isinstance(value, str):
            return bool(value.strip())
        return self.nested and isinstance(value, Sequence) and bool(value) and all(isinstance(v, str) for v in value)


@dataclass(frozen=True)
class Stops:
    """Accept a list of texts that end an answer; it may be empty, and a text may be a line break."""

    def read(self, name: str, value: object) -> tuple[str, ...]:
        """Return the texts as a tuple."""
        if (
            isinstance(value, str)
            or not isinstance(value, Sequence)
            or not all(isinstance(v, str) and v for v in value)
        ):
            raise InputError(f"{name}={value!r}; give {self.words()}")
        return tuple(value)

    def words(self) -> str:
        """Describe the accepted values."""
        return "a list of texts that end an answer, or []"


@dataclass(frozen=True)
class Model:
    """Accept a hooked model, or None, which a method may refuse when it starts."""

    def read(self, name: str, value: object) -> HookedModel | None:
        """Return the model."""
        if value is None or isinstance(value, HookedModel):
            return value
        raise InputError(f"{name}={value!r}; give {self.words()}")

    def words(self) -> str:
        """Describe the accepted values."""
        return "a model from load_model()"


@dataclass(frozen=True)
class Anything:
    """Accept every value: the option of a user's own method whose default says nothing about its type."""

    def read(self, name: str, value: object) -> object:
        """Return the value unchanged."""
        return value

    def words(self) -> str:
        """Describe the accepted values."""
        return "any value"


@dataclass(frozen=True)
class Option:
    """Declare one hyperparameter of a method.

    Attributes:
        default: Default value.
        accepts: Values that are accepted.
    """

    default: object
    accepts: Accepts


def declared(option: object) -> Option:
    """Return a declaration: the given one, or for a plain default one that accepts values of its type.

    >>> declared(0.5).accepts
    Number(low=-inf, high=inf, above=False, below=False, whole=False, optional=False)
    """
    if isinstance(option, Option):
        return option
    kinds: tuple[tuple[type, Accepts], ...] = ((bool, Flag()), (int, Number()), (float, Number()), (str, Text()))
    return Option(option, next((accepts for kind, accepts in kinds if isinstance(option, kind)), Anything()))


def default_of(options: Mapping[str, object]) -> dict[str, object]:
    """Return the defaults of a method's options, by name."""
    return {name: declared(option).default for name, option in options.items()}


def read_options(options: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """Return the value of every option of a method: the given one, checked, or the default.

    Raises:
        InputError: If a given value is not accepted.
    """
    return {
        name: declared(option).accepts.read(name, given.get(name, declared(option).default))
        for name, option in options.items()
    }
