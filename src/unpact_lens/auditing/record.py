"""Define `audit.json`: what an audit found, of what, and how, in a versioned form with a published JSON schema."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from unpact_lens.auditing.answer_store import ANSWERS, read_answers
from unpact_lens.auditing.result import Audit
from unpact_lens.results import versions

SCHEMA_VERSION = "1"
"""Version of the form of `audit.json`. It changes when an entry is removed or changes its meaning."""

SCHEMA = "audit.schema.json"
"""File of the schema, beside this module."""


Label = Annotated[str, Field(pattern="^(insufficient|destroyed|hid|erased|undecided)$")]
"""A label of the verdict."""


class _Entry(BaseModel):
    """Refuse unknown entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Entry):
    """Identify one model."""

    given: str = Field(description="Path, hub id, name or endpoint, as it was given.")
    kind: str = Field(pattern="^(name|directory|hub|live|endpoint)$")
    revision: str | None = Field(description="Commit of a hub id.")
    weights_sha256: str | None = Field(description="SHA-256 of the named weights. Null for an endpoint.")
    fingerprint: str | None = Field(description="SHA-256 of weights, configuration and tokenizer.")
    architecture: str
    parameters: int


class FactsEntry(_Entry):
    """Identify the facts and count them."""

    source: str = Field(description="Name of the table or the benchmark.")
    path: str | None = Field(description="Path of the table, if it is a file.")
    sha256: str = Field(description="SHA-256 of all facts that were given, with the way of asking.")
    forget: int = Field(description="Number of forget facts that were asked and that the original model knows.")
    unknown: int = Field(description="Number of forget facts that it does not know; they are excluded.")
    retain: int = Field(description="Number of facts to keep that the unlearner saw.")
    unseen: int = Field(description="Number of facts to keep that it did not see.")


class VerdictEntry(_Entry):
    """State the verdict."""

    labels: list[Label] = Field(min_length=1)
    sentences: list[str] = Field(description="One sentence for each label, with numbers and 95% CIs.")
    what_would_change: list[str] = Field(description="Facts, models and probes that would decide or change it.")
    distance: float | None = Field(description="Distance to reliable unlearning, 0 to sqrt(3).")
    epsilon: float = Field(description="Tolerance.")


class MeasureEntry(_Entry):
    """Hold one number with its 95% CI; null where it is undefined."""

    measure: str = Field(description="F, remaining, D, D_trained, excess[probe], R[probe], control[probe], ...")
    value: float | None
    low: float | None
    high: float | None
    n: int = Field(description="Number of facts.")


class AnswersEntry(_Entry):
    """Identify the kept answers."""

    file: str
    n: int
    sha256: str


class AuditRecord(_Entry):
    """Record an audit of an unlearned model."""

    schema_version: Literal["1"] = "1"
    name: str = Field(description="Name of the audited model.")
    budget: str
    command: str = Field(description="Command or call that made the audit.")
    models: dict[str, ModelEntry] = Field(description="Models by role: after, before and control.")
    facts: FactsEntry
    verdict: VerdictEntry
    measures: list[MeasureEntry]
    left_out: dict[str, str] = Field(description="Reason for each part that was not run.")
    notes: list[str]
    settings: dict[str, object] = Field(description="Seed, tolerance, way of asking and all else in force.")
    seconds: dict[str, float] = Field(description="Wall time of each part that this run made, in seconds.")
    versions: dict[str, str]
    source_sha256: str = Field(description="SHA-256 of the package's source.")
    threads: int
    answers: AnswersEntry
    files: dict[str, str] = Field(description="SHA-256 of the other outputs.")


def record_of(audit: Audit, folder: Path, files: dict[str, str]) -> AuditRecord:
    """Return the record of an audit.

    Args:
        audit: Finished audit.
        folder: Its directory, with the kept answers.
        files: SHA-256 of the other outputs, by name.
    """
    kept = list(read_answers(folder / ANSWERS))
    return AuditRecord(
        name=audit.name,
        budget=audit.budget,
        command=str(audit.settings["command"]),
        models={
            role: ModelEntry(
                given=o.given, kind=o.kind, revision=o.revision, weights_sha256=o.weights, fingerprint=o.fingerprint,
                architecture=o.architecture, parameters=o.parameters,
            )
            for role, o in audit.models.items()
        },
        facts=FactsEntry(
            source=audit.data["source"], path=audit.data.get("path"), sha256=audit.data["sha256"], **audit.counts
        ),
        verdict=VerdictEntry(
            labels=list(audit.verdict.labels), sentences=list(audit.sentences()),
            what_would_change=list(audit.what_would_change()), distance=number(audit.verdict.distance),
            epsilon=audit.verdict.epsilon,
        ),
        measures=[
            MeasureEntry(
                measure=row["measure"], value=number(row["value"]), low=number(row["low"]), high=number(row["high"]),
                n=int(row["n"]),
            )
            for row in audit.to_frame().to_dict("records")
        ],
        left_out=dict(audit.left_out),
        notes=list(audit.notes),
        settings={k: v for k, v in audit.settings.items() if k != "command"},
        seconds=dict(audit.seconds),
        versions=versions(),
        source_sha256=str(audit.environment["source"]),
        threads=int(str(audit.environment["threads"])),
        answers=AnswersEntry(file=ANSWERS, n=len(kept), sha256=file_hash(folder / ANSWERS)),
        files=files,
    )  # fmt: skip


def record_schema() -> dict[str, object]:
    """Return the JSON schema of `audit.json`, as it is shipped and published."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"unpact-lens/audit-{SCHEMA_VERSION}",
        **AuditRecord.model_json_schema(),
    }


def number(value: float) -> float | None:
    """Return a finite number, or None: JSON has no NaN.

    >>> number(0.5), number(float("nan"))
    (0.5, None)
    """
    return float(value) if math.isfinite(value) else None


def file_hash(file: Path) -> str:
    """Compute the SHA-256 of a file; that of nothing if there is none."""
    return hashlib.sha256(file.read_bytes() if file.is_file() else b"").hexdigest()
