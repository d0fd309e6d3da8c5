"""Continuations are packed into rows with little padding."""

import pytest

from unpact_lens.models.kv_cache import fewest_tokens, pack


def sizes_of(prompt, answer):
    after = prompt + answer - 1
    return [after - 1 - min(i, prompt - 2) for i in range(prompt)], after


@pytest.mark.parametrize(("prompt", "answer"), [(2, 1), (30, 8), (30, 20), (30, 64), (200, 8)])
def test_every_continuation_is_in_one_row_and_padding_is_small(prompt, answer):
    sizes, past = sizes_of(prompt, answer)
    rows = fewest_tokens(sizes, past, 768)
    assert sorted(i for row in rows for i in row) == list(range(prompt))
    padded = len(rows) * max(sum(sizes[i] for i in row) for row in rows)
    narrow = pack(sizes, max(*sizes, past // 4))
    assert padded <= len(narrow) * max(sum(sizes[i] for i in row) for row in narrow)
    if prompt >= 30:
        assert padded <= 1.06 * sum(sizes)


def test_rows_are_shorter_for_narrow_models():
    sizes, past = sizes_of(200, 8)
    width = [max(sum(sizes[i] for i in row) for row in fewest_tokens(sizes, past, d)) for d in (16, 4096)]
    assert width[0] < width[1]
