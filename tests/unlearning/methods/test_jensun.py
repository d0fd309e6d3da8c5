"""JensUn trains to a refusal and keeps the rest by Jensen-Shannon divergences."""

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from tests.unlearning.runs import ONE, first, row
from unpact_lens.errors import InputError
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import unlearn


def test_first_forget_value_is_the_divergence_from_the_refusal(learned, facts):
    u = unlearn(learned, *facts, method="jensun", refusals=[" tell the town ."], **ONE)
    p = torch.cat(score_rows(learned, [row(learned, q.prompt, " tell the town .") for q in facts[0]])).double().exp()
    pairs = [jensenshannon([float(v), 1 - float(v)], [1.0, 0.0]) ** 2 for v in p]  # the rest of p lies on other tokens
    assert first(u) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert first(u, "retain") == pytest.approx(0, abs=1e-7)


def test_the_retain_term_grows_from_0_and_stays_below_log_2(learned, facts):
    u = unlearn(learned, *facts, method="jensun", lr=5e-3, steps=20, alpha=0.0, progress=False,
                refusals=[" tell the town ."])  # fmt: skip
    kept = [r["retain"] for r in u.history.rows]
    assert 1e-4 < kept[-1] < 0.6932
    assert u.history.rows[-1]["forget"] < u.history.rows[0]["forget"] / 2


def test_a_refusal_without_a_token_is_refused(learned, facts):
    with pytest.raises(InputError, match=r"refusals=.*give a list of at least one text"):
        unlearn(learned, *facts, method="jensun", refusals=[], **ONE)
