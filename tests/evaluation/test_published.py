"""Published figures stand as their sources print them, and tables print as papers do."""

import math

import pandas as pd
import pytest

from unpact_lens.errors import InputError
from unpact_lens.evaluation.privacy import privleak
from unpact_lens.evaluation.published import PUBLISHED, published, to_latex, to_markdown


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_are_rectangular_and_sourced(name):
    table = published(name)
    assert table.to_frame().shape == (len(table.rows), len(table.columns))
    assert len(table.direction) == len(table.columns)
    assert table.source
    assert {"retrain", "ga", "ga_gdr", "npo"} <= set(table.rows)


def test_the_retrained_model_leaks_nothing_by_definition():
    for name in ("muse-news", "muse-books"):
        assert published(name).to_frame().loc["retrain", "privleak"] == privleak(0.5, 0.5)


def test_no_privleak_exceeds_what_the_retrained_auc_allows():
    """A ≤ 1, so privleak ≤ (1 − A_retrain)/A_retrain: 109.6 for News (A 0.4772), 85.4 for Books (0.5393)."""
    for name, retrained in (("muse-news", 0.4772), ("muse-books", 0.5393)):
        values = published(name).to_frame()["privleak"]
        assert values.max() <= privleak(1.0, retrained) + 0.05
        assert values.min() >= -100


def test_a_run_prints_beside_them():
    table = published("tofu-forget10").beside({"ours": {"model_utility": 0.5}})
    assert table.loc["ours", "from"] == "this run"
    assert math.isnan(table.loc["ours", "forget_quality"])
    assert table.loc["ga", "forget_quality"] == 1.06e-239
    assert "| ours |  | 0.5 | this run |" in to_markdown(table)
    assert r"ga\_gdr & 1.06e-239 & 0.49 & published \\" in to_latex(table)


def test_every_special_character_is_escaped():
    frame = pd.DataFrame({"a|b_c": ["50% & {x}^2 ~ \\ #$"]})
    assert to_markdown(frame).startswith("| a\\|b_c |")
    assert r"a|b\_c \\" in to_latex(frame)
    assert r"50\% \& \{x\}\textasciicircum{}2 \textasciitilde{} \textbackslash{} \#\$" in to_latex(frame)


def test_an_unknown_table_offers_the_known():
    with pytest.raises(InputError, match="unknown published table 'muse-new'; did you mean 'muse-news'"):
        published("muse-new")
