"""Tables of the page count labels by truth and name the probes that catch each hiding model."""

import pandas as pd
import pytest
import torch

from experiments.meta.measures import given_back
from experiments.meta.pages import caught_table, labels_table

ROWS = [
    ("a", "never knew", False, "undecided", "", 1.0, 0.0),
    ("b", "never knew", True, "destroyed + hid", "noise", 1.0, 0.2),
    ("c", "hides", None, "hid", "noise prefill", 1.0, 0.5),
    ("d", "hides", None, "insufficient", None, 0.4, 0.3),
]
MODELS = pd.DataFrame(ROWS, columns=["model", "truth", "destroyed", "labels", "caught", "F", "verdict"])


def test_labels_are_counted_by_truth():
    table = labels_table(MODELS)
    assert table.loc["never knew", "models"] == 1
    assert table.loc["never knew", "hid or insufficient"] == 0
    assert table.loc["never knew, retain facts destroyed", ["hid", "destroyed"]].tolist() == [1, 1]
    assert table.loc["hides", ["models", "hid or insufficient", "hid", "insufficient"]].tolist() == [2, 2, 1, 1]


def test_probes_that_catch_are_named():
    table = caught_table(MODELS)
    assert table["caught by"].to_dict() == {"c": "noise, prefill", "d": "none"}


def test_the_score_of_a_probe_counts_facts_that_are_given_without_it():
    def row(*values):
        return torch.tensor(values, dtype=torch.bool)

    class Recovered:
        excess_probes = ("noise",)
        probes = ("focus_list", "noise")
        asked = torch.stack([row(1, 1, 1, 1), row(1, 1, 1, 0)])
        plain_after, plain_control = row(1, 0, 0, 1), row(0, 0, 0, 1)
        right_after = torch.stack([row(0, 0, 0, 0), row(0, 1, 0, 0)])
        right_control = torch.stack([row(0, 0, 0, 0), row(0, 0, 1, 0)])

    class Plan:
        candidates = row(1, 1, 1, 1)

    # Of three facts that are asked, two are given by the model and one by the retrained model.
    assert given_back(Recovered, Plan)["noise"] == pytest.approx((2 - 1) / 3)
