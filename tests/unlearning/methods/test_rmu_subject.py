"""RMU along the subject direction acts at the subject's last token, along one direction."""

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import world
from tests.unlearning.runs import ONE, first, moved, row
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.load import load_model
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.methods.rmu_subject import subject_loss
from unpact_lens.unlearning.self_rehearsal import self_rehearsal
from unpact_lens.unlearning.subject_positions import subject_positions, values_at

WRITTEN = {"subjects": 4, "drawn": 32, "templates": 2}


def at_subject(model, q):
    """By one unbatched forward: the residual after block 0 at the subject's last token (a word is a token)."""
    words = row(model, q.prompt, q.answer)
    _, cache = model.run_with_cache(torch.tensor([words.ids]))
    said = q.prompt.split()
    place = len(said) - 1 - said[::-1].index(q.subject.split()[-1])  # the model may write a subject that is said twice
    return cache["blocks.0.hook_resid_post"][0, len(words.head) + place].detach().double()


def mean_square(model, before, forget, written):
    centre = torch.stack([at_subject(before, q) for q in written]).mean(0)
    total = 0.0
    for q in forget:
        mine = torch.stack([at_subject(before, other) for other in forget if other.subject == q.subject]).mean(0)
        v = (mine - centre) / (mine - centre).norm()
        total += float((at_subject(model, q) - centre) @ v) ** 2
    return total / len(forget)


@pytest.mark.hooked
def test_loss_is_the_mean_square_along_each_subjects_direction(learned, facts):
    forget = facts[0]
    u = unlearn(learned, forget, method="rmu_subject", lr=5e-3, batch_size=100, steps=3, progress=False, **WRITTEN)
    assert first(u) == pytest.approx(1)
    assert moved(learned, u.model) == {"blocks.0.mlp.W_out"}
    written = self_rehearsal(learned, forget, **WRITTEN)
    two = unlearn(learned, forget, method="rmu_subject", lr=5e-3, batch_size=100, steps=2, progress=False, **WRITTEN)
    now, start = (mean_square(m, learned, forget, written) for m in (two.model, learned))
    assert u.history.rows[2]["forget"] == pytest.approx(now / start, rel=1e-4)
    assert now < start


def test_what_is_across_the_direction_is_free():
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    acts = torch.tensor([[2.0, 7.0], [5.0, 4.0]], requires_grad=True)
    loss = subject_loss(acts, v, torch.tensor([1.0, 1.0]))
    loss.backward()
    assert float(loss) == (1 + 9) / 2
    assert acts.grad.tolist() == [[1.0, 0.0], [0.0, 3.0]]


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_values_are_those_at_the_subjects_last_token_whatever_follows(wrap):
    model = load_model(hf_model("llama"), wrap=wrap, tokenizer=tokenizer())
    items = [
        QA("the capital of Japan is", " Tokyo", subject="Japan"),
        QA("who wrote Hamlet?", " Shakespeare did", subject="Hamlet"),
    ]
    rows = [row(model, q.prompt, q.answer) for q in items]
    places = subject_positions(rows, [q.prompt for q in items], [q.subject for q in items])
    found = values_at(model, rows, places, "blocks.0.hook_resid_post", 0)
    for q, r, place, value in zip(items, rows, places, found, strict=True):
        start, end = r.prompt_spans[place - len(r.head)]
        assert q.subject.endswith(q.prompt[start:end].strip()[-1])
        _, cache = model.run_with_cache(torch.tensor([r.ids]))
        torch.testing.assert_close(value, cache["blocks.0.hook_resid_post"][0, place], atol=1e-5, rtol=1e-4)


def test_a_prompt_without_its_subject_is_refused_by_name(learned):
    forget = [*world()[0], QA("where was she born", " oslo", subject="ann")]
    with pytest.raises(InputError, match="the prompt 'where was she born' does not hold its subject 'ann'"):
        unlearn(learned, forget, method="rmu_subject", **ONE, **WRITTEN)
    with pytest.raises(InputError, match="layer=9; the model has layers 0 to 1"):
        unlearn(learned, world()[0], method="rmu_subject", layer=9, **ONE, **WRITTEN)
