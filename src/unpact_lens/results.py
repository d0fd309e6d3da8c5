"""Define `Result`, the base of every result, and save and load results without loss.

A result is a frozen dataclass that shows itself and becomes a table. On disk it is a directory with up to three parts:

- `result.json`: every field that is not a tensor, references to the tensors and models, and a manifest;
- `tensors-<hash>.safetensors`: all tensors;
- `model-<hash>`: a checkpoint directory for each model in the result.

The manifest holds the SHA-256 of every file, and the JSON a checksum of itself. The JSON is written last and
atomically, so a reader sees either the old result or the new one (see `unpact_lens.writing`). Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unpact_lens.display import Shown
from unpact_lens.errors import InputError
from unpact_lens.field_types import misfit
from unpact_lens.json_files import (
    MAX_DEPTH,
    json_text,
    read_json,
    read_record,
    sealed,
    write_json,
    write_record,
    write_text,
)
from unpact_lens.manifest import MANIFEST, check_files_of, checked_files, sums_of
from unpact_lens.text_tables import to_latex, to_markdown
from unpact_lens.writing import SCRATCH, commit, scratch, steady

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
"""Version of the layout on disk. Version 2 has a manifest and a checksum."""

RESULT = "result.json"
"""File that holds a result and names all its other files; it is written last."""

MODEL_FILES = ("config.json", "model.safetensors", "generation_config.json", "tokenizer/*", "hf/*")
"""Patterns of the files of a model that format 1 saved, which has no manifest."""

REMEDY = "save the result again, or skip this check with verify=False"
"""What to do about a damaged result."""

__all__ = [
    "ModelStorage", "Result", "digest", "load", "read_json", "read_record", "register_model_storage", "save",
    "storable", "versions", "write_json", "write_record", "write_result", "write_text",
]  # fmt: skip

C = TypeVar("C", bound=type)

_TYPES: dict[str, type] = {}
"""Classes that may be part of a saved result, by name; a class registers when its module is imported."""

_TYPES_AT: dict[str, str] = {
    name: module
    for module, names in {
        "attribution": "Attribution KeyTokens Interactions Sensitivity Faithfulness MethodComparison TopK Share"
        " Threshold",
        "auditing": "Audit AuditComparison Verification",
        "auditing.given_model": "Origin",
        "comparison": "ActivationChanges AttentionPatterns DecompositionSummary DiffSummary Focus HeadSplit KeyPath"
        " KeyPathSummary LensChanges ModelDiff PatchingMap PatchingSummary UnlearningDepth WeightChanges",
        "data.benchmark": "Benchmark Corpus QA",
        "data.splits": "RetainSplit",
        "decomposition": "Ablation Decomposition LensCurves PathEffects TunedLens",
        "evaluation": "Agreement Answers Choices HarnessScores Judgement LabelledPair Membership Memorisation Published"
        " Scores TofuScores Verdict",
        "evaluation.meta_evaluate": "MetaEvaluation",
        "models.self_test": "SelfTest",
        "recovery": "Example Leak Recovery RecoveryPlan Sheet",
        "stats.ks": "KSTest",
        "stats.estimate": "Contrast Difference MeanRate PlainEstimate Rate",
        "study": "Cell Dilemma Study",
        "study.workspace": "Contributions",
        "unlearning": "CorruptedNames Ensemble Gated History Prefixed Settings StopRule Trial Tuning Unlearned"
        " UnlearnedSequence",
    }.items()
    for name in names.split()
}
"""Package or module, below `unpact_lens`, whose import registers each class of this library."""


@dataclass(frozen=True)
class Migration:
    """Describe how a class that an earlier version saved is read.

    Attributes:
        name: Present name of the class.
        fields: Present name of each renamed field, by its old name. None drops the field.
    """

    name: str
    fields: Mapping[str, str | None] = field(default_factory=dict)


MIGRATED: dict[str, Migration] = {}
"""Classes whose name or fields changed since version 0.1, by their old name."""


@runtime_checkable
class LoadModel(Protocol):
    """Define the function that reads a model."""

    def __call__(self, path: Path, /, *, verify: bool) -> Any:
        """Return the model in a directory, after checking the SHA-256 of its files if `verify` is True."""


@dataclass(frozen=True)
class ModelStorage:
    """Hold the functions that hash, write and read a model inside a result.

    Attributes:
        hash: Returns the SHA-256 of a model's weights.
        save: Writes a model to a directory.
        load: Reads the model that `save` wrote.
    """

    hash: Callable[[Any], str]
    save: Callable[[Any, Path], object]
    load: LoadModel


_STORAGE: list[ModelStorage] = []


def register_model_storage(storage: ModelStorage) -> None:
    """Register how models inside results are written and read; the last registration counts.

    `unpact_lens.models.checkpoint` calls this when it is imported. Every module whose results hold models imports it.
    """
    _STORAGE[:] = [storage]


def _model_storage() -> ModelStorage:
    if not _STORAGE:
        raise InputError("the result holds a model; use load_model(), or import unpact_lens.models.checkpoint first")
    return _STORAGE[0]


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, unpact-lens and the libraries that results depend on."""
    names = ("unpact-lens", "torch", "transformer-lens", "transformers", "numpy")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}


def storable(cls: C) -> C:
    """Register a dataclass (e.g. `QA`) that may be part of a saved result; used as a decorator."""
    _TYPES[cls.__name__] = cls
    return cls


class Result(Shown):
    """Base class of results.

    Subclasses are declared `@dataclass(frozen=True, eq=False)`. Equality is defined here: by value, tensors included.
    Fields may be tensors, numbers, strings, tuples, lists, dicts with string keys, `Path`s, models, other results, and
    instances of classes marked with `storable`. The class attributes `figure` and `view`
    say how it is shown; see `Shown`.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        _TYPES[cls.__name__] = cls

    def to_frame(self) -> pd.DataFrame:
        """Return the result as a table."""
        raise TypeError(f"{type(self).__name__} has no table form")

    def to_markdown(self, *, digits: int = 3) -> str:
        """Return `to_frame` as a Markdown table.

        Args:
            digits: Decimals of each number. Undefined values give empty cells.
        """
        return to_markdown(self.to_frame(), digits=digits)

    def to_latex(self, *, digits: int = 3) -> str:
        """Return `to_frame` as an escaped LaTeX table (`booktabs`) with the cells of `to_markdown`."""
        return to_latex(self.to_frame(), digits=digits)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write this result to the directory `path`; see `unpact_lens.save`."""
        return save(self, path)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        ours, theirs = _Packer(), _Packer()
        # Compared as text, NaN equals NaN: values that are undefined in both results are equal.
        packed = (json.dumps(p.pack(r), sort_keys=True) for p, r in ((ours, self), (theirs, other)))
        return next(packed) == next(packed) and _same(ours.tensors, theirs.tensors)

    __hash__ = None  # type: ignore[assignment]


def save(result: object, path: str | os.PathLike[str]) -> Path:
    """Write a result to a directory, atomically and without loss.

    A kill at any moment leaves the old result or the new one. A reader beside the writer sees one of them. Files that
    `save` did not write are never removed.

    Args:
        result: Any result of this library, or an instance of a class marked with `storable`.
        path: Directory; it is created if it does not exist. A result that is there already is replaced.

    Returns:
        The directory.

    Raises:
        InputError: If `path` is a file or a directory with other things than a result, a symbolic link is in the way,
            or the result contains something that cannot be stored.
    """
    folder = Path(path)
    check_result_folder(folder)
    return write_result(result, folder)


def check_result_folder(folder: Path, beside: Path | None = None) -> None:
    """Refuse a directory that cannot hold a result.

    Args:
        folder: Directory. It need not exist.
        beside: Directory that may be inside it, e.g. a checkpoint.

    Raises:
        InputError: If it is a file, holds other things than a result, or `result.json` is a link or a directory.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        kind = "a broken symbolic link" if folder.is_symlink() else "a file"
        raise InputError(f"{folder} is {kind}; a result is saved as a directory")
    mark = folder / RESULT
    if mark.is_symlink() or mark.is_dir():
        raise InputError(f"{mark} is a symbolic link or a directory, where a file is to be written; move it away")
    if _is_ours(mark):
        return
    inside = None if beside is None else beside.absolute()
    found = [p for p in sorted(folder.absolute().iterdir()) if not p.name.startswith(SCRATCH)]
    foreign = [p.name for p in found if inside is None or p not in (inside, *inside.parents)]
    if foreign:
        raise InputError(
            f"{folder} is not empty and holds no result (e.g. {foreign[0]}); give a new or empty directory"
        )


def _is_ours(mark: Path) -> bool:
    """Return whether a `result.json` is one of ours, although it may be damaged."""
    if not mark.is_file():
        return False
    try:
        record = read_json(mark)
    except InputError:
        text = mark.read_text("utf-8", "replace")
        return not text or all(f'"{name}"' in text for name in ("format", "versions", "tensors"))
    return isinstance(record, dict) and {"format", "result"} <= record.keys()


def write_result(result: object, folder: Path) -> Path:
    """Write a result into a directory that may hold other things too; `save` checks the directory first.

    Raises:
        InputError: If `result.json` is a symbolic link or a directory, or the result cannot be stored.
    """
    mark = folder / RESULT
    if mark.is_symlink() or mark.is_dir():
        raise InputError(f"{mark} is a symbolic link or a directory, where a file is to be written; move it away")
    packer = _Packer()
    if not dataclasses.is_dataclass(result):
        raise InputError(f"a {type(result).__name__} is no result; give what an analysis of this library returned")
    body = packer.pack(result)
    tensors = f"tensors-{digest(packer.tensors)[:16]}.safetensors" if packer.tensors else None
    with scratch(folder) as made:
        if tensors is not None:
            save_file(packer.tensors, made / tensors)
        for name, model in packer.models.items():
            _model_storage().save(model, made / name)
        sums = {path.name: sums_of(path) for path in made.iterdir()}

        def record(places: Mapping[str, str]) -> str:
            files = {
                f"{places[top]}/{name}" if name else places[top]: found
                for top, below in sums.items()
                for name, found in below.items()
            }
            made_record = {
                "format": FORMAT,
                "versions": versions(),
                "tensors": tensors and places[tensors],
                "models": {name: places[name] for name in packer.models},
                "files": files,
                "result": body,
            }
            return json_text(sealed(made_record))

        commit(folder, made, RESULT, record, written_files(folder))
    return folder


def written_files(folder: Path) -> list[str]:
    """Return the relative paths of the files that the result in a directory names, without `result.json`.

    A result that is missing or damaged names none.
    """
    try:
        record = read_json(folder / RESULT)
    except InputError:
        return []
    if not isinstance(record, dict) or "result" not in record:
        return []
    files, tensors = record.get("files"), record.get("tensors")
    if isinstance(files, dict):
        return sorted(map(str, files))
    # Format 1 names the tensors and the directories of the models.
    models = (folder / name for name in _model_names(record["result"]))
    written = [p for model in models for pattern in MODEL_FILES for p in model.glob(pattern)]
    return [*([tensors] if isinstance(tensors, str) else []), *(p.relative_to(folder).as_posix() for p in written)]


def saved_models(folder: Path) -> list[Path]:
    """Return the directories of the models in a saved result; none if the directory holds no result.

    Raises:
        InputError: If `result.json` is damaged.
    """
    mark = folder / RESULT
    if not mark.is_file():
        return []
    record = read_record(mark, sealed_since=2)
    models = record.get("models")
    names = list(models.values()) if isinstance(models, dict) else sorted(_model_names(record.get("result")))
    return [folder / str(name) for name in names]


def _model_names(value: object) -> set[str]:
    """Return the names of the models in packed JSON."""
    if isinstance(value, dict):
        if isinstance(name := value.get("__model__"), str) and Path(name).name == name:
            return {name}
        value = list(value.values())
    return {name for v in value for name in _model_names(v)} if isinstance(value, list) else set()


def load(path: str | os.PathLike[str], *, verify: bool = True) -> Any:
    """Read a result that `save` wrote.

    Args:
        path: Directory of the result.
        verify: If True, check the SHA-256 of every file. If False, skip this check, which reads each file once more.

    Returns:
        A result equal to the saved one.

    Raises:
        InputError: If there is no result, a file is missing or damaged, its format is newer, or this version does not
            know its type or fields.
    """
    folder = Path(path)
    return steady(folder / RESULT, lambda: _load(folder, verify), checked=True)


def _load(folder: Path, verify: bool) -> Any:
    file = folder / RESULT
    if not file.is_file():
        raise InputError(f"no result at {folder}: {file.name} is missing; give the directory that save() wrote")
    record = read_record(file, verify=False)
    if "result" not in record:
        raise InputError(f"{file} is not a result of unpact-lens: it has no 'result' entry")
    number = record.get("format")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f"{file} is damaged: its format is {number!r}; save the result again")
    if number > FORMAT:
        raise InputError(f"{file} has format {number}, this version reads up to {FORMAT}; upgrade unpact-lens")
    record = read_record(file, verify=verify, sealed_since=2)
    if not isinstance(record["result"], dict) or "__type__" not in record["result"]:
        raise InputError(f"{file} is damaged: its entry 'result' is no result; {REMEDY}")
    name = record.get("tensors")
    if name is not None and (not isinstance(name, str) or Path(name).name != name):
        raise InputError(f"{file} is damaged: {name!r} is no file of tensors; save the result again")
    models = record.get("models", {})
    if not isinstance(models, dict) or not all(isinstance(m, str) and Path(m).name == m for m in models.values()):
        raise InputError(f"{file} is damaged: its entry 'models' names no directories; save the result again")
    if verify and "files" in record:
        files = checked_files(record["files"], file)
        # Each model checks its own files against its manifest, so here the manifest is checked in their place.
        own = {k: v for k, v in files.items() if "/" not in k or k.endswith(f"/{MANIFEST}")}
        check_files_of(folder, own, REMEDY)
    tensors = _read_tensors(folder / name) if name else {}
    return _Unpacker(file, tensors, models, verify).unpack(record["result"])


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"{file} is missing; {REMEDY}")
    try:
        found: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{file} is damaged ({' '.join(str(error).split())}); {REMEDY}") from None
    return found


class _Packer:
    """Turn a value into JSON; collect its tensors by their path and its models by their directory."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.models: dict[str, nn.Module] = {}

    def pack(self, value: object, at: str = "result") -> Any:
        if at.count(".") > MAX_DEPTH // 4:  # The JSON of an instance has up to four levels for each of its own.
            raise InputError(f"{at}: values lie too deep inside each other to be saved")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor):
            self.tensors[at] = value.detach().cpu().contiguous().clone()
            return {"__tensor__": at}
        if isinstance(value, nn.Module) and not dataclasses.is_dataclass(value):
            directory = f"model-{_model_storage().hash(value)[:16]}"
            self.models[directory] = value
            return {"__model__": directory}
        if isinstance(value, np.ndarray):
            self.tensors[at] = torch.from_numpy(np.ascontiguousarray(value)).clone()
            return {"__array__": at}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Path):
            return {"__path__": str(value)}
        if isinstance(value, tuple):
            return {"__tuple__": [self.pack(v, f"{at}.{i}") for i, v in enumerate(value)]}
        if isinstance(value, list):
            return [self.pack(v, f"{at}.{i}") for i, v in enumerate(value)]
        if isinstance(value, Mapping):
            if not all(isinstance(k, str) and not k.startswith("__") for k in value):
                raise InputError(f"{at}: only dicts with string keys (none starting with '__') can be saved")
            return {k: self.pack(v, f"{at}.{k}") for k, v in value.items()}
        if dataclasses.is_dataclass(value) and _TYPES.get(type(value).__name__) is type(value):
            fields = {f.name: self.pack(getattr(value, f.name), f"{at}.{f.name}") for f in dataclasses.fields(value)}
            return {"__type__": type(value).__name__, "fields": fields}
        raise InputError(f"{at}: a {type(value).__name__} cannot be saved; mark its class with `storable`")


@dataclass(frozen=True)
class _Unpacker:
    """Turn packed JSON back into the value that was packed.

    Attributes:
        file: The `result.json`, for messages.
        tensors: Tensors by name.
        models: Directory of each model, by the name that the JSON uses. Format 1 uses the directory itself.
        verify: Whether models check the SHA-256 of their files.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    models: Mapping[str, str]
    verify: bool

    def unpack(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.unpack(v) for v in value]
        if not isinstance(value, dict):
            return value
        kind = next((k for k in value if k.startswith("__")), None)
        if kind is None:
            return {k: self.unpack(v) for k, v in value.items()}
        if kind not in _PACKED or value.keys() != {kind, *(["fields"] if kind == "__type__" else [])}:
            raise self.damaged(f"no value is written as {sorted(value)[:3]}")
        held = value[kind]
        if not isinstance(held, list if kind == "__tuple__" else str):
            raise self.damaged(f"{kind} holds a {type(held).__name__}")
        return _PACKED[kind](self, held, value.get("fields"))

    def damaged(self, why: str) -> InputError:
        return InputError(f"{self.file} is damaged: {why}; {REMEDY}")

    def tensor(self, name: str, _: object) -> Tensor:
        if name not in self.tensors:
            raise self.damaged(f"tensor {name} is missing")
        return self.tensors[name]

    def array(self, name: str, _: object) -> np.ndarray:
        return self.tensor(name, None).numpy()

    def model(self, name: str, _: object) -> Any:
        place = self.models.get(name, name)
        if Path(place).name != place:
            raise self.damaged(f"model {place!r} is outside the directory")
        return _model_storage().load(self.file.parent / place, verify=self.verify)

    def path(self, text: str, _: object) -> Path:
        return Path(text)

    def sequence(self, items: list[Any], _: object) -> tuple[Any, ...]:
        return tuple(self.unpack(v) for v in items)

    def instance(self, name: str, packed: Any) -> Any:
        migration = MIGRATED.get(name) or Migration(name)
        cls = _find_type(migration.name)
        if cls is None:
            raise InputError(
                f"{self.file} contains a {name}, which this version of unpact-lens does not know; upgrade it, "
                "or import the module that defines the class first"
            )
        if not isinstance(packed, dict):
            raise self.damaged(f"the fields of a {name} are a {type(packed).__name__}")
        names = {k: migration.fields.get(k, k) for k in packed}
        fields = {new: self.unpack(packed[old]) for old, new in names.items() if new is not None}
        for field_name, found in fields.items():
            if (expected := misfit(cls, field_name, found)) is not None:
                raise self.damaged(f"{name}.{field_name} is a {type(found).__name__}, not {expected}")
        try:
            return cls(**fields)
        except TypeError as error:
            raise InputError(f"{self.file} contains a {name} with other fields: {error}") from error
        except (ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError) as error:
            raise self.damaged(f"the values of a {name} do not fit together ({error})") from error


_PACKED: dict[str, Callable[[_Unpacker, Any, Any], Any]] = {
    "__tensor__": _Unpacker.tensor,
    "__array__": _Unpacker.array,
    "__model__": _Unpacker.model,
    "__path__": _Unpacker.path,
    "__tuple__": _Unpacker.sequence,
    "__type__": _Unpacker.instance,
}
"""Function that unpacks each kind of packed value, by the key that marks it."""


def _find_type(name: str) -> type | None:
    """Return the class of that name, after importing the package that registers it; None if there is none."""
    if name not in _TYPES and name in _TYPES_AT:
        importlib.import_module(f"unpact_lens.{_TYPES_AT[name]}")
    return _TYPES.get(name)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of named tensors: names, dtypes, shapes and values, in the order of the names."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.reshape(-1)
        if flat.stride(0) != 1:  # also a single value that was cut out of a table
            flat = flat.clone(memory_format=torch.contiguous_format)
        hasher.update(flat.view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        a.dtype == theirs[k].dtype
        and a.shape == theirs[k].shape
        and torch.equal(a.nan_to_num(), theirs[k].nan_to_num())
        and torch.equal(a.isnan(), theirs[k].isnan())
        for k, a in ours.items()
    )
