"""PDU's dual variable follows the violation of the retain limit."""

import pytest
import torch

from tests.unlearning.runs import ONE, first, row
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.unlearning import unlearn

RUN = {"method": "pdu", "lr": 1e-3, "retain_limit": 0.02, "dual_step": 3.0, "alpha": 0.5, "steps": 8, "progress": False}


def test_first_forget_value_is_the_mean_squared_margin(learned, facts):
    margins = []
    for q in facts[0]:
        r = row(learned, q.prompt, q.answer)
        z = learned(torch.tensor([r.ids[:-1]]))[0, len(r.context) - 1 :]
        margins.append((z.max(-1).values - z.mean(-1)).square())
    u = unlearn(learned, *facts, method="pdu", **ONE)
    assert first(u) == pytest.approx(float(torch.cat(margins).mean()), rel=1e-5)


def test_the_dual_variable_grows_with_the_violation_and_weighs_the_loss(learned, facts):
    rows = unlearn(learned, *facts, **RUN).history.rows
    dual = 0.5
    for r in rows:
        assert r["dual"] == pytest.approx(dual)
        assert r["loss"] == pytest.approx(r["forget"] + dual * (r["retain"] - 0.02))
        dual = max(0.0, dual + 3.0 * (r["retain"] - 0.02))
    assert rows[-1]["dual"] != rows[0]["dual"]


def test_a_constant_dual_variable_is_a_weight(learned, facts):
    """With no dual step, PDU is the weighted sum of its two losses."""
    fixed = unlearn(learned, *facts, **{**RUN, "dual_step": 0.0, "steps": 2})
    assert [r["dual"] for r in fixed.history.rows] == [0.5, 0.5]
    doubled = unlearn(learned, *facts, **{**RUN, "dual_step": 0.0, "steps": 2, "gamma": 2.0, "alpha": 1.0})
    # AdamW does not see a common factor of the loss, and the gradient is clipped.
    torch.testing.assert_close(fixed.model.embed.W_E, doubled.model.embed.W_E, atol=1e-5, rtol=1e-3)


def test_a_run_that_was_killed_goes_on_with_its_dual_variable(learned, facts, tmp_path):
    whole = unlearn(learned, *facts, **RUN)

    class Killed(Exception):
        pass

    seen = []

    def kill(model):
        seen.append(1)
        if len(seen) == 3:
            raise Killed
        return 1.0

    given = {**RUN, "checkpoint": tmp_path / "run", "checkpoint_every": 1, "stop_at": 0.0, "check_every": 3}
    with pytest.raises(Killed):
        unlearn(learned, *facts, forget_score=kill, **given)
    again = unlearn(learned, *facts, forget_score=kill, **given)
    assert [r["dual"] for r in again.history.rows if "dual" in r] == [r["dual"] for r in whole.history.rows]
    assert model_hash(again.model) == model_hash(whole.model)


def test_a_negative_limit_is_refused(learned, facts):
    with pytest.raises(InputError, match="retain_limit=-1; give a finite number of at least 0"):
        unlearn(learned, *facts, method="pdu", retain_limit=-1, **ONE)
