"""Write the table of finished audits of the two SmolLM2 checkpoints.

    python -m experiments.audit.tables AUDIT_DIRECTORY ...

The command writes smollm2.csv and its table in README.md.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.shared.command_line import arguments
from experiments.shared.page_tables import fill_block
from unpact_lens.auditing import Audit
from unpact_lens.results import load, write_text
from unpact_lens.study import estimates
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent


def row(folder: str) -> dict[str, Any]:
    """Return the numbers of one audit."""
    audit = load(folder)
    assert isinstance(audit, Audit)
    worst, probe = audit.excess_worst()
    found: dict[str, Any] = {"model": audit.name, "budget": audit.budget, "verdict": str(audit.verdict)}
    for name, value in {"F": audit.forgetting, "D": audit.destruction, "excess": worst}.items():
        found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return {**found, "probe": probe, "facts": audit.counts["forget"], "seconds": audit.seconds["total"]}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the page."""
    return estimates(rows.drop(columns="seconds")).set_index("model")


def main() -> None:
    """Run the command."""
    rows = pd.DataFrame(row(folder) for folder in arguments(__doc__)).round(4)
    write_text(HERE / "smollm2.csv", rows.to_csv(index=False))
    fill_block(HERE / "README.md", "smollm2", to_markdown(table(rows)))


if __name__ == "__main__":
    main()
