"""Markdown and LaTeX tables have the same cells."""

import pandas as pd
import pytest

from unpact_lens.evaluation import published
from unpact_lens.text_tables import to_latex, to_markdown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (108.1, "108.1"), (0.5, "0.5"), (1.0, "1"), (3600.0, "3600"), (0.12345, "0.123"), (1.66e-21, "1.66e-21"),
        (0.0, "0"), (-99.8, "-99.8"), (float("nan"), ""), (1.5e9, "1.5e+09"), (7, "7"), ("two\nlines", "two lines"),
        (None, ""), (True, "True"),
    ],
)  # fmt: skip
def test_cells_are_formatted_as_in_papers(value, text):
    frame = pd.DataFrame({"v": pd.Series([value], dtype=object)})
    assert to_markdown(frame).splitlines()[2] == f"| {text} |"
    assert to_latex(frame).splitlines()[4] == rf"{text} \\"


def test_every_special_character_is_escaped():
    frame = pd.DataFrame({"a|b_c": ["50% & {x}^2 ~ \\ #$"]})
    assert to_markdown(frame).startswith("| a\\|b_c |")
    assert r"a|b\_c \\" in to_latex(frame)
    assert r"50\% \& \{x\}\textasciicircum{}2 \textasciitilde{} \textbackslash{} \#\$" in to_latex(frame)


def test_latex_aligns_numbers_right_and_names_left():
    frame = pd.DataFrame({"n": [1], "f": [0.5], "t": ["x"]}, index=pd.Index(["a"], name="method"))
    assert to_latex(frame).startswith(r"\begin{tabular}{lrrl}")


def test_results_have_both_table_forms():
    result = published("muse-books")
    assert result.to_markdown() == to_markdown(result.to_frame())
    assert result.to_latex(digits=0) == to_latex(result.to_frame(), digits=0)
    assert r"ga\_klr & 16 & 22 & -40 & 37 \\" in result.to_latex(digits=0)
