"""Read a YAML file with the line of each entry; refuse what is too large, written twice or an alias.

`yaml.safe_load` reads `1e-5` as text, keeps the last of two equal entries, and expands aliases without limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from unpact_lens.errors import InputError

LARGEST = 1_000_000
"""Largest size of a configuration, in characters."""

DEEPEST = 50
"""Largest depth of nested entries."""

EntryPath = tuple[str | int, ...]
"""Path of an entry: names of entries and positions in lists."""

EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+")
"""Numbers such as `1e-5`, which YAML 1.1 reads as text and YAML 1.2 as a number."""


class _Loader(yaml.SafeLoader):
    """Read numbers with an exponent as numbers."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{EXPONENT.pattern})$"), list("-+.0123456789"))


@dataclass(frozen=True)
class YamlFile:
    """Hold the content of a YAML file.

    Attributes:
        content: Entries.
        lines: Line of each entry by its path, counted from 1.
        twice: Entries that are written a second time in the same place, with the line.
    """

    content: object
    lines: Mapping[EntryPath, int]
    twice: tuple[tuple[EntryPath, int], ...]

    def line(self, path: EntryPath) -> int | None:
        """Return the line of an entry, or of the nearest entry above it; None if there is none."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)


def parse_yaml(text: str, where: str) -> YamlFile:
    """Read YAML text.

    Args:
        text: YAML text.
        where: Name of the file in error messages.

    Raises:
        InputError: If the text is not YAML, is too large or too deep, or holds an alias.
    """
    if len(text) > LARGEST:
        raise InputError(f"{where} has {len(text)} characters; a configuration has at most {LARGEST}")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:  # The parser's time grows with the square of the depth.
                raise InputError(f"{where} nests entries too deep; at most {DEEPEST} levels are read")
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise InputError(f"{where}, line {line}: the alias *{event.anchor} is not read; write the entries out")
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[EntryPath, int] = {}
        twice: list[tuple[EntryPath, int]] = []
        if node is not None:
            _note(node, (), lines, twice)
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is not valid YAML: {error}") from None
    return YamlFile(content, lines, tuple(twice))


def _note(node: yaml.Node, at: EntryPath, lines: dict[EntryPath, int], twice: list[tuple[EntryPath, int]]) -> None:
    """Note the line of each entry below a node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*at, str(key.value))
            if path in lines:
                twice.append((path, key.start_mark.line + 1))
            lines[path] = key.start_mark.line + 1
            _note(value, path, lines, twice)
    elif isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            lines[(*at, i)] = child.start_mark.line + 1
            _note(child, (*at, i), lines, twice)
