"""RMU moves the residual stream of forget text to a random direction."""

import pytest
import torch

from tests.unlearning.conftest import untrained, world
from tests.unlearning.runs import ONE, first, moved
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import encode
from unpact_lens.unlearning import unlearn


@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_rmu_trains_the_output_weights_of_three_mlps_only(style):
    model = untrained(style, n_layers=5)
    forget, retain = world()
    u = unlearn(model, forget, retain, method="rmu", layer=3, steps=3, batch_size=4, progress=False)
    assert moved(model, u.model) == {f"blocks.{i}.mlp.W_out" for i in (1, 2, 3)}
    assert first(u, "retain") == 0  # at the start the activations are the reference
    assert u.history.rows[1]["retain"] > 0
    row = u.history.rows[0]
    assert row["loss"] == pytest.approx(row["forget"])
    assert u.config["alpha"] == 1200


def test_first_rmu_loss_is_the_distance_from_the_drawn_direction():
    model = untrained()
    forget, retain = world()
    u = unlearn(model, forget, retain, method="rmu", layer=1, c=3.0, seed=4, **ONE)
    draw = torch.rand(32, generator=torch.Generator().manual_seed(4)).double()
    target = 3.0 * draw / draw.norm()
    squares = []
    for q in forget:
        row = encode(model, q.prompt, q.answer)
        _, cache = model.run_with_cache(torch.tensor([row.ids]))
        acts = cache["blocks.1.hook_resid_post"][0, len(row.context) - 1 : -1]
        squares.append((acts - target).square())
    assert first(u) == pytest.approx(float(torch.cat(squares).mean()), rel=1e-6)
    with pytest.raises(InputError, match="layer=7; the model has layers 0 to 2"):
        unlearn(model, forget, retain, method="rmu", layer=7, **ONE)
