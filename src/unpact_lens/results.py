"""Define `Result`, the base of every result, and save and load results without loss.

A result is a frozen dataclass that shows itself and becomes a table. On disk it is a directory with up to three parts:

- `result.json`: every field that is not a tensor, and references to the tensors and models;
- `tensors-<hash>.safetensors`: all tensors;
- `model-<hash>`: a checkpoint directory for each model in the result.

The JSON is written last and atomically, so a reader sees either the old result or the new one. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unpact_lens.errors import InputError
from unpact_lens.text_tables import to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = 1
"""Version of the layout on disk."""

C = TypeVar("C", bound=type)

_TYPES: dict[str, type] = {}
"""Classes that may be part of a saved result, by name; a class registers when its module is imported."""

_TYPES_AT: dict[str, str] = {
    name: module
    for module, names in {
        "attribution": "Attribution KeyTokens Interactions Sensitivity Faithfulness MethodComparison TopK Share"
        " Threshold",
        "comparison": "ActivationChanges AttentionPatterns DecompositionSummary DiffSummary Focus HeadSplit KeyPath"
        " KeyPathSummary LensChanges ModelDiff PatchingMap PatchingSummary UnlearningDepth WeightChanges",
        "data.benchmark": "Benchmark Corpus QA",
        "data.splits": "RetainSplit",
        "decomposition": "Ablation Decomposition LensCurves PathEffects TunedLens",
        "evaluation": "Agreement Answers Choices HarnessScores Judgement LabelledPair Membership Memorisation Published"
        " Scores TofuScores Verdict",
        "models.self_test": "SelfTest",
        "recovery": "Example Leak Recovery RecoveryPlan Sheet",
        "stats.ks": "KSTest",
        "stats.estimate": "Contrast Difference MeanRate PlainEstimate Rate",
        "study": "Cell Dilemma Study",
        "study.workspace": "Contributions",
        "unlearning": "Ensemble Gated History Settings StopRule Tuning Unlearned UnlearnedSequence",
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
    load: Callable[[Path], Any]


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


class Result:
    """Base class of results.

    Subclasses are declared `@dataclass(frozen=True, eq=False)`. Equality is defined here: by value, tensors included.
    Fields may be tensors, numbers, strings, tuples, lists, dicts with string keys, `Path`s, models, other results, and
    instances of classes marked with `storable`.

    Class attributes:
        figure: `"module:function"` in `unpact_lens.plots` that draws this result. It is imported when it is called. A
            notebook shows the figure if there is no `view`.
        view: `"module:function"` in `unpact_lens.plots` that returns the HTML for notebooks. Without view and figure, a
            notebook shows the table.
    """

    figure: ClassVar[str | None] = None
    view: ClassVar[str | None] = None

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

    def plot(self, **options: Any) -> go.Figure:
        """Draw the result as a plotly figure.

        Args:
            **options: Keyword arguments of the function in `unpact_lens.plots` that draws this result.

        Raises:
            InputError: If this kind of result has no figure.
        """
        if self.figure is None:
            raise InputError(f"{type(self).__name__} has no figure; use .to_frame()")
        return _in_plots(self.figure)(self, **options)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html() if self.view is None else _in_plots(self.view)(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Return the figure for a notebook, in the form that plotly's renderer uses.

        The bundle is empty if the result has a view, has no figure, or cannot be drawn. A notebook then shows
        `_repr_html_`.
        """
        if self.figure is None or self.view is not None:
            return {}
        try:
            bundle: dict[str, Any] = self.plot()._repr_mimebundle_()
        except InputError:
            return {}
        return bundle

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


def _in_plots(name: str) -> Callable[..., Any]:
    """Import and return the function `"module:function"` of `unpact_lens.plots`."""
    module, function = name.split(":")
    draw: Callable[..., Any] = getattr(importlib.import_module(f"unpact_lens.plots.{module}"), function)
    return draw


def save(result: object, path: str | os.PathLike[str]) -> Path:
    """Write a result to a directory, atomically and without loss.

    Args:
        result: Any result of this library, or an instance of a class marked with `storable`.
        path: Directory; it is created if it does not exist. A result that is there already is replaced.

    Returns:
        The directory.

    Raises:
        InputError: If `path` is a file, or the result contains something that cannot be stored.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a result is saved as a directory")
    folder.mkdir(parents=True, exist_ok=True)
    packer = _Packer()
    body = packer.pack(result)
    checksum = digest(packer.tensors)
    name = f"tensors-{checksum[:16]}.safetensors"
    if packer.tensors and not (folder / name).exists():
        with _temporary(folder / name) as temporary:
            save_file(packer.tensors, temporary)
    for directory, model in packer.models.items():
        _model_storage().save(model, folder / directory)
    record = {"format": FORMAT, "versions": versions(), "tensors": name if packer.tensors else None, "result": body}
    write_json(folder / "result.json", record)
    for stale in folder.glob("tensors-*.safetensors"):
        if stale.name != name:
            stale.unlink()
    for stale in folder.glob("model-*"):
        if stale.name not in packer.models:
            shutil.rmtree(stale)
    return folder


def load(path: str | os.PathLike[str]) -> Any:
    """Read a result that `save` wrote.

    Args:
        path: Directory of the result.

    Returns:
        A result equal to the saved one.

    Raises:
        InputError: If there is no result, its format is newer, or this version does not know its type or fields.
    """
    folder = Path(path)
    file = folder / "result.json"
    if not file.is_file():
        raise InputError(f"no result at {folder}: {file.name} is missing; give the directory that save() wrote")
    record = read_json(file)
    if not isinstance(record, dict) or "result" not in record:
        raise InputError(f"{file} is not a result of unpact-lens: it has no 'result' entry")
    if record.get("format", 0) > FORMAT:
        raise InputError(
            f"{file} has format {record['format']}, this version reads up to {FORMAT}; upgrade unpact-lens"
        )
    tensors = load_file(folder / record["tensors"]) if record["tensors"] else {}
    return _unpack(record["result"], tensors, file)


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically: write a temporary file beside it, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: object) -> Path:
    """Write JSON atomically. NaN and infinities are written in the form that `read_json` reads."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: If the file is not valid JSON. The message names the file and the position.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


class _temporary:
    """Provide a temporary path that replaces `target` when the block succeeds, and is deleted when it fails."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.target.parent, prefix=f".{self.target.name}.")
        os.close(handle)
        self.path = Path(name)
        return self.path

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            umask = os.umask(0)
            os.umask(umask)
            self.path.chmod(0o666 & ~umask)
            os.replace(self.path, self.target)
        else:
            self.path.unlink(missing_ok=True)


class _Packer:
    """Turn a value into JSON; collect its tensors by their path and its models by their directory."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.models: dict[str, nn.Module] = {}

    def pack(self, value: object, at: str = "result") -> Any:
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


def _unpack(value: Any, tensors: dict[str, Tensor], file: Path) -> Any:
    """Turn packed JSON back into the value that was packed."""
    if isinstance(value, list):
        return [_unpack(v, tensors, file) for v in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if "__model__" in value:
        return _model_storage().load(file.parent / value["__model__"])
    if "__array__" in value:
        return tensors[value["__array__"]].numpy()
    if "__path__" in value:
        return Path(value["__path__"])
    if "__tuple__" in value:
        return tuple(_unpack(v, tensors, file) for v in value["__tuple__"])
    if "__type__" in value:
        migration = MIGRATED.get(value["__type__"]) or Migration(value["__type__"])
        cls = _find_type(migration.name)
        if cls is None:
            raise InputError(
                f"{file} contains a {value['__type__']}, which this version of unpact-lens does not know; upgrade it, "
                "or import the module that defines the class first"
            )
        names = {k: migration.fields.get(k, k) for k in value["fields"]}
        fields = {new: _unpack(value["fields"][old], tensors, file) for old, new in names.items() if new is not None}
        try:
            return cls(**fields)
        except TypeError as error:
            raise InputError(f"{file} contains a {value['__type__']} with other fields: {error}") from error
    return {k: _unpack(v, tensors, file) for k, v in value.items()}


def _find_type(name: str) -> type | None:
    """Return the class of that name, after importing the package that registers it; None if there is none."""
    if name not in _TYPES and name in _TYPES_AT:
        importlib.import_module(f"unpact_lens.{_TYPES_AT[name]}")
    return _TYPES.get(name)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of named CPU tensors: names, dtypes, shapes and values, in the order of the names."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.reshape(-1)
        if flat.stride(0) != 1:  # also a single value that was cut out of a table
            flat = flat.clone(memory_format=torch.contiguous_format)
        hasher.update(flat.view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        a.dtype == theirs[k].dtype
        and a.shape == theirs[k].shape
        and torch.equal(a.nan_to_num(), theirs[k].nan_to_num())
        and torch.equal(a.isnan(), theirs[k].isnan())
        for k, a in ours.items()
    )
