"""The fused update gives the numbers of the plain one, however weight, gradient and moments lie in memory."""

import itertools

import pytest
import torch

import unpact_lens as ul
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.unlearning.optimiser import adamw
from unpact_lens.unlearning.settings import Settings

SETTINGS = Settings(lr=0.1, weight_decay=0.05)
ORDERS = list(itertools.permutations(range(3)))


def in_order(tensor, order):
    """An equal tensor whose dimensions lie in memory in this order."""
    return tensor.permute(order).contiguous().permute([order.index(d) for d in range(3)])


@pytest.mark.parametrize("weight_order", ORDERS)
@pytest.mark.parametrize("other_order", [(0, 1, 2), (2, 0, 1)])
def test_a_step_equals_the_plain_one_in_every_memory_order(weight_order, other_order):
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(2, 3, 4, generator=generator) for _ in range(4))
    plain = torch.nn.Parameter(start.clone())
    ours = torch.nn.Parameter(in_order(start, weight_order))
    expected = torch.optim.AdamW([plain], lr=0.1, betas=(SETTINGS.beta1, SETTINGS.beta2), eps=SETTINGS.eps,
                                 weight_decay=0.05, fused=False)  # fmt: skip
    optimiser = adamw([ours], SETTINGS)
    for gradient in gradients:
        plain.grad, ours.grad = gradient.clone(), in_order(gradient, other_order)
        for name in ("exp_avg", "exp_avg_sq"):  # as a resumed run reads them
            if ours in optimiser.state:
                optimiser.state[ours][name] = in_order(optimiser.state[ours][name], other_order)
        expected.step()
        optimiser.step()
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrap", ["auto", "bridge"])
def test_a_resumed_run_ends_with_the_same_weights_bitwise(wrap, tmp_path):
    model, bench = ul.load_model("builtin", wrap=wrap), ul.load_benchmark("builtin")

    def run(**more):
        return ul.unlearn(
            model, bench.forget[:6], method="npo", steps=5, batch_size=3, check_every=1, progress=False, **more
        )

    def kill(check):
        if check.step == 3:
            raise KeyboardInterrupt

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "state", checkpoint_every=1, on_check=kill)
    resumed = run(checkpoint=tmp_path / "state", checkpoint_every=1)
    assert model_hash(resumed.model) == model_hash(whole.model)
