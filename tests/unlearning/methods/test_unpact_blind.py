"""`unpact_blind` learns the original model's answer to the prompt without its KeyTokens."""

import pytest
import torch

from tests.unlearning.runs import ONE, first, row, sums
from unpact_lens.attribution import TopK, attribute
from unpact_lens.unlearning import unlearn


def test_blind_target_is_the_original_models_answer_without_the_key_tokens(learned, facts):
    q = facts[0][0]
    key = attribute(learned, q.prompt, q.answer).key_tokens(TopK(2)).indices
    asked = row(learned, q.prompt, q.answer)

    def log_probs(r):
        logits = learned(torch.tensor([r.ids]))[0]
        return logits[len(r.context) - 1 : -1].log_softmax(-1)

    with torch.no_grad():
        aim, now = log_probs(asked.without(key)), log_probs(asked)
    u = unlearn(learned, [q], method="unpact_blind", key_tokens=2, **ONE)
    assert first(u) == pytest.approx(float((aim.exp() * (aim - now)).sum(-1).mean()), abs=1e-5)
    assert first(u) > 0.1


def test_blind_unlearning_approaches_its_target(learned, facts):
    u = unlearn(learned, *facts, method="unpact_blind_gdr", lr=1e-3, steps=60, progress=False)
    assert u.history.rows[-1]["forget"] < 0.2 * u.history.rows[0]["forget"]
    pairs = [(q.prompt, q.answer) for q in facts[0]]
    assert (sums(u.model, pairs) < sums(learned, pairs) - 3).all()


def test_prompt_of_key_tokens_only_keeps_the_least_of_them(learned, facts):
    u = unlearn(learned, facts[0], method="unpact_blind", key_tokens=99, **ONE)
    assert first(u) > 0
