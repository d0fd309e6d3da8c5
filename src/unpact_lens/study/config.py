"""Read and check the configuration of a study, one YAML file, before anything runs."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from unpact_lens.data.benchmark import BENCHMARKS
from unpact_lens.data.splits import Shares, checked_shares
from unpact_lens.errors import InputError, nearest
from unpact_lens.study.names import unknown_names
from unpact_lens.study.yaml_reader import EntryPath, YamlFile, parse_yaml
from unpact_lens.unlearning.registry import METHODS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Strict(BaseModel):
    """Refuse unknown entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodConfig(Strict):
    """Hold one unlearning method of a study, or a checkpoint that someone else unlearned.

    A text stands for the method of that name with its default hyperparameters.

    Attributes:
        name: Name of the method; see `unpact_lens.methods()`. The name of a checkpoint is free. Default: the name of
            its directory.
        settings: Hyperparameters for `unlearn`, e.g. `lr`, `steps`, `batch_size`.
        checkpoint: Unlearned model, as `load_model` takes it, which is measured as it is. None for a method that is
            trained.
    """

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, entry: Any) -> Any:
        if isinstance(entry, str):
            return {"name": entry}
        if isinstance(entry, dict) and isinstance(entry.get("checkpoint"), str) and "name" not in entry:
            return {**entry, "name": re.sub(r"[^\w.-]+", "_", Path(entry["checkpoint"]).name) or "checkpoint"}
        return entry

    @model_validator(mode="after")
    def _checkpoint_is_not_trained(self) -> MethodConfig:
        if self.checkpoint is not None and self.settings:
            raise ValueError(f"checkpoint {self.checkpoint!r} is given and not trained, so it has no settings")
        if self.checkpoint is not None and not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"the name {self.name!r} of a checkpoint may hold letters, digits, '.', '_' and '-' only")
        return self


class LoadConfig(Strict):
    """Hold how the models of a study are loaded.

    Attributes:
        device: Device of the models, e.g. `cuda`. If None, a GPU if there is one.
        dtype: Dtype of the weights. If None, fp32.
    """

    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None


class ContributionConfig(Strict):
    """Hold for which facts the contributions of the prompt tokens are computed, before and after.

    Attributes:
        forget: Number of forget facts, from the first one on.
        retain: Number of retain facts, from the first one on.
        key_tokens: Number k of the `TopK` rule that selects the key tokens.
    """

    forget: int = Field(default=24, ge=1)
    retain: int = Field(default=12, ge=0)
    key_tokens: int = Field(default=3, ge=1)


class RecoveryConfig(Strict):
    """Hold how a study tries to bring facts back.

    Attributes:
        templates: Names of the emphasis templates. If None, all of them.
        headline: Template whose rate is R. Choose it before the run.
        key_tokens: Source of the KeyTokens: the original model towards the gold answer (`oracle`) or towards its own
            answer (`answer_free`), or each unlearned model towards the gold answer (`after`).
        probes: Names of further probes, or `all`; see `unpact_lens.probes()`.
        relearn: Hyperparameters of relearning.
        added: More names of probes, asked after those in `probes`. Older configurations have both entries.
        gain: Factor on the attention to the key tokens in the probe `attention`.
    """

    templates: tuple[str, ...] | None = None
    headline: str = "focus_list"
    key_tokens: Literal["oracle", "answer_free", "after"] = "oracle"
    probes: tuple[str, ...] | Literal["all"] = ("prefill", "relearn")
    relearn: dict[str, Any] = Field(default_factory=dict)
    added: tuple[str, ...] = ()
    gain: float = Field(default=4.0, gt=0)


class ResourcesConfig(Strict):
    """Hold what one cell needs where cells run side by side: on a Ray cluster, or as processes.

    Attributes:
        cpus: Number of CPU cores. If None, the number of torch threads.
        gpus: Number of GPUs, may be a fraction. If None, 1 if `load.device` is a GPU or the cluster has one, else 0.
        memory_gb: Main memory, in GB. If None, the estimate of `unpact study --dry-run`.
    """

    cpus: int | None = Field(default=None, ge=1)
    gpus: float | None = Field(default=None, ge=0)
    memory_gb: float | None = Field(default=None, gt=0)


class StudyConfig(Strict):
    """Hold a study: one model, one benchmark, several methods and seeds.

    Attributes:
        name: Name of the study in its report.
        model: Original model, as `load_model` takes it.
        wrap: `"hooked"`, `"bridge"` or `"auto"`, as in `load_model`.
        load: Device and dtype.
        control: Retrained model, which never saw the forget set. None if there is none.
        benchmark: Benchmark, as `load_benchmark` takes it.
        benchmark_options: Further arguments of `load_benchmark`.
        retain_split: Shares of the subjects of the retain facts: trained, validation, unseen, as in `load_benchmark`.
            Destruction is measured on the unseen ones. `auto` is 0.5, 0.15, 0.35; null gives no split.
        split_seed: Random seed of this split.
        unlearn_from: Texts to unlearn: the forget `questions` of the benchmark, or its forget `corpus`. If None, as the
            benchmark says: MUSE and WMDP are unlearned from their corpora. The retain set is of the same form. The
            forget questions decide when to stop in both cases.
        hold_out_phrasings: Number of paraphrases of each forget fact that unlearning never sees and that the probes
            ask. 0 gives no split.
        known_only: If True, keep only the facts that the original model answers.
        methods: Unlearning methods, and checkpoints that someone else unlearned.
        seeds: Random seeds. One cell is run for each method and seed, and one for each checkpoint.
        forget_level: Unlearning stops when at most this share of the forget facts is still generated.
        epsilon: Tolerance of the verdict.
        contributions: Facts whose prompt-token contributions are computed.
        diff_examples: Number of forget facts for which the exact component diff is computed.
        recovery: Emphasis, controls and probes.
        batch_tokens: Largest number of input tokens in one forward pass when models are asked and scored. If None,
            4096, or less where the free memory is small. The settings of scores and recovery have the number.
            Attribution follows the free memory instead.
        save_models: If True, also write every unlearned model.
        checkpoint_every: Number of training steps between two checkpoints, from which a killed cell goes on. 0 writes
            none.
        resources: CPUs, GPUs and memory of one cell on a cluster.
        threads: Number of torch threads while the study runs. If None, unchanged. One is fastest for a tiny model.
        matmul_precision: Precision of fp32 products while the study runs, as in `torch.set_float32_matmul_precision`.
            `medium` rounds the factors to bf16 where the hardware supports it, which is faster. An answer can change if
            two tokens were nearly equally likely.
    """

    name: str
    model: str
    wrap: Literal["hooked", "bridge", "auto"] = "hooked"
    load: LoadConfig = Field(default_factory=LoadConfig)
    control: str | None = None
    benchmark: str
    benchmark_options: dict[str, Any] = Field(default_factory=dict)
    retain_split: tuple[float, float, float] | Literal["auto"] | None = "auto"
    split_seed: int = Field(0, ge=0)
    unlearn_from: Literal["questions", "corpus"] | None = None
    hold_out_phrasings: int = Field(0, ge=0)
    known_only: bool = False
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    forget_level: float = Field(0.03, ge=0, lt=1)
    epsilon: float = Field(0.1, gt=0, lt=1)
    contributions: ContributionConfig = Field(default_factory=ContributionConfig)
    diff_examples: int = Field(3, ge=0)
    recovery: RecoveryConfig = Field(default_factory=RecoveryConfig)
    batch_tokens: int | None = Field(default=None, ge=1, strict=True)
    save_models: bool = False
    checkpoint_every: int = Field(50, ge=0)
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    threads: int | None = Field(default=None, ge=1)
    matmul_precision: Literal["highest", "high", "medium"] = "highest"

    @field_validator("methods")
    @classmethod
    def _methods_differ(cls, methods: tuple[MethodConfig, ...]) -> tuple[MethodConfig, ...]:
        names = [m.name for m in methods]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice:
            raise ValueError(f"{twice!r} occurs twice")
        return methods

    @field_validator("retain_split")
    @classmethod
    def _shares_are_shares(cls, shares: Shares | Literal["auto"] | None) -> Shares | Literal["auto"] | None:
        return shares if shares is None or shares == "auto" else checked_shares(shares)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        twice = next((s for s in seeds if seeds.count(s) > 1), None)
        if twice is not None:
            raise ValueError(f"seed {twice} occurs twice")
        return seeds


SHIPPED = ("demo", "demo-smollm2")
"""Configurations that ship with the package."""


def load_config(source: str | os.PathLike[str] | dict[str, Any], **overrides: Any) -> StudyConfig:
    """Read the configuration of a study from a shipped name, a YAML file or a dict.

    Args:
        source: `"demo"`, `"demo-smollm2"`, a path, or the entries as a dict.
        **overrides: Top-level entries to replace, e.g. `seeds=(0, 1, 2)`.

    Raises:
        InputError: If there is no such file, it is not YAML, or an entry is unknown, missing, twice or wrong. All
            mistakes are listed, each with its line in the file.
    """
    if isinstance(source, dict):
        file, where = YamlFile(dict(source), {}, ()), "config"
    else:
        where = str(source)
        file = read_yaml_file(where)
    content = {**_entries(file, where), **overrides}
    mistakes = [Mistake(path, f"entry {_dotted(path)!r} is written twice", line) for path, line in file.twice]
    config = None
    try:
        config = StudyConfig.model_validate(content)
    except ValidationError as error:
        mistakes += [Mistake(tuple(e["loc"]), described(e)) for e in error.errors()]
    mistakes += [Mistake(path, text) for path, text in unknown_names(content)]
    if mistakes or config is None:
        raise InputError(listed(mistakes, where, file))
    return config


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of a study's configuration, for editors that check and complete YAML.

    The descriptions are those of `StudyConfig`. The names of methods are listed as examples, because `lora_` can come
    before them.
    """
    schema = StudyConfig.model_json_schema()
    definitions = schema["$defs"]
    models = (MethodConfig, LoadConfig, ContributionConfig, RecoveryConfig, ResourcesConfig)
    for model, place in [(StudyConfig, schema), *((m, definitions[m.__name__]) for m in models)]:
        for name, text in described_fields(model).items():
            place["properties"][name]["description"] = text
    definitions["MethodConfig"]["properties"]["name"]["examples"] = list(METHODS)
    schema["properties"]["benchmark"]["examples"] = list(BENCHMARKS)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def described_fields(model: type[BaseModel]) -> dict[str, str]:
    """Return the description of each entry from the `Attributes` section of a model's docstring."""
    section = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        start = re.match(r" {4}(\w+): (.*)", line)
        if start:
            name, found[start[1]] = start[1], start[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


@dataclass(frozen=True)
class Mistake:
    """Hold one mistake of a configuration.

    Attributes:
        path: Path of the entry.
        text: What is wrong with it.
        line: Line in the file. If None, the line of the entry.
    """

    path: EntryPath
    text: str
    line: int | None = None


def listed(mistakes: Sequence[Mistake], where: str, file: YamlFile) -> str:
    """Write all mistakes of a configuration: one in one line, several in one line each, in the order of the file."""
    numbered = sorted(((m.line or file.line(m.path), m.text) for m in mistakes), key=lambda pair: pair[0] or 0)
    texts = [f"line {line}: {text}" if line else text for line, text in dict.fromkeys(numbered)]
    if len(texts) == 1:
        return f"{where}{', ' if texts[0].startswith('line ') else ': '}{texts[0]}"
    return f"{where} has {len(texts)} mistakes:" + "".join(f"\n  {text}" for text in texts)


def read_yaml(name: str) -> dict[str, Any]:
    """Return the entries of a YAML file, or of a configuration that ships with the package.

    Args:
        name: Name of a shipped configuration, or path of a file.

    Raises:
        InputError: If there is no such file, it does not hold entries, or an entry is written twice.
    """
    file = read_yaml_file(name)
    if file.twice:
        raise InputError(
            listed([Mistake(p, f"entry {_dotted(p)!r} is written twice", line) for p, line in file.twice], name, file)
        )
    return _entries(file, name)


def read_yaml_file(name: str) -> YamlFile:
    """Read a YAML file, or a configuration that ships with the package, with the line of each entry.

    Args:
        name: Name of a shipped configuration, or path of a file.

    Raises:
        InputError: If there is no such file, or it cannot be read.
    """
    if name in SHIPPED:
        text = (resources.files("unpact_lens.study") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name} cannot be read as UTF-8 text: {error}") from None
    else:
        raise InputError(f"no study configuration {name!r}: no such file, and {nearest(name, SHIPPED)}")
    return parse_yaml(text, name)


def _entries(file: YamlFile, where: str) -> dict[str, Any]:
    if not isinstance(file.content, dict):
        raise InputError(f"{where} holds {type(file.content).__name__}, not entries such as 'model: builtin'")
    return dict(file.content)


def explain(error: ValidationError, where: str, of: type[BaseModel] = StudyConfig) -> str:
    """Describe all errors of a configuration: one in one line, several in one line each.

    Args:
        error: Error of pydantic.
        where: Name of the configuration, to start the text.
        of: Model that the configuration was checked against.
    """
    found = [Mistake(tuple(e["loc"]), described(e, of)) for e in error.errors()]
    return listed(found, where, YamlFile({}, {}, ()))


def described(error: ErrorDetails, of: type[BaseModel] = StudyConfig) -> str:
    """Describe one error of pydantic in one line.

    Args:
        error: One of the errors.
        of: Model that the configuration was checked against.
    """
    at = _dotted(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown entry {at!r}; {nearest(str(error['loc'][-1]), _fields_at(error['loc'][:-1], of))}"
    if error["type"] == "missing":
        return f"entry {at!r} is missing"
    return f"{at} = {error['input']!r}: {error['msg'].removeprefix('Value error, ').lower()}"


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path)


def _fields_at(path: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """Return the names of the entries that a configuration may have at a path."""
    nested: dict[str, type[BaseModel]] = {
        "methods": MethodConfig,
        "load": LoadConfig,
        "contributions": ContributionConfig,
        "recovery": RecoveryConfig,
        "resources": ResourcesConfig,
    }
    for part in path:
        model = nested.get(str(part), model)
    return list(model.model_fields)
