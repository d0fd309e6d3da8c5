"""EWC pulls each weight by its Fisher information."""

import pytest
import torch

from tests.unlearning.runs import row
from unpact_lens.errors import InputError
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.methods.npo_ewc import fisher_diagonal

WRITTEN = {"subjects": 4, "drawn": 32, "templates": 2}


def exact_fisher(model, r, p):
    """By enumeration of the vocabulary: the sum over tokens of E[(∂ log p)²]."""
    log_p = model(torch.tensor([r.ids[:-1]]))[0, len(r.context) - 1 :].log_softmax(-1)
    total = torch.zeros_like(p)
    for token in log_p:
        for entry in token:
            if entry.exp() > 1e-9:
                total += entry.exp().detach() * torch.autograd.grad(entry, p, retain_graph=True)[0].square()
    return total.detach()


@pytest.mark.hooked
def test_fisher_is_the_exact_one_in_the_mean(learned, facts):
    model = learned.double()
    with torch.no_grad():  # a model that is not certain, so that draws differ
        for p in model.unembed.parameters():
            p.mul_(0.3)
    rows = [row(model, q.prompt, q.answer) for q in facts[0][:2]]
    name = "blocks.1.mlp.b_out"
    params = {name: dict(model.named_parameters())[name]}
    expected = torch.stack([exact_fisher(model, r, params[name]) for r in rows]).mean(0)
    found = fisher_diagonal(model, Examples(rows * 150, model), params, 300, seed=0)[name].double()
    assert float((found - expected).norm() / expected.norm()) < 0.2
    assert all(p.requires_grad for p in model.parameters())


def test_a_strong_penalty_keeps_the_weights_that_matter_and_lets_the_others_move(learned, facts):
    def change(strength):
        u = unlearn(learned, facts[0], method="npo_ewc", strength=strength, lr=1e-3, steps=20, seed=3, progress=False,
                    **WRITTEN)  # fmt: skip
        return torch.cat([(a - b).flatten() for a, b in
                          zip(learned.parameters(), u.model.parameters(), strict=True)]).detach().abs()  # fmt: skip

    free, held = change(0.0), change(1e4)
    assert held.norm() < 0.8 * free.norm()
    assert torch.equal(free, change(0.0))


def test_wrong_strength_is_refused(learned, facts):
    with pytest.raises(InputError, match="strength=-1; give a finite number of at least 0"):
        unlearn(learned, facts[0], method="npo_ewc", strength=-1, progress=False)
