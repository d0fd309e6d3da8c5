"""Noise has the stated size on every matrix, and nothing else moves."""

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained, untrained
from tests.recovery.probes.hiding import barely_hidden, behind_a_refusal
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.weight_matrices import weight_matrices
from unpact_lens.recovery import recover
from unpact_lens.recovery.probes.noise import DRAWS, with_noise


def test_the_change_of_each_matrix_is_normal_with_a_tenth_of_its_standard_deviation():
    model = untrained()
    noisy = with_noise(model, 0.1)
    pairs = list(zip(weight_matrices(model), weight_matrices(noisy), strict=True))
    z = torch.cat([((b.weight - a.weight) / (0.1 * a.weight.std())).detach().flatten() for a, b in pairs])
    assert abs(float(z.mean())) < 4 / len(z) ** 0.5
    assert float(z.std()) == pytest.approx(1, abs=4 / (2 * len(z)) ** 0.5)
    assert float((z.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=4 * (0.22 / len(z)) ** 0.5)


def test_only_matrices_move_and_the_model_given_stays_as_it_is():
    model = untrained()
    hashed = model_hash(model)
    noisy = with_noise(model)
    matrices = {m.name for m in weight_matrices(model)}
    own = dict(model.named_parameters())
    assert {n for n, w in noisy.named_parameters() if not torch.equal(w, own[n])} == matrices
    assert model_hash(model) == hashed


def test_draws_differ_by_seed():
    model = untrained()
    hashes = [model_hash(with_noise(model, seed=s)) for s in (*range(DRAWS), 0)]
    assert len(set(hashes)) == DRAWS
    assert hashes[0] == hashes[-1]


def test_a_model_that_knows_a_fact_still_gives_it_under_the_noise():
    found = recover(retrained(), benchmark(), before=trained(), probes=("noise",), templates=["focus_list"],
                    progress=False)  # fmt: skip
    assert found.right_before[found.probes.index("noise")].double().mean() > 0.8
    assert found.right_before[found.probes.index("wrong_subject:noise")].double().mean() < 0.3


def test_facts_that_are_barely_hidden_come_back_and_firmly_hidden_ones_do_not():
    models = {"before": trained(), "control": retrained(), "probes": ("noise",), "templates": ["focus_list"]}
    weak, firm = (recover(m, benchmark(), **models, progress=False) for m in (barely_hidden(), behind_a_refusal()))
    assert weak.n_common == 8
    assert weak.rate("noise").value >= 0.5
    assert weak.rate("wrong_subject:noise").value == 0
    assert weak.excess("noise").value > 0.2
    assert weak.rate("noise").value > firm.rate("noise").value + 0.2


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(InputError, match=f"scale={scale}; give a positive number"):
        with_noise(untrained(), scale)


def test_noise_below_the_resolution_of_the_weights_is_refused():
    with pytest.raises(
        InputError, match="noise of scale 1e-60 changes no weight of this model; the weights are too coarse"
    ):
        with_noise(untrained(), 1e-60)
