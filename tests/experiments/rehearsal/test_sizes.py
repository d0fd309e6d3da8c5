"""What an unseen fact shares with the facts to forget, and the tables of the sizes."""

import pandas as pd
import pytest

from experiments.rehearsal.sizes import shared, tables
from unpact_lens.data.benchmark import QA


def fact(subject: str, value: str, relation: str = "genre") -> QA:
    return QA(f"What is the {relation} of {subject}?", f" {value}", subject=subject, meta={"relation": relation})


FORGET = (fact("Ada Bell", "war"), fact("Bo Lind", "1900", "debut"))


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        (fact("Ada Lind", "war"), "names and value"),
        (fact("Cy Bell", "love"), "names"),
        (fact("Cy Dorn", "war"), "value"),
        (fact("Cy Dorn", "war", "debut"), "nothing"),  # the value of another attribute
    ],
)
def test_what_a_fact_shares_with_the_facts_to_forget(kept, found):
    assert shared(kept, FORGET) == found


def test_tables_hold_the_mean_of_the_seeds_and_its_range():
    rates = ("F", "D_near", "D_far", "D_trained", "D_names and value", "D_names", "D_value", "D_nothing")
    row = {"size": "3M", "parameters": 3156224, "method": "npo_self", "hyperparameters": "own search", "lr": 1e-4,
           "alpha": 2.0, "known_forget": 1.0, "known_retain": 0.98}  # fmt: skip
    found = tables(pd.DataFrame([{**row, "seed": s, **dict.fromkeys(rates, s / 2)} for s in (0, 1, 2)]))
    (sizes,), (kinds,) = (found[name].to_dict("records") for name in ("sizes", "shared"))
    assert (sizes["parameters"], sizes["known"], sizes["D_near"]) == ("3,156,224", "1.00, 0.98", "0.50 (0.00 to 1.00)")
    assert kinds["names and value"] == "0.50 (0.00 to 1.00)"
