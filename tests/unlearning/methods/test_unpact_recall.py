"""`unpact_recall` penalises the answer tokens that are recalled and not copied."""

import dataclasses
import math

import pytest
import torch

from tests.unlearning.conftest import untrained
from tests.unlearning.runs import ONE, first, row
from unpact_lens.attribution import TopK, attribute
from unpact_lens.models.tokens import encode
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.methods.unpact_recall import copied, recalled_weights
from unpact_lens.unlearning.methods.unpact_select import token_weights
from unpact_lens.unlearning.selective import rest_of


def sentences(items):
    """The same facts in answers that name again whom they are about."""
    said = []
    for q in items:
        value = q.answer[slice(*q.fact_span)]
        answer = f" {q.subject} is of the town {value} ."
        start = answer.index(value)
        said.append(dataclasses.replace(q, answer=answer, fact_span=(start, start + len(value)), paraphrases=()))
    return said


def by_hand(model, q, k):
    """Weights of unpact_recall where every word is one token."""
    keys = set(attribute(model, q.prompt, q.answer).key_tokens(TopK(k, words=True)).words)
    words = q.answer.split()
    shown = [w for w in words if w not in keys]
    read = score_rows(model, [row(model, q.prompt, q.answer)])[0]
    prompt = " ".join(w for w in q.prompt.split() if w not in keys)
    hidden = score_rows(model, [encode(model, prompt, " " + " ".join(shown))])[0]
    raw, at = [], iter(hidden)
    for word, lp in zip(words, read[:-1], strict=True):
        fall = 0.0 if word in keys else float(lp - next(at))
        raw.append(0.0 if word in q.prompt.split() else max(0.0, fall))
    return torch.tensor([*raw, 0.0]) / max(raw), read  # 0 for the end of the answer


def test_recalled_weights_are_the_loss_of_log_probability_when_key_words_are_hidden(learned, facts):
    q = sentences(facts[0])[0]
    w, lp = by_hand(learned, q, 2)
    assert 0 < (w > 0).sum() < len(w)
    u = unlearn(learned, [q], method="unpact_recall", key_tokens=2, keep_rest=0.0, **ONE)
    assert first(u) == pytest.approx(float((w * lp).mean()), abs=1e-5)
    rest = unlearn(learned, [q], method="unpact_recall", key_tokens=2, keep_rest=2.0, **ONE)
    r = rest_of(w[None])[0]
    assert first(rest) == pytest.approx(float((w * lp).mean() - 2 * (r * lp).mean()), abs=1e-5)
    npo = {"method": "unpact_recall_npo", "key_tokens": 2, "keep_rest": 0.0, "beta": 0.5, "lr": 1e-3, **ONE}
    now = score_rows(unlearn(learned, [q], **npo).model, [row(learned, q.prompt, q.answer)])[0]
    second = unlearn(learned, [q], **{**npo, "steps": 2}).history.rows[1]["forget"]
    assert second == pytest.approx(4 * math.log1p(math.exp(0.5 * float((w * (now - lp)).sum()))), abs=1e-5)
    assert second < 4 * math.log(2) - 0.01


def test_recall_weighs_the_fact_of_a_sentence_and_not_the_copied_name(facts):
    items = sentences(facts[0] + facts[1])
    model = untrained("gpt2", n_layers=2, dtype=torch.float32, n_ctx=32)
    teach = {"method": "ga_gdr", "gamma": 0.0, "lr": 5e-3, "steps": 120, "batch_size": 20, "end_token": True}
    model = unlearn(model, facts[0][:1], items, **teach, progress=False).model
    shares = {}
    for q in items[:6]:
        a, place = attribute(model, q.prompt, q.answer), q.answer.split().index(q.answer[slice(*q.fact_span)])
        select = token_weights(a.per_answer_token, list(a.key_tokens(TopK(3)).indices))
        recall, lp = by_hand(model, q, 3)
        assert float(lp.sum()) > -1
        assert recall[0] == 0
        for name, w in (("select", select), ("recall", recall)):
            shares.setdefault(name, []).append(float(w[place] / w.sum()))
    assert sum(shares["recall"]) > 2 * sum(shares["select"])


def test_copied_words_are_found_in_token_pieces_and_in_any_case():
    answer = " Being in Astana, Nikolai's 8th"
    spans = [(0, 6), (6, 9), (9, 13), (13, 16), (16, 17), (17, 20), (20, 25), (25, 27), (27, 29), (29, 31)]
    found = copied(spans, answer, ["IN", "astana", "8"])
    assert found.tolist() == [False, True, True, True, False, False, False, False, False, False]
    assert copied(spans, answer, []).tolist() == [False] * 10


def test_recalled_weights_are_0_where_all_is_copied_or_nothing_falls():
    lp, every = torch.tensor([-1.0, -2.0]), torch.tensor([True, True])
    none = torch.tensor([False, False])
    assert recalled_weights(lp, lp - 3, every, every).tolist() == [0, 0]
    assert recalled_weights(lp, lp + 1, every, none).tolist() == [0, 0]
    assert recalled_weights(lp, torch.empty(0), none, none).tolist() == [0, 0]
    assert recalled_weights(lp, torch.tensor([-3.0]), torch.tensor([False, True]), none).tolist() == [0, 1]


@pytest.mark.hooked
def test_answer_of_copied_words_only_has_no_penalty(learned, facts):
    q = dataclasses.replace(facts[0][0], prompt="where was ann born", answer=" ann", fact_span=(1, 4), paraphrases=())
    u = unlearn(learned, [q], facts[1], method="unpact_recall_gdr", key_tokens=9, keep_rest=0.0, **ONE)
    assert first(u) == 0
