"""Read the tables of a data set, from local files or the Hugging Face hub, and check each row.

For every format, the error for a wrong row names file, row and column, and what was expected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from unpact_lens.errors import InputError

FORMATS = (".jsonl", ".json", ".parquet", ".csv")
"""File formats that are read. A `.json` file holds a list of rows or, as on the hub, one row per line."""

TEXT = "text"
TEXTS = "list of texts"
INTEGER = "integer"


@dataclass(frozen=True)
class Column:
    """Describe what a column must hold.

    Attributes:
        type: `TEXT`, `TEXTS` or `INTEGER`.
        required: If False, the column may be absent, or null in a row.
        length: Required number of texts, for `TEXTS`. If None, one or more.
    """

    type: str = TEXT
    required: bool = True
    length: int | None = None


Schema = Mapping[str, Column]
Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Read the tables of a data set from one place.

    Attributes:
        hub: Id of the data set on the Hugging Face hub.
        path: Local directory to read instead. If None, the hub.
    """

    hub: str
    path: Path | None = None

    def table(self, config: str, split: str, schema: Schema) -> list[Row]:
        """Read one table, from the directory if there is one, else from the hub.

        Args:
            config: Name of the configuration on the hub, e.g. `"forget10"`.
            split: Name of the split on the hub, e.g. `"train"`.
            schema: Required content of each column. Other columns are dropped.

        Returns:
            The checked rows.

        Raises:
            InputError: If the table does not exist, or a row is wrong.
        """
        if self.path is None:
            return check_rows(_from_hub(self.hub, config, split), schema, f"{self.hub} ({config}, {split})")
        files = find_files(self.path, config, split)
        if not files:
            raise InputError(
                f"{self.path} has no table for {self.hub} ({config}, {split}); "
                f"place it there as {_places(config, split)}"
            )
        return [row for file in files for row in read_table(file, schema)]

    def has(self, config: str, split: str) -> bool:
        """Return whether the directory holds that table. Always True for the hub, which is not queried."""
        return self.path is None or bool(find_files(self.path, config, split))


def source(hub: str, path: str | os.PathLike[str] | None) -> Source:
    """Choose where to read a data set from.

    Args:
        hub: Id of the data set on the hub.
        path: Directory of exported files. If None, the hub.

    Raises:
        InputError: If `path` is not a directory.
    """
    if path is None:
        return Source(hub)
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"path={str(folder)!r} is not a directory; give one that holds the files of {hub}")
    return Source(hub, folder)


def find_files(folder: Path, config: str, split: str) -> list[Path]:
    """Find the files of one table in a directory of exported files, in the order of their shards.

    Supported layouts: `config/split.ext`, `config/split-00000-of-00002.ext`, `config/split/0000.ext`,
    `config_split.ext`, `config-split.ext`, and `config.ext` for a configuration with one split.
    """
    names = (f"{config}/{split}", f"{config}_{split}", f"{config}-{split}", config)
    for extension in FORMATS:
        for name in names:
            for pattern in (f"{name}{extension}", f"{name}-[0-9]*-of-[0-9]*{extension}"):
                if found := sorted(p for p in folder.glob(pattern) if p.is_file()):
                    return found
        if found := sorted((folder / config / split).glob(f"[0-9]*{extension}")):
            return found
    return []


def read_table(file: str | os.PathLike[str], schema: Schema) -> list[Row]:
    """Read and check the rows of one file.

    Args:
        file: A parquet, json, jsonl or csv file. In a csv, a list of texts is written as JSON in its cell.
        schema: Required content of each column.

    Raises:
        InputError: If a row is wrong. The message names file, row (counted from 1) and column.
    """
    return check_rows(raw_rows(Path(file)), schema, str(file))


def raw_rows(file: Path) -> list[Any]:
    """Read the rows of one file with all their columns, unchecked.

    Args:
        file: A parquet, json, jsonl or csv file.

    Raises:
        InputError: If there is no such file, or it cannot be read.
    """
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a file in one of the formats {', '.join(FORMATS)}")
    readers = {".jsonl": _read_json, ".json": _read_json, ".parquet": _read_parquet, ".csv": _read_csv}
    if file.suffix.lower() not in readers:
        raise InputError(f"{file} is in none of the formats {', '.join(FORMATS)}")
    return readers[file.suffix.lower()](file)


def check_rows(rows: Sequence[Any], schema: Schema, where: str) -> list[Row]:
    """Check rows and return them with the columns of the schema only. An absent column becomes None.

    Raises:
        InputError: If a row is wrong. The message names the first wrong row and column.
    """
    if not rows:
        raise InputError(f"{where} is empty; expected rows with {', '.join(schema)}")
    checked = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}, row {number}: expected an object with {', '.join(schema)}, got {row!r:.60}")
        checked.append({name: _cell(row, name, column, f"{where}, row {number}") for name, column in schema.items()})
    return checked


def _cell(row: Mapping[str, Any], name: str, column: Column, where: str) -> Any:
    value = row.get(name)
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        if column.required:
            state = "is null" if name in row else f"is absent; the row has {', '.join(map(str, row))}"
            raise InputError(f"{where}: column {name!r} {state}")
        return None
    if column.type == TEXTS:
        return _texts(value, column, f"{where}: column {name!r}")
    kind = str if column.type == TEXT else int
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{where}: column {name!r} should be {column.type}, got {value!r:.60}")
    return value


def _texts(value: Any, column: Column, where: str) -> tuple[str, ...]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} should be a JSON list of texts: {error}") from None
    listed = list(value) if isinstance(value, (list, tuple)) else None
    if not listed or not all(isinstance(v, str) for v in listed):
        raise InputError(f"{where} should be a list of texts, got {value!r:.60}")
    if column.length is not None and len(listed) != column.length:
        raise InputError(f"{where} should hold {column.length} texts, got {len(listed)}")
    return tuple(listed)


def _read_json(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: {error}") from None
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{file} is not valid JSON: {error}") from None
    rows = []
    # Not splitlines(), which would also split at line separators inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{file}, line {number} is not valid JSON: {error}") from None
    return rows


def _read_parquet(file: Path) -> list[Row]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        return parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a readable parquet file: {error}") from None


def _read_csv(file: Path) -> list[Row]:
    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a readable csv file: {error}") from None
    rows = frame.to_dict("records")
    return [{str(k): v or None for k, v in row.items()} for row in rows]


def _from_hub(hub: str, config: str, split: str) -> list[Row]:
    """Read a table from the hub with `datasets`.

    Raises:
        InputError: If the hub cannot be read. The message says which files to place where instead.
    """
    import datasets

    try:
        return list(datasets.load_dataset(hub, config, split=split))
    except Exception as error:
        raise InputError(
            f"{hub} ({config}, {split}) cannot be read from the hub ({type(error).__name__}: {error!s:.120}); "
            f"download it where there is a network, place it in a directory as {_places(config, split)}, "
            "and give path=<that directory>"
        ) from None


def _places(config: str, split: str) -> str:
    extensions = ", ".join(FORMATS)
    return f"{config}/{split}.<ext> or {config}.<ext> (one of {extensions}), or as the hub's own parquet shards"
