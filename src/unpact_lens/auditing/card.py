"""Write the section of a Hugging Face model card that reports an audit, with its `model-index` metadata."""

from __future__ import annotations

import math

from huggingface_hub import EvalResult, ModelCardData

from unpact_lens.auditing.findings import percent
from unpact_lens.auditing.given_model import BEFORE, ROLES, Origin
from unpact_lens.auditing.result import Audit

NAMES = {
    "F": "Forgetting F: share of the facts known before that are not known after",
    "remaining": "Share of the facts that the model still gives when simply asked",
    "D": "Destruction D: share of the facts to keep that are lost",
    "excess": "Largest excess recovery of any probe",
}
"""Metrics of the card."""


def card_of(audit: Audit) -> str:
    """Write the metadata block and the section of a model card.

    Args:
        audit: Finished audit.

    Returns:
        Markdown. The block at its start is the YAML metadata of a model card.
    """
    return f"---\n{metadata_of(audit).to_yaml()}\n---\n\n{section_of(audit)}"


def metadata_of(audit: Audit) -> ModelCardData:
    """Return the metadata: one result for each measure that is defined, in the form of `model-index`."""
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Unlearning audit",
            dataset_type=audit.data["source"],
            dataset_name=audit.data["source"],
            dataset_revision=audit.data["sha256"][:16],
            metric_type=name.lower(),
            metric_name=NAMES[name],
            metric_value=round(audit.measures()[name].value, 4),
            metric_args={"low": round(e.low, 4), "high": round(e.high, 4), "n": e.n},
        )
        for name in NAMES
        if not math.isnan((e := audit.measures()[name]).value)
    ]
    base = audit.models[BEFORE].given if BEFORE in audit.models and audit.models[BEFORE].kind == "hub" else None
    return ModelCardData(model_name=audit.name, base_model=base, eval_results=results or None, tags=["unlearning"])


def section_of(audit: Audit) -> str:
    """Write the section "Unlearning audit" in Markdown."""
    worst, probe = audit.excess_worst()
    rows = [
        ("Forgotten (F)", percent(audit.forgetting), audit.forgetting.n),
        ("Still given when simply asked", percent(audit.remaining), audit.remaining.n),
        (f"Destroyed (D), {audit.kept_facts}", percent(audit.destruction), audit.destruction.n),
        (f"Largest excess recovery ({probe or 'no probe'})", percent(worst), worst.n),
    ]
    lines = [
        "## Unlearning audit",
        "",
        f"**Verdict: {audit.verdict}.**",
        *(f"{line}" for line in audit.sentences()),
        "",
        "| measure | value [95% CI] | facts |",
        "|---|---|---|",
        *(f"| {name} | {value} | {n} |" for name, value, n in rows),
        "",
        "| model | given as | revision | SHA-256 of the weights |",
        "|---|---|---|---|",
        *(_model_row(role, origin) for role, origin in audit.models.items()),
        "",
        f"Facts: `{audit.data['source']}`, SHA-256 `{audit.data['sha256']}`; {audit.counts['forget']} to forget, "
        f"{audit.counts['unseen']} to keep and unseen, {audit.counts['retain']} to keep and seen by the unlearner.",
        "",
        f"Budget `{audit.budget}`, seed {audit.settings['seed']}, tolerance {audit.verdict.epsilon:g}. "
        f"Versions: {', '.join(f'{name} {v}' for name, v in _versions(audit).items())}.",
        "",
        f"Made by `{audit.settings['command']}`.",
    ]
    if audit.what_would_change():
        lines += ["", "What would change the verdict:", "", *(f"- {text}" for text in audit.what_would_change())]
    if audit.notes:
        lines += ["", "Notes:", "", *(f"- {text}" for text in audit.notes)]
    return "\n".join(lines) + "\n"


def _model_row(role: str, origin: Origin) -> str:
    weights = f"`{origin.weights}`" if origin.weights else "endpoint"
    return f"| {ROLES[role]} | `{origin.given}` | {origin.revision or '–'} | {weights} |"


def _versions(audit: Audit) -> dict[str, str]:
    found = audit.environment.get("versions")
    return found if isinstance(found, dict) else {}
