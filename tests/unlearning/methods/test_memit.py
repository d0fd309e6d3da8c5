"""The closed-form edit solves its least-squares problem, and acts at the subject."""

import pytest
import torch

from tests.draws import SAME_DRAWS
from tests.unlearning.conftest import world
from tests.unlearning.runs import ONE, moved
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.methods.memit import closed_form

WRITTEN = {"subjects": 4, "drawn": 32, "templates": 2}


def test_the_edit_minimises_its_objective():
    """By gradient descent on the objective from another start."""
    g = torch.Generator().manual_seed(0)
    keys, values, other = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((5, 4), (5, 3), (40, 4)))
    moment, weight = other.T @ other / 40, 0.3
    found = closed_form(keys, values, moment, weight)
    edit = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([edit], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

    def objective():
        optimiser.zero_grad()
        loss = weight * (edit.T @ moment @ edit).trace() + (keys @ edit - values).square().sum(-1).mean()
        loss.backward()
        return loss

    optimiser.step(objective)
    torch.testing.assert_close(found, edit.detach(), atol=1e-4, rtol=1e-4)


def test_a_single_key_without_anything_to_keep_is_mapped_to_its_value():
    key, value = torch.randn(1, 6), torch.randn(1, 3)
    found = closed_form(key, value, torch.eye(6), 1e-9)
    torch.testing.assert_close((key.double() @ found).float(), value, atol=1e-5, rtol=1e-5)


@pytest.mark.hooked
def test_the_edit_forgets_and_changes_one_matrix(learned, facts):
    level = 0.1 if SAME_DRAWS else 0.2  # six facts; the written questions of other draws leave one of them
    u = unlearn(learned, facts[0], method="memit", stop_at=level, hold=0.01, progress=False, **WRITTEN)
    assert moved(learned, u.model) == {"blocks.0.mlp.W_out"}
    assert u.stopped == "forget level reached"
    assert u.forgotten >= 1 - level
    target = [r["target"] for r in u.history.rows if "target" in r]
    assert target[-1] < target[0]
    multiples = [r["coefficient"] for r in u.history.rows if "coefficient" in r]
    whole = unlearn(learned, facts[0], method="memit", hold=0.01, progress=False, **WRITTEN)
    one, last = ((m.model.blocks[0].mlp.W_out - learned.blocks[0].mlp.W_out).detach() for m in (whole, u))
    torch.testing.assert_close(last, multiples[-1] * one, atol=1e-5, rtol=1e-4)


@pytest.mark.hooked
def test_wrong_input_is_refused(learned):
    forget = world()[0]
    with pytest.raises(InputError, match="layer=9; the model has layers 0 to 1"):
        unlearn(learned, forget, method="memit", layer=9, **ONE, **WRITTEN)
    with pytest.raises(InputError, match="hold=0; give a finite number above 0"):
        unlearn(learned, forget, method="memit", hold=0, **ONE, **WRITTEN)
    unnamed = [*forget, QA("where was she born", " oslo", subject="ann")]
    with pytest.raises(InputError, match="'where was she born' does not hold its subject 'ann'"):
        unlearn(learned, unnamed, method="memit", **ONE, **WRITTEN)
    with pytest.raises(InputError, match="every other answer holds its fact; give answers="):
        unlearn(learned, forget[:1], method="memit", answers=[f" {forget[0].fact} ."], **ONE, **WRITTEN)
