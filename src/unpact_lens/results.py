"""The base of every result: a frozen dataclass that shows itself, becomes a table, and is saved without loss.

On disk a result is a directory: `result.json` (every field that is not a tensor, and where the tensors are), one
`tensors-<hash>.safetensors`, and a checkpoint directory `model-<hash>` for a model that is part of it. The JSON is
written last and atomically, so a reader sees the old result or the new one, never half of either. Nothing is ever
unpickled.
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
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.text_tables import to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = 1
"""Version of the layout on disk."""

R = TypeVar("R", bound="Result")
_TYPES: dict[str, type] = {}


@cache
def versions() -> dict[str, str]:
    """Versions of what a result depends on: Python, torch, transformer-lens, transformers, unpact-lens."""
    names = ("unpact-lens", "torch", "transformer-lens", "transformers", "numpy")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}


def storable(cls: type[Any]) -> type[Any]:
    """Class decorator: a plain frozen dataclass that may stand inside a result (e.g. `QA`) and be saved with it."""
    _TYPES[cls.__name__] = cls
    return cls


class Result:
    """Base class of results.

    Subclasses are declared `@dataclass(frozen=True, eq=False)`; equality is this class's, by value, tensors included.
    Fields may be tensors, numbers, strings, tuples, lists, dicts with string keys, `Path`s, models, other results, or
    classes marked with `storable`.

    Class attributes:
        figure: `"module:function"` in `unpact_lens.plots` that draws this result; looked up when asked, so that nothing
            below `plots` imports it. A notebook shows it where there is no `view`.
        view: `"module:function"` there that gives the HTML by which a notebook shows this result instead; without a
            figure either, it shows the table.
    """

    figure: ClassVar[str | None] = None
    view: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _TYPES[cls.__name__] = cls

    def to_frame(self) -> pd.DataFrame:
        """The result as a table."""
        raise TypeError(f"{type(self).__name__} has no table form")

    def to_markdown(self, *, digits: int = 3) -> str:
        """`to_frame` as a Markdown table; numbers have `digits` decimals, what is undefined is left empty."""
        return to_markdown(self.to_frame(), digits=digits)

    def to_latex(self, *, digits: int = 3) -> str:
        """`to_frame` as a LaTeX table (`booktabs`), escaped; the cells of `to_markdown`."""
        return to_latex(self.to_frame(), digits=digits)

    def plot(self, **options: Any) -> go.Figure:
        """The result as a plotly figure; options go to the function in `unpact_lens.plots` that draws it.

        Raises:
            InputError: if this kind of result has no figure.
        """
        if self.figure is None:
            raise InputError(f"{type(self).__name__} has no figure; use .to_frame()")
        return _in_plots(self.figure)(self, **options)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html() if self.view is None else _in_plots(self.view)(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """What a notebook shows first: its picture, as plotly is set to show pictures there.

        Empty, so that the table is shown, for kinds with a view of their own, and where nothing can be drawn.
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
        # As text, NaN equals NaN: what is undefined in both is the same.
        packed = (json.dumps(p.pack(r), sort_keys=True) for p, r in ((ours, self), (theirs, other)))
        return next(packed) == next(packed) and _same(ours.tensors, theirs.tensors)

    __hash__ = None  # type: ignore[assignment]


def _in_plots(name: str) -> Callable[..., Any]:
    """The function `"module:function"` of `unpact_lens.plots`, imported now."""
    module, function = name.split(":")
    draw: Callable[..., Any] = getattr(importlib.import_module(f"unpact_lens.plots.{module}"), function)
    return draw


def save(result: Any, path: str | os.PathLike[str]) -> Path:
    """Write a result to a directory, atomically and without loss.

    Args:
        result: any result of this library, or an object of a class marked with `storable`.
        path: the directory; made if it does not exist. A result that stands there already is replaced.

    Returns:
        The directory.

    Raises:
        InputError: if `path` is a file, or the result holds something that cannot be stored.
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
    models = {f"model-{_checkpoints().model_hash(m)[:16]}": m for m in packer.models.values()}
    for directory, model in models.items():
        _checkpoints().save_model(model, folder / directory)
    record = {"format": FORMAT, "versions": versions(), "tensors": name if packer.tensors else None, "result": body}
    write_json(folder / "result.json", record)
    for stale in folder.glob("tensors-*.safetensors"):
        if stale.name != name:
            stale.unlink()
    for stale in folder.glob("model-*"):
        if stale.name not in models:
            shutil.rmtree(stale)
    return folder


def load(path: str | os.PathLike[str]) -> Any:
    """Read a result that `save` wrote.

    Args:
        path: its directory.

    Returns:
        A result equal to the one saved.

    Raises:
        InputError: if there is none, it is of a newer format, or of an unknown type.
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
    """Write a text file atomically: a temporary file beside it, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write JSON atomically. NaN and infinities are kept, in the way Python reads them back."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: naming the file, and where it breaks.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


class _temporary:
    """A path beside `target` that takes its place when the block ends well, and vanishes when it does not."""

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
    """Turns a value into JSON, collecting its tensors by path."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.models: dict[str, torch.nn.Module] = {}

    def pack(self, value: Any, at: str = "result") -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor):
            self.tensors[at] = value.detach().cpu().contiguous().clone()
            return {"__tensor__": at}
        if isinstance(value, torch.nn.Module) and not dataclasses.is_dataclass(value):
            self.models[at] = value
            return {"__model__": f"model-{_checkpoints().model_hash(value)[:16]}"}
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
    if isinstance(value, list):
        return [_unpack(v, tensors, file) for v in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if "__model__" in value:
        return _checkpoints().load_checkpoint(file.parent / value["__model__"])
    if "__array__" in value:
        return tensors[value["__array__"]].numpy()
    if "__path__" in value:
        return Path(value["__path__"])
    if "__tuple__" in value:
        return tuple(_unpack(v, tensors, file) for v in value["__tuple__"])
    if "__type__" in value:
        name = value["__type__"]
        cls = _TYPES.get(name) or _find_type(name)
        if cls is None:
            raise InputError(f"{file} holds a {name}, which this version of unpact-lens does not know")
        return cls(**{k: _unpack(v, tensors, file) for k, v in value["fields"].items()})
    return {k: _unpack(v, tensors, file) for k, v in value.items()}


def _checkpoints() -> Any:
    """How a model that is part of a result is written and read; imported when asked, so that nothing here needs it."""
    return importlib.import_module("unpact_lens.models.checkpoint")


def _find_type(name: str) -> type | None:
    """A result type whose module has not been imported yet."""
    for module in (
        "data.qa",
        "attribution",
        "decomposition",
        "comparison",
        "evaluation",
        "unlearning",
        "recovery",
        "study",
    ):
        importlib.import_module(f"unpact_lens.{module}")
        if name in _TYPES:
            return _TYPES[name]
    return None


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over named tensors on the CPU: names, types, shapes and values, in the order of the names."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        a.dtype == theirs[k].dtype
        and a.shape == theirs[k].shape
        and torch.equal(a.nan_to_num(), theirs[k].nan_to_num())
        and torch.equal(a.isnan(), theirs[k].isnan())
        for k, a in ours.items()
    )
