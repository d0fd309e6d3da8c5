"""Make the tables of the page from the result files."""

from __future__ import annotations

import pandas as pd

from experiments.meta import pool
from unpact_lens.study.pooled import estimates


def scores_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the scores: AUC, how far each is behind the verdict, and robustness, with 95% CIs."""
    return estimates(results).set_index("score")


def labels_table(models: pd.DataFrame) -> pd.DataFrame:
    """Count the labels of the verdict for every truth.

    Columns: number of models, how many the verdict says know (*hid* or *insufficient*), how many it calls *hid*,
    *destroyed*, *erased* and *undecided*.
    """
    rows = []
    for (knowledge, destroyed), part in models.fillna({"destroyed": ""}).groupby(["truth", "destroyed"], sort=False):
        labels = [set(text.split(" + ")) for text in part["labels"]]
        what = f"{knowledge}{', retain facts destroyed' if destroyed is True else ''}"
        row: dict[str, object] = {"truth": what, "models": len(part)}
        row |= {"hid or insufficient": sum(bool(found & {"hid", "insufficient"}) for found in labels)}
        for label in ("hid", "insufficient", "destroyed", "erased", "undecided"):
            row[label] = sum(label in found for found in labels)
        rows.append(row)
    return pd.DataFrame(rows).set_index("truth")


def caught_table(models: pd.DataFrame) -> pd.DataFrame:
    """Name the probes that catch each hiding model: their excess is above ε on the interval that holds for all."""
    rows = []
    for _, row in models[models["truth"] == pool.HIDES].iterrows():
        caught = [] if pd.isna(row["caught"]) else str(row["caught"]).split()
        rows.append(
            {
                "model": row["model"], "F": row["F"], "verdict score": row["verdict"], "labels": row["labels"],
                "caught by": ", ".join(caught) or "none",
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("model")
