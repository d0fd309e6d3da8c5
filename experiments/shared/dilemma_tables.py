"""Write the tables and the figure of methods in the dilemma plane, for the experiments that compare methods so."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import Study, dilemma, distance_gaps, estimates, kinds_table
from unpact_lens.text_tables import to_markdown


def write_dilemma(study: Study, folder: Path, name: str = "", more: Mapping[str, pd.DataFrame] | None = None) -> None:
    """Write results, gaps to the nearest method, and the figure; and fill the tables of the page.

    Args:
        study: Finished study.
        folder: Directory of the experiment, with its README.md.
        name: End of the files' and blocks' names, e.g. `"-smollm2"`.
        more: Further tables by name: `kinds`, by kind of knowledge.
    """
    found = dilemma(study)
    results = found.to_frame().sort_values("distance").round(4)
    gaps = distance_gaps(study, results["method"].iloc[0]).round(4)
    for what, frame in {"results": results, "gaps": gaps, **(more or {})}.items():
        write_text(folder / f"{what}{name}.csv", frame.to_csv(index=False))
        table = kinds_table(frame) if what == "kinds" else estimates(frame).set_index("method")
        fill_block(folder / "README.md", f"{what}{name}", to_markdown(table))
    found.plot().save(folder / f"figure{name}.svg")
