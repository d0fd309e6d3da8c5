"""Hold the models that an audit is given: find them before any work, load them when needed, and name their origin."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from huggingface_hub import try_to_load_from_cache

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.load import NAMES, load_model, require_reachable
from unpact_lens.results import storable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    LivePair = tuple[PreTrainedModel, PreTrainedTokenizerBase]
    ModelSource: TypeAlias = str | os.PathLike[str] | HookedModel | PreTrainedModel | Endpoint | LivePair
else:
    ModelSource = object  # checked here

AFTER, BEFORE, CONTROL = "after", "before", "control"

ROLES = {AFTER: "unlearned model", BEFORE: "original model", CONTROL: "retrained model"}
"""Models of an audit, with their names in messages."""


@storable
@dataclass(frozen=True)
class Origin:
    """Hold where a model came from and what it is.

    Attributes:
        given: Path, hub id, name or endpoint, as it was given; the class of a live model.
        kind: `"name"`, `"directory"`, `"hub"`, `"live"` or `"endpoint"`.
        revision: Commit of a hub id, or None.
        weights: SHA-256 of the named weights. None for an endpoint.
        fingerprint: SHA-256 of weights, configuration and tokenizer. None for an endpoint.
        architecture: Class of the model inside the hooks.
        parameters: Number of weights.
    """

    given: str
    kind: str
    revision: str | None = None
    weights: str | None = None
    fingerprint: str | None = None
    architecture: str = ""
    parameters: int = 0


@dataclass
class GivenModel:
    """Hold one model of an audit, loaded when it is first needed.

    Attributes:
        role: One of `ROLES`.
        source: Model as it was given.
        wrap: `"hooked"`, `"bridge"` or `"auto"`, as in `load_model`.
        device: Device of the model. If None, CUDA if available.
        dtype: Dtype of the weights. If None, fp32.
        seconds: Wall time of the last load, with its self-test.

    Raises:
        InputError: If there is no such model. A local path and a hub id are checked before anything is loaded.
    """

    role: str
    source: ModelSource
    wrap: str = "auto"
    device: str | None = None
    dtype: torch.dtype | None = None
    seconds: float = 0.0
    _model: HookedModel | None = field(default=None, repr=False)
    _origin: Origin | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._place, self._revision = "", None
        if isinstance(self.source, (str, os.PathLike)):
            self._place, self._revision = split_revision(os.fspath(self.source))
            self._check_place()

    def _check_place(self) -> None:
        """Refuse a directory without a model and a hub id that cannot be reached."""
        if self._place in NAMES:
            return
        path = Path(self._place).expanduser()
        if path.is_dir():
            names = ("config.json", "adapter_config.json", "result.json")
            if not any((path / name).is_file() for name in names):
                raise InputError(
                    f"{ROLES[self.role]}: {path} holds no model (no config.json and no adapter_config.json); give the "
                    "directory that save_pretrained() wrote"
                )
            return
        if not path.exists():
            try:
                require_reachable(self._place, self._revision)
            except InputError as error:
                raise InputError(f"{ROLES[self.role]}: {error}") from None

    @property
    def endpoint(self) -> Endpoint | None:
        """Return the endpoint, or None if the model is in this process."""
        return self.source if isinstance(self.source, Endpoint) else None

    @property
    def live(self) -> bool:
        """Return whether the model was given as an object of this process."""
        return not self._place and self.endpoint is None

    @property
    def loaded(self) -> bool:
        """Return whether the model is in memory."""
        return self._model is not None

    def load(self) -> HookedModel:
        """Return the model with hooks.

        Raises:
            InputError: If it cannot be loaded, or is an endpoint.
        """
        if self._model is None:
            started = time.monotonic()
            self._model = self._loaded()
            self.seconds = time.monotonic() - started
        return self._model

    def _loaded(self) -> HookedModel:
        if self.endpoint is not None:
            raise InputError(f"the {ROLES[self.role]} is an endpoint, whose weights cannot be read")
        try:
            if self._place:
                return load_model(
                    self._place, wrap=self.wrap, device=self.device, dtype=self.dtype, revision=self._revision
                )  # fmt: skip
            if isinstance(self.source, tuple):
                source, tokenizer = self.source
                return load_model(source, wrap=self.wrap, tokenizer=tokenizer, device=self.device, dtype=self.dtype)
            return load_model(self.source, wrap=self.wrap if not hasattr(self.source, "run_with_hooks") else "auto")
        except InputError as error:
            raise InputError(f"{ROLES[self.role]}: {error}") from None

    def release(self) -> None:
        """Drop the model from memory. A live model stays, because its caller holds it."""
        if not self.live and self._model is not None:
            _ = self.origin  # its hashes are needed later
            self._model = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    @property
    def origin(self) -> Origin:
        """Return where the model came from; the first call loads it to hash its weights."""
        if self._origin is None:
            self._origin = self._described()
        return self._origin

    def _described(self) -> Origin:
        if self.endpoint is not None:
            return Origin(f"{self.endpoint.model} at {self.endpoint.url}", "endpoint")
        model = self.load()
        inside = model.original_model if hooked.is_bridge(model) else model
        kind, given = "live", type(self.source[0] if isinstance(self.source, tuple) else self.source).__name__
        revision = None
        if self._place:
            kind, given = "name" if self._place in NAMES else "directory", self._place
            if kind == "directory" and not Path(self._place).expanduser().exists():
                kind, revision = "hub", commit_of(self._place, self._revision) or self._revision
        return Origin(
            given, kind, revision, model_hash(model), model_fingerprint(model), type(inside).__name__,
            sum(p.numel() for p in model.parameters()),
        )  # fmt: skip

    @property
    def identity(self) -> str:
        """Return what identifies the model in the keys of cached parts."""
        return self.origin.fingerprint or self.origin.given


class GivenModels:
    """Hold the models of an audit, and keep in memory only those that a step needs."""

    def __init__(self, given: dict[str, GivenModel]) -> None:
        self.given = given

    def __contains__(self, role: object) -> bool:
        return role in self.given

    def __getitem__(self, role: str) -> GivenModel:
        return self.given[role]

    def only(self, *roles: str) -> tuple[HookedModel | None, ...]:
        """Load the models of these roles and drop all others from memory.

        Args:
            *roles: Roles, in the order of the result.

        Returns:
            The models; None for a role that was not given.
        """
        for role, model in self.given.items():
            if role not in roles:
                model.release()
        # An endpoint stands for its model where only answers are asked for.
        return tuple(
            cast(HookedModel, self.given[r].endpoint or self.given[r].load()) if r in self.given else None
            for r in roles
        )


def split_revision(spec: str) -> tuple[str, str | None]:
    """Split `org/name@revision`; a path that exists is left whole.

    >>> split_revision("org/name@v2"), split_revision("builtin")
    (('org/name', 'v2'), ('builtin', None))
    """
    place, at, revision = spec.rpartition("@")
    if not at or not place or not revision or Path(spec).expanduser().exists():
        return spec, None
    return place, revision


def commit_of(repository: str, revision: str | None) -> str | None:
    """Return the commit of a hub id in the local cache; None if it is not there."""
    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
