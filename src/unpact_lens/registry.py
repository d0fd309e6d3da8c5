"""A table of named things, which answers a wrong name with the nearest right ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from unpact_lens.errors import InputError, nearest

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """An ordered mapping from a name to what it stands for, with helpful errors.

    Args:
        noun: what an entry is called in an error, e.g. `"unlearning method"`.
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register `entry` under `name` and return it.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.noun} {name!r} is registered already")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            InputError: if there is none; the message offers the nearest names.
        """
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise InputError(f"unknown {self.noun} {name!r}; {nearest(str(name), self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
