"""LP(x, y) equals its formula and does not depend on batches."""

import pytest
import torch

from tests.conftest import tiny
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import encode
from unpact_lens.scoring import length_batches, log_prob, score_rows


def by_hand(model, prompt, answer):
    logits = model(torch.tensor([[*prompt, *answer]]))
    log_probs = logits.log_softmax(-1)
    return torch.stack([log_probs[0, len(prompt) - 1 + k, y] for k, y in enumerate(answer)])


def test_log_prob_is_the_mean_over_answer_tokens(model64):
    prompt, answer = [3, 1, 4, 1, 5], [9, 2, 6]
    expected = by_hand(model64, prompt, answer)
    torch.testing.assert_close(log_prob(model64, prompt, answer, per_token=True), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_prob(model64, prompt, answer), expected.mean(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_scores_do_not_depend_on_batch_size(model64, batch_tokens):
    pairs = [([1, 2, 3], [4]), ([5] * 30, [6, 7, 8, 9]), ([2], [3] * 12), ([8, 8], [1, 2])]
    rows = [encode(model64, p, a) for p, a in pairs]
    for scores, (prompt, answer) in zip(score_rows(model64, rows, batch_tokens=batch_tokens), pairs, strict=True):
        torch.testing.assert_close(scores, by_hand(model64, prompt, answer), atol=1e-10, rtol=0)


def test_a_batch_stays_within_its_budget_with_padding():
    lengths = [5, 1, 9, 3, 3, 7]
    batches = list(length_batches(lengths, 12))
    assert sorted(i for b in batches for i in b) == list(range(6))
    assert all(len(b) * max(lengths[i] for i in b) <= 12 for b in batches)


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        ([1, 2], [], "answer of 0 ids is 0 tokens long"),
        ([], [1], "prompt of 0 ids is 0 tokens long"),
        ([1, 50], [1], r"prompt id 50 lies outside the vocabulary \(0 to 49\)"),
        ([1], [-1], "answer id -1 lies outside the vocabulary"),
        ([1], [1] * 400, r"1 \+ 400 = 401 tokens, the model's context is 400; shorten the answer"),
        ("text", [1], "prompt 'text' is text, but the model has no tokenizer"),
        (torch.zeros(2, 2, dtype=torch.long), [1], r"prompt ids have shape \(2, 2\)"),
    ],
)
def test_bad_input_is_named(prompt, answer, message):
    with pytest.raises(InputError, match=message):
        log_prob(tiny(), prompt, answer)


def test_nan_weights_are_refused():
    model = tiny()
    model.unembed.W_U.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"weight \S+ holds NaN or infinity"):
        log_prob(model, [1, 2], [3])


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(InputError, match="batch_tokens=0"):
        score_rows(tiny(), [encode(tiny(), [1], [2])], batch_tokens=0)
