"""Read and check the configuration of a study, one YAML file, before anything runs."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unpact_lens.errors import InputError, nearest


class Strict(BaseModel):
    """Refuse unknown entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodConfig(Strict):
    """Hold one unlearning method of a study.

    Attributes:
        name: Name of the method; see `unpact_lens.methods()`.
        settings: Hyperparameters for `unlearn`, e.g. `lr`, `steps`, `batch_size`.
    """

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


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
        unlearn_from: Texts to unlearn: the forget `questions` of the benchmark, or its forget `corpus`, as MUSE does.
            The retain set is of the same form. The forget questions decide when to stop in both cases.
        hold_out_phrasings: Number of paraphrases of each forget fact that unlearning never sees and that the probes
            ask. 0 gives no split.
        known_only: If True, keep only the facts that the original model answers.
        methods: Unlearning methods.
        seeds: Random seeds. One cell is run for each method and seed.
        forget_level: Unlearning stops when at most this share of the forget facts is still generated.
        epsilon: Tolerance of the verdict.
        contributions: Facts whose prompt-token contributions are computed.
        diff_examples: Number of forget facts for which the exact component diff is computed.
        recovery: Emphasis, controls and probes.
        batch_tokens: Largest number of input tokens in one forward pass when models are asked and scored. Attribution
            follows the free memory instead.
        save_models: If True, also write every unlearned model.
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
    unlearn_from: Literal["questions", "corpus"] = "questions"
    hold_out_phrasings: int = Field(0, ge=0)
    known_only: bool = False
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    forget_level: float = Field(0.03, ge=0, lt=1)
    epsilon: float = Field(0.1, gt=0, lt=1)
    contributions: ContributionConfig = Field(default_factory=ContributionConfig)
    diff_examples: int = Field(3, ge=0)
    recovery: RecoveryConfig = Field(default_factory=RecoveryConfig)
    batch_tokens: int = Field(4096, ge=1)
    save_models: bool = False
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


SHIPPED = ("demo", "demo-smollm2")
"""Configurations that ship with the package."""


def load_config(source: str | os.PathLike[str] | dict[str, Any], **overrides: Any) -> StudyConfig:
    """Read the configuration of a study from a shipped name, a YAML file or a dict.

    Args:
        source: `"demo"`, `"demo-smollm2"`, a path, or the entries as a dict.
        **overrides: Top-level entries to replace, e.g. `seeds=(0, 1, 2)`.

    Raises:
        InputError: If there is no such file, it is not YAML, or an entry is unknown or has a wrong value.
    """
    if isinstance(source, dict):
        content, where = dict(source), "config"
    else:
        where = str(source)
        content = read_yaml(where)
    content.update(overrides)
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, where)) from None


def read_yaml(name: str) -> dict[str, Any]:
    """Return the entries of a YAML file, or of a configuration that ships with the package.

    Args:
        name: Name of a shipped configuration, or path of a file.

    Raises:
        InputError: If there is no such file, or it does not hold entries.
    """
    if name in SHIPPED:
        text = (resources.files("unpact_lens.study") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise InputError(f"no study configuration {name!r}: no such file, and {nearest(name, SHIPPED)}")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{name} holds {type(content).__name__}, not entries such as 'model: builtin'")
    return content


def explain(error: ValidationError, where: str, of: type[BaseModel] = StudyConfig) -> str:
    """Describe the first error of a configuration in one line.

    Args:
        error: Error of pydantic.
        where: Name of the configuration, to start the line.
        of: Model that the configuration was checked against.
    """
    first = error.errors()[0]
    at = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown entry {at!r}; {nearest(str(first['loc'][-1]), _fields_at(first['loc'][:-1], of))}"
    if first["type"] == "missing":
        return f"{where}: entry {at!r} is missing"
    return f"{where}: {at} = {first['input']!r}: {first['msg'].removeprefix('Value error, ').lower()}"


def _fields_at(path: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Return the names of the entries that a configuration may have at a path."""
    nested: dict[str, type[BaseModel]] = {
        "methods": MethodConfig,
        "load": LoadConfig,
        "contributions": ContributionConfig,
        "recovery": RecoveryConfig,
    }
    for part in path:
        model = nested.get(str(part), model)
    return list(model.model_fields)
