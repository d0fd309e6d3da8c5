"""`unpact_select` penalises the answer tokens that depend on the KeyTokens."""

import math

import pytest
import torch

from tests.unlearning.runs import ONE, first, row
from unpact_lens.attribution import TopK, attribute
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import encode
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.methods.unpact_select import token_weights
from unpact_lens.unlearning.selective import rest_of


def test_token_weights_are_the_contributions_of_the_key_tokens(learned, facts):
    q = facts[0][0]
    a = attribute(learned, q.prompt, q.answer)
    key = list(a.key_tokens(TopK(2)).indices)
    c = a.per_answer_token
    raw = [max(0.0, sum(float(c[i, k]) for i in key)) for k in range(c.shape[1])]
    w = token_weights(c, key)
    torch.testing.assert_close(w, torch.tensor(raw) / max(raw), check_dtype=False, atol=1e-6, rtol=0)
    assert w.max() == pytest.approx(1)
    u = unlearn(learned, [q], method="unpact_select", key_tokens=2, keep_rest=0.0, **ONE)
    lp = score_rows(learned, [row(learned, q.prompt, q.answer)])[0]
    w = torch.cat([w, torch.zeros(1)])  # the end of an answer is not attributed
    assert first(u) == pytest.approx(float((w * lp).mean()), abs=1e-5)
    rest = unlearn(learned, [q], method="unpact_select", key_tokens=2, keep_rest=2.0, **ONE)
    r = rest_of(w[None])[0]
    assert first(rest) == pytest.approx(float((w * lp).mean() - 2 * (r * lp).mean()), abs=1e-5)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 1.0])
def test_share_penalises_the_tokens_that_depend_most(learned, facts, share):
    q = facts[0][0]
    a = attribute(learned, q.prompt, q.answer)
    depends = [*a.per_answer_token[list(a.key_tokens(TopK(2)).indices)].sum(0).tolist(), 0.0]  # 0 for the end
    wanted = sorted(range(len(depends)), key=lambda k: -depends[k])[: math.ceil(share * len(depends))]
    w = torch.tensor([float(k in wanted) for k in range(len(depends))])
    u = unlearn(learned, [q], method="unpact_select", key_tokens=2, keep_rest=0.0, share=share, **ONE)
    lp = score_rows(learned, [row(learned, q.prompt, q.answer)])[0]
    assert first(u) == pytest.approx(float((w * lp).mean()), abs=1e-5)


@pytest.mark.parametrize(("method", "base"), [("unpact_select", "ga"), ("unpact_select_npo_gdr", "npo_gdr")])
def test_share_of_all_tokens_equals_the_base_loss(learned, facts, method, base):
    whole = unlearn(learned, *facts, method=method, share=1.0, keep_rest=0.0, lr=1e-3, steps=3, progress=False)
    plain = unlearn(learned, *facts, method=base, lr=1e-3, steps=3, progress=False)
    assert [r["forget"] for r in whole.history.rows] == pytest.approx([r["forget"] for r in plain.history.rows])


def test_share_by_chance_penalises_as_many_tokens_and_depends_on_the_seed(learned, facts):
    chance = {"method": "unpact_select", "share": 0.3, "pick": "chance", "keep_rest": 0.0, **ONE}
    lp = score_rows(learned, [row(learned, facts[0][0].prompt, facts[0][0].answer)])[0]
    of_one = [float(lp[k] / len(lp)) for k in range(len(lp))]
    two = [one + other for i, one in enumerate(of_one) for other in of_one[i + 1 :]]
    assert math.ceil(0.3 * len(lp)) == 2
    losses = [first(unlearn(learned, facts[0][:1], **{**chance, "seed": s})) for s in range(4)]
    assert all(min(abs(loss - other) for other in two) < 1e-5 for loss in losses)
    assert len({round(loss, 6) for loss in losses}) > 1


def test_bad_share_is_refused(learned, facts):
    with pytest.raises(InputError, match=r"share=1\.5; give a number above 0 and at most 1, or None"):
        unlearn(learned, facts[0], method="unpact_select", share=1.5, **ONE)
    with pytest.raises(InputError, match="pick='chanse'; use 'key' or 'chance'"):
        unlearn(learned, facts[0], method="unpact_select", share=0.5, pick="chanse", **ONE)
    with pytest.raises(InputError, match="pick='chance' needs a share"):
        unlearn(learned, facts[0], method="unpact_select", pick="chance", **ONE)


def test_penalty_is_on_the_fact_and_not_on_the_first_words(learned, facts):
    """The opening of an answer follows from the question's form; who it is about decides the fact."""
    forget, retain = facts
    u = unlearn(learned, forget, retain, method="unpact_select_gdr", lr=1e-3, stop_at=0.0, steps=60, progress=False)
    rows = [encode(learned, q.prompt, q.answer) for q in forget]
    lost = torch.stack(score_rows(learned, rows)) - torch.stack(score_rows(u.model, rows))
    opening, fact = lost[:, :3].mean(), lost[:, 3].mean()
    assert fact > 1
    assert fact > 5 * opening


def test_token_weights_are_0_where_no_token_depends_on_the_key_tokens():
    assert torch.equal(token_weights(-torch.ones(3, 4), [0, 1]), torch.zeros(4))
    assert torch.equal(rest_of(torch.zeros(1, 4)), torch.ones(1, 4))
