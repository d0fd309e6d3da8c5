"""Published tables hold the numbers of their sources, and runs print beside them."""

import math
import re

import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.evaluation.membership_inference import privleak
from unpact_lens.evaluation.metrics import METRICS
from unpact_lens.evaluation.published import PUBLISHED, published
from unpact_lens.evaluation.result import Scores
from unpact_lens.text_tables import to_latex, to_markdown


def scores(**overall):
    """Scores of one item, with the given metrics of a whole benchmark."""
    return Scores(
        "b", ("fact_span",), ("i",), ("s",), ("place",), ("forget",), ("",), torch.ones(1, 1), (True,), overall=overall
    )


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


@pytest.mark.parametrize("name", PUBLISHED)
def test_evaluate_measures_every_column(name):
    assert set(published(name).metrics) <= set(METRICS)


def test_scores_print_beside_them_in_the_order_of_the_papers_columns():
    ours = scores(knowmem_retain=41.25, privleak=-3.5, verbmem=12.0, knowmem_forget=30.5)
    table = published("muse-news").beside({"ours": ours})
    assert list(table.columns) == ["verbmem_f", "knowmem_f", "privleak", "knowmem_r", "from"]
    assert to_markdown(table).splitlines()[-1] == "| ours | 12 | 30.5 | -3.5 | 41.25 | this run |"
    assert "| whp | 19.7 | 21.2 | 109.6 | 28.3 | published |" in to_markdown(table)


def test_forget_quality_is_printed_as_the_p_value_that_papers_print():
    table = published("tofu-forget10").beside({"ours": scores(forget_quality_log10=-2.0)})
    assert table.loc["ours", "forget_quality"] == pytest.approx(0.01)
    assert math.isnan(table.loc["ours", "model_utility"])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (scores(perplexity=1.0), "row 'x': its scores hold none of the metrics of muse-news; evaluate with metrics="),
        ({"verbmem": 1.0}, "row 'x': muse-news has no column 'verbmem'; did you mean 'verbmem_f'"),
    ],
)
def test_a_run_that_does_not_fit_the_table_is_refused(run, message):
    with pytest.raises(InputError, match=re.escape(message)):
        published("muse-news").beside({"x": run})


def test_an_unknown_table_name_offers_the_nearest():
    with pytest.raises(InputError, match="unknown published table 'muse-new'; did you mean 'muse-news'"):
        published("muse-new")
