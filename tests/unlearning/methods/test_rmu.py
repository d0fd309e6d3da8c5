"""RMU moves the residual stream of forget text to a random direction."""

import pytest
import torch

from tests.unlearning.conftest import untrained, world
from tests.unlearning.runs import ONE, first, moved, row
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.unlearning import losses, unlearn


@pytest.mark.hooked
@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_rmu_trains_the_output_weights_of_three_mlps_only(style):
    model = untrained(style, n_layers=5)
    forget, retain = world()
    u = unlearn(model, forget, retain, method="rmu", layer=3, steps=3, batch_size=4, progress=False)
    assert moved(model, u.model) == {f"blocks.{i}.mlp.W_out" for i in (1, 2, 3)}
    assert first(u, "retain") == 0  # at the start the activations are the reference
    assert u.history.rows[1]["retain"] > 0
    step = u.history.rows[0]
    assert step["loss"] == pytest.approx(step["forget"])


def test_first_rmu_loss_is_the_distance_from_the_drawn_direction():
    model = untrained()
    forget, retain = world()
    u = unlearn(model, forget, retain, method="rmu", layer=1, c=3.0, seed=4, **ONE)
    draw = torch.rand(32, generator=torch.Generator().manual_seed(4)).double()
    target = 3.0 * draw / draw.norm()
    squares = []
    for q in forget:
        read = row(model, q.prompt, q.answer)
        _, cache = model.run_with_cache(torch.tensor([read.ids]))
        acts = cache["blocks.1.hook_resid_post"][0, len(read.context) - 1 : -1]
        squares.append((acts - target).square())
    assert first(u) == pytest.approx(float(torch.cat(squares).mean()), rel=1e-6)
    with pytest.raises(InputError, match="layer=7; the model has layers 0 to 2"):
        unlearn(model, forget, retain, method="rmu", layer=7, **ONE)


def open_unlearning(gap, mask):
    """The public toolkit's `compute_activation_loss` on examples of one length: its division broadcasts otherwise."""
    summed = (gap.square() * mask[..., None]).mean(dim=2).sum(dim=1)
    return (summed / mask.sum(-1)).mean()


@pytest.mark.parametrize("positions", ["predicting", "answer"])
@pytest.mark.parametrize("mean", ["token", "example"])
def test_positions_and_mean_are_those_asked_for(positions, mean):
    """By brute force: one unbatched forward of each whole example."""
    model = untrained()
    forget = [
        QA("where was ann born", " oslo", id="short"),
        QA("where was bob born", " the town was rome .", id="long"),
    ]
    _, retain = world()
    given = {**ONE, "layer": 1, "c": 3.0, "seed": 4, "positions": positions, "mean": mean}
    draw = torch.rand(32, generator=torch.Generator().manual_seed(4)).double()
    target = 3.0 * draw / draw.norm()
    squares = []
    for q in forget:
        words = row(model, q.prompt, q.answer)
        _, cache = model.run_with_cache(torch.tensor([words.ids]))
        start = len(words.context) - (positions == "predicting")
        acts = cache["blocks.1.hook_resid_post"][0, start : start + len(words.answer)]
        squares.append((acts - target).square())
    by_hand = torch.cat(squares).mean() if mean == "token" else sum(s.mean() for s in squares) / len(squares)
    whole = unlearn(model, forget, retain, method="rmu", **given)
    assert first(whole) == pytest.approx(float(by_hand), rel=1e-6)
    parts = unlearn(model, forget, retain, method="rmu", **{**given, "micro_batch": 1, "steps": 2})
    again = unlearn(model, forget, retain, method="rmu", **{**given, "steps": 2})
    assert parts.history.rows[1]["retain"] == pytest.approx(again.history.rows[1]["retain"], rel=1e-6)
    assert again.history.rows[1]["retain"] > 0


def test_mean_over_examples_is_the_public_toolkits():
    g = torch.Generator().manual_seed(0)
    acts, target = torch.randn(3, 5, 8, generator=g), torch.randn(8, generator=g)
    mask = torch.tensor([[True] * 4 + [False]] * 3)
    ours = losses.rmu_forget(acts, target, 2.0, mask, "example")
    torch.testing.assert_close(ours, open_unlearning(acts - 2.0 * target, mask))
    torch.testing.assert_close(ours, losses.rmu_forget(acts, target, 2.0, mask))  # of equal lengths both are one
    mask[0, 1:] = False
    assert (
        float(losses.rmu_forget(acts, target, 2.0, mask, "example") - losses.rmu_forget(acts, target, 2.0, mask)) != 0
    )


def test_values_outside_the_mask_have_no_effect_on_the_mean_over_examples():
    acts = torch.ones(2, 3, 4).index_fill(1, torch.tensor([2]), torch.nan).requires_grad_()
    mask = torch.tensor([[True, True, False]] * 2)
    loss = losses.rmu_retain(acts, torch.zeros(2, 3, 4), mask, "example")
    loss.backward()
    assert float(loss) == 1
    assert acts.grad.isfinite().all()


def test_default_target_is_twice_the_mean_norm_of_the_residual_at_7_of_32_layers():
    model = untrained(n_layers=5)
    forget, retain = world()
    u = unlearn(model, forget, retain, method="rmu", **ONE)
    assert u.config["layer"] == 2  # the first layer from 7/32 of 5 on
    norms = []
    for q in forget:
        words = row(model, q.prompt, q.answer)
        _, cache = model.run_with_cache(torch.tensor([words.ids]))
        norms.append(cache["blocks.2.hook_resid_post"][0, len(words.context) - 1 : -1].norm(dim=-1))
    assert u.config["c"] == pytest.approx(2 * float(torch.cat(norms).mean()), rel=1e-5)
