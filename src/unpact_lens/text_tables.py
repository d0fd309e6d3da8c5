"""Write tables as Markdown and LaTeX, with the same cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unpact_lens.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def to_markdown(frame: pd.DataFrame, *, digits: int = 3) -> str:
    r"""Write a table as Markdown; a named index becomes the first column, undefined values give empty cells.

    Args:
        frame: Table.
        digits: Decimals of a number, without trailing zeros. For very small or large numbers, significant digits.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"p": [1.7e-21, float("nan"), 108.1]}, index=pd.Index(["a|b", "c", "d"], name="method"))
    >>> print(to_markdown(frame))
    | method | p |
    |---|---|
    | a\|b | 1.7e-21 |
    | c |  |
    | d | 108.1 |
    <BLANKLINE>
    """
    rows = _cells(frame, digits)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def to_latex(frame: pd.DataFrame, *, digits: int = 3) -> str:
    r"""Write a table as LaTeX (`booktabs`) with the cells of `to_markdown`, escaped.

    Args:
        frame: Table.
        digits: Digits of a number, as in `to_markdown`.

    >>> import pandas as pd
    >>> print(to_latex(pd.DataFrame({"lr_a": ["50%"]})))
    \begin{tabular}{l}
    \toprule
    lr\_a \\
    \midrule
    50\% \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """
    rows = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in _cells(frame, digits)]
    columns = ("l" if frame.index.name else "") + "".join("r" if kind in "fiu" else "l" for kind in _kinds(frame))
    head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rows[0], r"\midrule"]
    return "\n".join([*head, *rows[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _kinds(frame: pd.DataFrame) -> list[str]:
    """Return NumPy's kind letter of each column."""
    return [frame.dtypes.iloc[i].kind for i in range(frame.shape[1])]


def _cells(frame: pd.DataFrame, digits: int) -> list[list[str]]:
    """Return header and rows as text.

    Raises:
        InputError: If `digits` is no number of decimals.
    """
    if not 0 <= digits <= 100:
        raise InputError(f"digits={digits}; give a number of decimals from 0 to 100")
    named = frame.reset_index() if frame.index.name else frame
    rows = [[_cell(v, digits) for v in row] for row in named.itertuples(index=False)]
    return [[str(c) for c in named.columns], *rows]


def _cell(value: object, digits: int) -> str:
    if not isinstance(value, float):
        return "" if value is None else " ".join(str(value).split())
    if value != value:
        return ""
    if value == 0 or 10.0**-digits <= abs(value) < 1e6:
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.{digits}g}"


_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in text)
