"""The forget gradient is projected off the retain gradient."""

import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.unlearning import unlearn

# With beta1 = beta2 = 0 and a large eps, AdamW's step is lr/eps times the gradient: a change shows the gradient.
PLAIN = {"beta1": 0.0, "beta2": 0.0, "eps": 1e4, "lr": 1.0, "clip": None, "steps": 1, "batch_size": 100,
         "progress": False}  # fmt: skip


def step(model, facts, **given):
    """Return the change of all weights of one step, in double precision."""
    u = unlearn(model, *facts, **{**PLAIN, **given})
    pairs = zip(model.parameters(), u.model.parameters(), strict=True)
    return torch.cat([(b.double() - a.double()).flatten() for a, b in pairs]).detach(), u


def test_the_update_is_the_projected_forget_gradient_plus_the_retain_gradient(learned, facts):
    model = learned.double()
    forget, _ = step(model, facts, method="npo")
    both, _ = step(model, facts, method="npo_gdr")
    retain = both - forget
    along = forget @ retain
    projected = forget - along / (retain @ retain) * retain
    for project in ("conflict", "always"):
        for alpha in (0.0, 2.0):
            found, u = step(model, facts, method="npo_orthogonal", project=project, alpha=alpha)
            expected = (projected if project == "always" or along < 0 else forget) + alpha * retain
            assert float((found - expected).norm() / expected.norm()) < 1e-5
            assert (u.history.rows[0]["conflict"] < 0) == bool(along < 0)


def test_the_projection_of_unknown_kind_is_refused(learned, facts):
    with pytest.raises(InputError, match="project='sometimes'; use 'conflict' or 'always'"):
        unlearn(learned, *facts, method="npo_orthogonal", project="sometimes", progress=False)
    with pytest.raises(InputError, match="method 'npo_orthogonal' needs a retain set"):
        unlearn(learned, facts[0], method="npo_orthogonal", progress=False)
