"""Show an audit in a notebook: verdict card, dilemma plane, token maps and head map, without scripts."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from unpact_lens.plots.attribution import html_triptych
from unpact_lens.plots.dilemma import StudyLike, dilemma_plane
from unpact_lens.plots.figure import Figure
from unpact_lens.plots.model_diff import head_triptych

if TYPE_CHECKING:
    import pandas as pd

    from unpact_lens.comparison.diff import ModelDiff
    from unpact_lens.comparison.focus import Focus

MAPS = 2
"""Number of forget facts whose token maps are shown."""


@runtime_checkable
class AuditLike(Protocol):
    """Part of an audit that the card needs."""

    # ruff: noqa: D102
    @property
    def name(self) -> str: ...

    @property
    def focus(self) -> Focus | None: ...

    @property
    def diffs(self) -> tuple[ModelDiff, ...]: ...

    def sentences(self) -> tuple[str, ...]: ...

    def what_would_change(self) -> tuple[str, ...]: ...

    def summary(self) -> pd.DataFrame: ...

    def as_study(self) -> StudyLike:
        """Return the audit as a study with one cell."""


def audit_plane(audit: AuditLike) -> Figure:
    """Draw the dilemma plane of an audit's model.

    Args:
        audit: Finished audit.
    """
    return dilemma_plane(audit.as_study())


def audit_card(audit: AuditLike) -> str:
    """Write an audit as HTML: what was found, the dilemma plane, token maps before and after, and the changed heads.

    Args:
        audit: Finished audit.
    """
    lines = "".join(f"<p><b>{html.escape(line)}</b></p>" for line in audit.sentences())
    table = audit.summary().to_html(index=False, border=0, na_rep="–", float_format=lambda v: f"{v:.2f}")
    parts = [f"<h3>Audit of {html.escape(audit.name)}</h3>{lines}{table}"]
    if audit.what_would_change():
        listed = "".join(f"<li>{html.escape(text)}</li>" for text in audit.what_would_change())
        parts.append(f"<details><summary>What would decide or change this</summary><ul>{listed}</ul></details>")
    parts.append(dilemma_plane(audit.as_study()).img())
    if audit.focus is not None:
        pairs = list(zip(audit.focus.before, audit.focus.after, strict=True))[:MAPS]
        maps = "".join(f"<p>{html.escape(b.prompt)}{html.escape(b.answer)}</p>{html_triptych(b, a)}" for b, a in pairs)
        parts.append(f"<h4>Contributions of the prompt tokens, before and after</h4>{maps}")
    if audit.diffs:
        parts.append(f"<h4>Heads, before and after</h4>{head_triptych(audit.diffs[0]).img()}")
    return "".join(parts)
