"""Tables keep their labels at every width; numbers keep their digits; hostile text stays text."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from unpact_lens.cli.explain import largest
from unpact_lens.cli.values import read_settings
from unpact_lens.console import form_of, number, one_line, print_json, print_table, printable
from unpact_lens.errors import InputError


def shown(capsys, monkeypatch, frame, width, **options):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(frame, **options)
    return capsys.readouterr().out


WIDE = pd.DataFrame(
    {
        "probe": ["random_words:focus_list", "after_keys"],
        "R": [0.25, 1e-5],
        "low": [0.1, 0.0],
        "high": [0.5, 2e-5],
        **{f"m{k:02}": [k / 7, 1e-9] for k in range(12)},
    }
)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_labels_are_whole_and_dropped_columns_are_named(capsys, monkeypatch, width):
    text = shown(capsys, monkeypatch, WIDE, width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "random_words:focus_list" in text
    assert "after_keys" in text
    heads = text.splitlines()[1]
    for k in range(12):
        assert (f"m{k:02}" in heads) != (f"m{k:02}" in " ".join(text.split("no room for")[1:]))


def test_columns_to_keep_are_dropped_last(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, WIDE, 60, keep=("m11",))
    assert "m11" in text.splitlines()[1]


def test_an_interval_stands_in_the_column_of_its_number(capsys, monkeypatch):
    assert "0.25 [0.10, 0.50]" in shown(capsys, monkeypatch, WIDE, 120)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1.0e-05"), (0.0, "0"), (-0.0, "0"), (0.1234, "0.123"), (1e9, "1.0e+09"), (float("inf"), "inf")],
)
def test_small_numbers_are_not_shown_as_zero(value, text):
    assert number(value) == text


def test_json_keeps_small_numbers_and_writes_undefined_ones_as_null(capsys):
    print_json([{"p": 1.25e-30, "q": float("nan"), "r": float("-inf"), "s": pd.NA, "t": ("a", 1)}])
    assert json.loads(capsys.readouterr().out) == [{"p": 1.25e-30, "q": None, "r": None, "s": "<NA>", "t": ["a", 1]}]


def test_json_of_any_text_is_read_back(capsys):
    for text in ("\x81", "\u202e", "\x1b[31m", "Δ", "😀", "\\x81"):
        print_json([text])
        out = capsys.readouterr().out
        assert json.loads(out) == [text]
        assert all(line.isprintable() for line in out.splitlines())


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_printable_and_in_one_line(text):
    assert one_line(text).isprintable()
    assert all(line.isprintable() for line in printable(text).split("\n"))


def test_largest_keeps_the_sum():
    frame = pd.DataFrame({"component": list("abcd"), "before": [1.0, 2, 3, 4], "delta": [0.1, -5, 0.2, 3]})
    cut = largest(frame, "delta", 2)
    assert cut["component"].tolist() == ["b", "d", "2 others, summed"]
    assert cut[["before", "delta"]].sum().tolist() == pytest.approx(frame[["before", "delta"]].sum().tolist())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False), ("true", True), ("no", False), ("null", None), ("", ""), ("1e-4", 1e-4), ("1E5", 1e5),
        ("5", 5), ("-3", -3), ("0.5", 0.5), ("nan", "nan"), (".nan", float("nan")), ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"), ("blocks.*.mlp", "blocks.*.mlp"), ("[a, b]", ["a", "b"]), ("[]", []),
        ("{a: 1}", "{a: 1}"), ("&a [*a]", "&a [*a]"), ("evening", "evening"), ("a: b", "a: b"),
        ("!!python/object:x", "!!python/object:x"), ("[[1]]", "[[1]]"),
    ],
)  # fmt: skip
def test_a_setting_is_read_as_what_it_looks_like(text, value):
    found = read_settings([f"x={text}"])["x"]
    assert found == value or (found != found and value != value)
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["lr"], "--set 'lr' is not NAME=VALUE"),
        (["=1"], "--set '=1' is not NAME=VALUE"),
        (["a b=1"], "--set 'a b=1' is not NAME=VALUE"),
        (["lr=1", "lr=2"], "--set lr=… is given twice"),
        (["x=" + "a" * 10_001], "--set x=… has 10001 characters"),
    ],
)
def test_a_wrong_setting_is_named(pairs, message):
    with pytest.raises(InputError, match=message):
        read_settings(pairs)


def test_forms_exclude_each_other():
    assert form_of() == "table"
    with pytest.raises(InputError, match="exclude each other"):
        form_of(as_json=True, latex=True)
