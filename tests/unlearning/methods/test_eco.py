"""ECO adds fixed noise at the tokens of a forget subject's name, and nowhere else."""

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import NAMES
from tests.unlearning.runs import row
from unpact_lens.attribution import attribute
from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.models.generate import CachedBatch, greedy
from unpact_lens.models.tokens import encode
from unpact_lens.results import load
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import CorruptedNames, StopRule, unlearn, unlearn_sequence
from unpact_lens.unlearning.methods.eco import corrupted, draw_noise

TOKENS = torch.tensor([[3, 14, 15, 9, 26, 5], [35, 8, 14, 15, 3, 14]])
NAME_IDS = (((14, 15), (15, 3, 14)), ((9,),))
"""Two names: one with two tokenisations, one of a single token."""

CONTEXTS = [[3, 14, 15], [35, 8, 9, 7, 14], [2], [14, 15, 3, 14, 15, 9]]


def combined(model, names=NAME_IDS, strength=2.0, width=32):
    noise = [draw_noise(str(i), max(map(len, ids)), width, seed=0) for i, ids in enumerate(names)]
    return CorruptedNames((model,), names, noise, strength)


def pair(wrap):
    """A model of this wrap and its combined model."""
    model = tiny("llama") if wrap == "tiny" else {"hooked": to_hooked, "bridge": to_bridge}[wrap](
        hf_model("gpt2"), tokenizer()
    )  # fmt: skip
    return model, combined(model)


def by_hand(model, together, tokens, places):
    """Logits of the model with noise at `(row, position, name, index in the name)`, in plain torch."""

    def add(embed, hook):
        embed = embed.clone()
        for r, p, name, j in places:
            e = embed[r, p].clone()
            size = (sum(float(x) ** 2 for x in e.tolist()) / len(e)) ** 0.5
            embed[r, p] = e + 2.0 * size * together.noise[name][j].to(e)
        return embed

    return hooked.run_with_hooks(model, tokens, [("hook_embed", add)])


@pytest.mark.parametrize("wrap", ["tiny", "hooked", "bridge"])
def test_noise_is_added_at_the_tokens_of_names_and_scaled_by_their_embedding(wrap):
    model, together = pair(wrap)
    # Row 0: (14, 15) at 1, and 9 at 3. Row 1: (14, 15) at 2 comes before (15, 3, 14) at 3, which overlaps it.
    places = [(0, 1, 0, 0), (0, 2, 0, 1), (0, 3, 1, 0), (1, 2, 0, 0), (1, 3, 0, 1)]
    assert [[(p, n, j) for r, p, n, j in places if r == i] for i in (0, 1)] == [
        list(together.find(t)) for t in TOKENS.tolist()
    ]
    expected = by_hand(model, together, TOKENS, places)
    torch.testing.assert_close(together(TOKENS), expected, atol=1e-5, rtol=1e-5)
    assert (together(TOKENS) - model(TOKENS)).abs().max() > 0.1


def test_the_longest_name_at_a_place_counts():
    together = combined(tiny("gpt2"), (((3, 14),), ((3, 14, 15),), ((15, 9),)))
    assert together.find([3, 14, 15, 9, 3, 14]) == ((0, 1, 0), (1, 1, 1), (2, 1, 2), (4, 0, 0), (5, 0, 1))
    assert together.find([14, 15, 3]) == ()
    assert together.find([]) == ()


def test_strength_0_and_a_text_without_a_name_give_the_models_own_logits():
    model = tiny("gpt2")
    assert torch.equal(
        combined(model, strength=0.0)(TOKENS), hooked.unembed(model, hooked.final_residual(model, TOKENS))
    )
    without = torch.tensor([[1, 2, 14, 5, 15]])
    assert torch.equal(combined(model)(without), hooked.unembed(model, hooked.final_residual(model, without)))


def test_noise_of_a_name_depends_on_seed_and_name_only():
    assert torch.equal(draw_noise("Ann", 3, 8, 0), draw_noise("Ann", 3, 8, 0))
    assert not torch.equal(draw_noise("Ann", 3, 8, 0), draw_noise("Ann", 3, 8, 1))
    assert not torch.equal(draw_noise("Ann", 3, 8, 0), draw_noise("Bob", 3, 8, 0))
    many = draw_noise("Ann", 400, 50, 0)
    assert float(many.mean()) == pytest.approx(0, abs=0.05)
    assert float(many.std()) == pytest.approx(1, abs=0.05)


def test_corrupted_is_linear_in_the_strength_and_the_size_of_the_embedding():
    e, n = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, -2.0], [5.0, 5.0]])
    rms = (12.5) ** 0.5
    torch.testing.assert_close(corrupted(e, n, 0.5), torch.tensor([[3 + 0.5 * rms, 4 - rms], [0.0, 0.0]]))
    torch.testing.assert_close(corrupted(10 * e, n, 0.5), 10 * corrupted(e, n, 0.5))


def uncached(model, context, new):
    """Greedy tokens, each from one forward pass over the whole text."""
    ids = list(context)
    for _ in range(new):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return tuple(ids[len(context) :])


@pytest.mark.parametrize("wrap", ["tiny", "hooked", "bridge"])
def test_generation_equals_forward_passes_also_where_a_generated_token_completes_a_name(wrap, monkeypatch):
    model, _ = pair(wrap)
    plain = [uncached(model, context, 8) for context in CONTEXTS]
    # Names that the model itself writes: they are completed by its second and its fourth new token.
    names = (((14, 15),), (plain[0][:2],), (plain[1][2:4],), ((CONTEXTS[2][0], plain[2][0]),))
    together = combined(model, names, 3.0)
    reads = []
    monkeypatch.setattr(CachedBatch, "__init__", lambda *given, own=CachedBatch.__init__: reads.append(own(*given)))
    made = greedy(together, CONTEXTS, max_new_tokens=8)
    assert len(reads) > 1  # the batch was read again
    assert made == [uncached(together, context, 8) for context in CONTEXTS]
    assert made == [greedy(together, [context], max_new_tokens=8)[0] for context in CONTEXTS]
    assert made != plain
    stops = [made[0][2]]  # rows leave the batch
    stopped = greedy(together, CONTEXTS, max_new_tokens=8, stop_ids=stops)
    assert stopped == [m[: m.index(stops[0])] if stops[0] in m else m for m in made]


def test_names_ending_in_the_padding_id_do_not_depend_on_the_batch():
    model = tiny("gpt2")
    together = combined(model, (((7, 0),), ((0,),), ((5, 0, 6),)))
    assert together.names == (((7,),), ((),), ((5, 0, 6),))
    rows = [encode(model, [3, 7], [4]), encode(model, [3, 7, 0, 5], [4, 8, 9]), encode(model, [2, 5], [6])]
    alone = torch.cat([score_rows(together, [r])[0] for r in rows])
    torch.testing.assert_close(torch.cat(score_rows(together, rows)), alone, atol=1e-10, rtol=0)


def test_eco_forgets_the_subjects_and_changes_nothing_else(learned, facts, tmp_path):
    forget, retain = facts
    u = unlearn(learned, forget, retain, method="eco", progress=False)
    assert (u.stopped, u.warnings) == ("forget level reached", ())
    assert u.forgotten == pytest.approx(1 - u.forget_score)
    assert u.forgotten >= 0.95
    assert model_hash(u.model.members[0]) == model_hash(learned) == u.hash_before
    kept = [row(learned, q.prompt, q.answer) for q in retain]
    torch.testing.assert_close(
        torch.cat(score_rows(u.model, kept)), torch.cat(score_rows(learned, kept)), atol=1e-5, rtol=0
    )
    tried = [(r["coefficient"], r["forget_score"]) for r in u.history.rows]
    assert u.model.strength == tried[-1][0] == min(s for s, known in tried if known <= 0.05)
    assert max(s for s, known in tried if known > 0.05) > u.model.strength / 1.06
    again = load(u.save(tmp_path / "run"))
    assert again == u
    tokens = torch.tensor([row(learned, q.prompt, q.answer).ids for q in forget[:1]])
    assert torch.equal(again.model(tokens), u.model(tokens))


def test_names_are_those_of_the_forget_subjects(learned, facts):
    u = unlearn(learned, facts[0], method="eco", strength=0.5, progress=False)
    vocabulary = learned.tokenizer.get_vocab()
    assert u.model.names == tuple(((vocabulary[name],),) for name in NAMES[:3])
    assert u.model.strength == 0.5
    assert u.config["strength"] == 0.5


def test_a_name_is_found_with_and_without_a_space_before_it_and_inside_punctuation():
    model = to_hooked(hf_model("gpt2"), tokenizer())
    items = [
        QA("(Hamlet) is by", " Shakespeare", subject="Hamlet"),
        QA("the capital of Japan", " Tokyo", subject="Japan"),
    ]
    u = unlearn(model, items, method="eco", strength=1.0, progress=False)
    for text in ("Hamlet", " Hamlet", "who wrote Hamlet?", "(Hamlet)", "of Japan is"):
        ids = model.tokenizer(text)["input_ids"]
        found = [ids[p] for p, _, _ in u.model.find(ids)]
        assert model.tokenizer.decode(found).strip() == ("Japan" if "Japan" in text else "Hamlet")
    assert u.model.find(model.tokenizer("seven small boats")["input_ids"]) == ()


def test_a_level_that_no_strength_reaches_is_said(learned, facts):
    u = unlearn(learned, facts[0], method="eco", max_strength=1e-3, stop_at=StopRule(forget=0.0), progress=False)
    assert u.stopped == "no strength reaches the forget level"
    assert u.model.strength == 1e-3


def test_contributions_are_those_of_the_corrupted_model(learned, facts):
    u = unlearn(learned, facts[0], method="eco", progress=False)
    q = facts[0][0]
    a = attribute(u.model, q.prompt, q.answer)
    ids = encode(learned, q.prompt, q.answer)
    assert a.log_prob == pytest.approx(float(score_rows(u.model, [ids])[0].mean()), abs=1e-5)
    with pytest.raises(InputError, match=r"hook 'hook_embed': a combined model has only 'blocks\.1\.hook_resid_post'"):
        attribute(u.model, q.prompt, q.answer, method="zero_embed")


def test_bad_input_is_refused_with_its_value(learned, facts):
    forget, retain = facts
    given = {"method": "eco", "progress": False}
    with pytest.raises(InputError, match=r"forget item 1 has no subject, and method 'eco' adds noise to the subject's"):
        unlearn(learned, [forget[0], QA("where was eve born", " the town was rome .")], **given)
    with pytest.raises(InputError, match=r"no forget prompt holds its subject, e\.g\. 'where was ann born' not 'Anne'"):
        unlearn(learned, [QA("where was ann born", " the town was rome .", subject="Anne")], **given)
    with pytest.raises(InputError, match="the tokenizer does not know the subject 'zoe'"):
        unlearn(learned, [QA("where was zoe born", " the town was rome .", subject="zoe")], **given)
    with pytest.raises(InputError, match="adds noise to the names of subjects, the forget set is raw text"):
        unlearn(learned, Corpus(("ann was born in rome",)), **given)
    with pytest.raises(InputError, match="strength=0; give a finite number above 0, or None"):
        unlearn(learned, forget, strength=0, **given)
    with pytest.raises(InputError, match="rank=2: method 'eco' cannot train low-rank adapters: it trains nothing"):
        unlearn(learned, forget, rank=2, **given)
    with pytest.raises(InputError, match="method 'eco' leaves a combined model, from which no second request can"):
        unlearn_sequence(learned, [forget[:2], forget[2:]], retain, **given)
    u = unlearn(learned, forget, strength=1.0, **given)
    with pytest.raises(InputError, match="method 'ga' cannot start from CorruptedNames, a combined model"):
        unlearn(u.model, forget, method="ga", progress=False)
    with pytest.raises(
        InputError, match="intervention on the prompt needs a model that reads the prompt as it is, and C"
    ):
        greedy(u.model, [[3, 4]], max_new_tokens=1, prompt_hooks=lambda rows, width: [])
