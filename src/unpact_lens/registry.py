"""Hold named entries of one kind (methods, metrics, probes, data sets) and find them by file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from unpact_lens.errors import InputError, nearest

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Map a name to its entry, in the order of registration.

    Args:
        noun: Name of an entry in error messages, e.g. `"unlearning method"`.
        package: Package whose modules register the entries, e.g. `"unpact_lens.data"`. All its modules are imported
            when an entry is first looked up, so adding an entry takes one file. If None, nothing is imported.
    """

    def __init__(self, noun: str, package: str | None = None) -> None:
        self.noun = noun
        self._package = package
        self._entries: dict[str, T] = {}
        self._replaced: set[str] = set()
        self._importing = False

    def add(self, name: str, entry: T, *, replace: bool = False) -> T:
        """Register `entry` under `name` and return it.

        Args:
            name: Name of the entry.
            entry: Entry.
            replace: Take the place of an entry of the same name, e.g. where a cell of a notebook runs again. An entry
                that the package registers when it is imported later does not come back.

        Raises:
            ValueError: If the name is taken, and `replace` is False.
        """
        if replace:
            self._replaced.add(name)
        elif name in self._replaced and self._importing:
            return entry
        elif name in self._entries:
            raise ValueError(f"{self.noun} {name!r} is registered already; give replace=True or another name")
        self._entries[name] = entry
        return entry

    def _found(self) -> dict[str, T]:
        """Return all entries, after importing the package that registers them."""
        if self._package is not None:
            name, self._package = self._package, None
            self._importing = True
            try:
                for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
                    importlib.import_module(f"{name}.{module.name}")
            finally:
                self._importing = False
        return self._entries

    def __getitem__(self, name: str) -> T:
        """Return the entry of that name.

        Raises:
            InputError: If there is none. The message offers the nearest names.
        """
        try:
            return self._found()[name]
        except (KeyError, TypeError):
            raise InputError(f"unknown {self.noun} {name!r}; {nearest(str(name), self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._found()

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())
