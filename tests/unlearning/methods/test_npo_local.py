"""NPO on chosen neurons trains those only."""

import pytest
import torch

from tests.unlearning.runs import moved, row
from unpact_lens.errors import InputError
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.methods.npo_local import neuron_effects

WRITTEN = {"subjects": 4, "drawn": 32, "templates": 2}


def test_effects_are_the_slope_of_the_answer_in_the_neuron(learned, facts):
    """By finite differences: a neuron's activation times (1 + e) is its output row times (1 + e)."""
    model, e = learned.double(), 1e-3
    rows = [row(model, q.prompt, q.answer) for q in facts[0][:3]]
    found = neuron_effects(model, Examples(rows, model), 3)
    out = model.blocks[1].mlp.W_out
    for neuron in (0, 17, 47):
        sums = []
        for factor in (1 + e, 1 - e):
            kept = out[neuron].detach().clone()
            with torch.no_grad():
                out[neuron] *= factor
            sums.append(torch.stack([s.sum() for s in score_rows(model, rows)]).double())
            with torch.no_grad():
                out[neuron] = kept
        slope = ((sums[0] - sums[1]) / (2 * e)).abs().mean()
        assert float(found[1, neuron]) == pytest.approx(float(slope), rel=1e-2, abs=1e-5)


def test_only_the_chosen_share_of_neurons_changes(learned, facts):
    u = unlearn(learned, facts[0], method="npo_local", share=0.05, lr=1e-2, steps=3, progress=False, **WRITTEN)
    chosen = u.config["only"]
    assert len(chosen) == round(0.05 * 2 * learned.cfg.d_mlp)
    assert all(".mlp." in name for name in moved(learned, u.model))
    for layer in range(2):
        a, b = learned.blocks[layer].mlp.W_out, u.model.blocks[layer].mlp.W_out
        rows = (a != b).any(1).nonzero().flatten().tolist()
        assert {f"L{layer}N{n}" for n in rows} <= set(chosen)


def test_parts_given_besides_are_refused(learned, facts):
    with pytest.raises(InputError, match=r"only=\['L0.mlp'\]: this method chooses the neurons itself"):
        unlearn(learned, facts[0], method="npo_local", only=["L0.mlp"], progress=False, **WRITTEN)
    with pytest.raises(InputError, match="share=0; give a number above 0 and at most 1"):
        unlearn(learned, facts[0], method="npo_local", share=0, progress=False)
