"""CE-U lowers the answer tokens."""

import pytest
import torch

from tests.unlearning.runs import ONE, first, sums
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.unlearning import losses, unlearn


def test_ce_u_lowers_the_answers(learned, facts):
    pairs = [(q.prompt, q.answer) for q in facts[0]]
    u = unlearn(learned, facts[0], method="ce_u", lr=1e-3, **{**ONE, "steps": 5})
    assert (sums(u.model, pairs) < sums(learned, pairs) - 0.5).all()


def ceu_of_the_public_toolkit(logits, labels, ignored):
    """Cross-entropy to the softmax with the label's logit at minus infinity, without each row's first labels."""
    valid = labels != -100
    labels = labels.masked_fill((valid.cumsum(-1) <= ignored) & valid, -100)
    kept, wanted = logits[labels != -100], labels[labels != -100]
    target = kept.detach().clone().scatter_(-1, wanted[:, None], float("-inf")).softmax(-1)
    return torch.nn.functional.cross_entropy(kept, target)


@pytest.mark.parametrize("ignored", [0, 1, 2])
def test_first_tokens_of_every_answer_are_left_out(ignored):
    g = torch.Generator().manual_seed(ignored)
    logits = torch.randn(3, 5, 7, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 7, (3, 5), generator=g)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)
    expected = ceu_of_the_public_toolkit(logits, torch.where(mask, labels, -100), ignored)
    torch.testing.assert_close(losses.ce_u(logits, labels, mask, ignored), expected)


def test_ignore_first_changes_training_and_must_leave_a_token(learned, facts):
    runs = [unlearn(learned, facts[0], method="ce_u", ignore_first=n, **ONE) for n in (0, 1)]
    assert first(runs[0]) != first(runs[1])
    short = [QA("where was ann born", " oslo", id="one")]
    with pytest.raises(InputError, match="ignore_first=1: the shortest forget answer has 1 tokens; give at most 0"):
        unlearn(learned, short, method="ce_u", ignore_first=1, **{**ONE, "end_token": False})
