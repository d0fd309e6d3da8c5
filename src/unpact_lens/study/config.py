"""What a study runs: one YAML file, checked before anything starts."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unpact_lens.errors import InputError, nearest


class Strict(BaseModel):
    """Unknown entries are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodConfig(Strict):
    """One unlearning method of a study.

    Attributes:
        name: as registered; see `unpact_lens.methods()`.
        settings: what goes to `unlearn`, e.g. `lr`, `steps`, `batch_size`.
    """

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class LoadConfig(Strict):
    """How the models of a study are loaded, where it is not as `load_model` does it by itself.

    Attributes:
        device: e.g. `cuda`; None for a GPU where there is one.
        dtype: of the weights; None for fp32.
    """

    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None


class ContributionConfig(Strict):
    """For which facts the contributions of prompt tokens are taken before and after.

    Attributes:
        forget: how many forget facts, the first ones.
        retain: how many retain facts.
        key_tokens: k of the `TopK` rule that names the key tokens.
    """

    forget: int = Field(default=24, ge=1)
    retain: int = Field(default=12, ge=0)
    key_tokens: int = Field(default=3, ge=1)


class RecoveryConfig(Strict):
    """How a study tries to bring facts back.

    Attributes:
        templates: emphasis wordings; None for all of them.
        headline: the wording whose rate is R, chosen before the run.
        key_tokens: of the model before, towards the gold answer (`oracle`) or its own (`answer_free`); or of each
            unlearned model, towards the gold answer (`after`).
        probes: stronger probes beside emphasis.
        relearn: settings of the relearning probe.
        added: probes beside those of the plan, of `unpact_lens.recovery.ADDED`: attention to the key tokens, rounded
            weights, cross-model patching, the logit lens, emphasis on what is key to the unlearned model, another
            language.
        gain: by how much the `attention` probe multiplies attention to the key tokens.
    """

    templates: tuple[str, ...] | None = None
    headline: str = "focus_list"
    key_tokens: Literal["oracle", "answer_free", "after"] = "oracle"
    probes: tuple[str, ...] = ("prefill", "relearn")
    relearn: dict[str, Any] = Field(default_factory=dict)
    added: tuple[str, ...] = ()
    gain: float = Field(default=4.0, gt=0)


class StudyConfig(Strict):
    """A study: one model, one benchmark, several methods and seeds.

    Attributes:
        name: names the study in its report.
        model: what `load_model` takes.
        wrap: `"hooked"`, `"bridge"` or `"auto"`, as in `load_model`.
        load: device and dtype.
        control: a model that never saw the forget set (retrain), None where there is none.
        benchmark: what `load_benchmark` takes.
        benchmark_options: its options.
        unlearn_from: what is trained away: the benchmark's forget `questions`, or its forget `corpus`, as MUSE does;
            the same of what is kept. When to stop is decided by the forget questions either way.
        hold_out_phrasings: paraphrases of each forget fact that unlearning never sees and that the probes ask; 0
            for no such split.
        known_only: keep only the facts that the model gives before unlearning.
        methods: the unlearning methods.
        seeds: one cell is run for each method and seed.
        forget_level: unlearning stops once at most this share of the forget facts is still generated.
        epsilon: the verdict's tolerance.
        contributions: whose prompt-token contributions are taken.
        diff_examples: for how many forget facts the exact component diff is taken.
        recovery: emphasis, controls and probes.
        batch_tokens: bound on the input tokens of one forward pass where the models are asked and scored; attribution
            goes by the free memory.
        save_models: also write every unlearned model.
        threads: torch threads while the study runs; None leaves them. One is fastest for a tiny model.
        matmul_precision: of fp32 products while the study runs, as `torch.set_float32_matmul_precision` has it:
            `medium` rounds their factors to bf16 where the machine has arithmetic for it, which is faster there; an
            answer can change where two tokens were nearly as likely.
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
"""Configurations that come with the package."""


def load_config(source: str | os.PathLike[str] | dict[str, Any], **overrides: Any) -> StudyConfig:
    """A study's configuration from a shipped name, a YAML file or a dict.

    Args:
        source: `"demo"`, `"demo-smollm2"`, a path, or the content.
        overrides: top-level entries to replace, e.g. `seeds=(0, 1, 2)`.

    Raises:
        InputError: if there is no such file, it is not YAML, or an entry is unknown or has a wrong value.
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
    """The entries of a YAML file, or of a configuration that ships with the package.

    Raises:
        InputError: if there is no such file, or it does not hold entries.
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
    """The first thing wrong with a configuration, in one line."""
    first = error.errors()[0]
    at = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown entry {at!r}; {nearest(str(first['loc'][-1]), _fields_at(first['loc'][:-1], of))}"
    if first["type"] == "missing":
        return f"{where}: entry {at!r} is missing"
    return f"{where}: {at} = {first['input']!r}: {first['msg'].removeprefix('Value error, ').lower()}"


def _fields_at(path: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    nested: dict[str, type[BaseModel]] = {
        "methods": MethodConfig,
        "load": LoadConfig,
        "contributions": ContributionConfig,
        "recovery": RecoveryConfig,
    }
    for part in path:
        model = nested.get(str(part), model)
    return list(model.model_fields)
