"""Text is degenerate if it is empty or repeats itself."""

import pytest

from unpact_lens.evaluation.degenerate import degenerate


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("", True), (" ... ", True), ("in in in", True), ("in Oslo in Oslo in Oslo", True), ("Oslo", False),
        ("New York, New York", False), ("He was born in Oslo and lives in Rome.", False),
    ],
)  # fmt: skip
def test_degenerate_text(text, broken):
    assert degenerate(text) is broken
