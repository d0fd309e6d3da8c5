"""In-context unlearning puts the same lines before every text; the model itself is unchanged."""

import warnings

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained
from unpact_lens.attribution import attribute
from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.convert import to_hooked
from unpact_lens.models.generate import greedy
from unpact_lens.models.load import load_model
from unpact_lens.models.tokens import encode, text_ids
from unpact_lens.results import load
from unpact_lens.scoring import log_prob, score_rows
from unpact_lens.unlearning import Prefixed, unlearn, unlearn_sequence

TOKENS = torch.tensor([[3, 14, 15, 9, 26, 5], [35, 8, 9, 7, 9, 3]])
PREFIX = (7, 8, 31, 2)
CONTEXTS = [[3, 14, 15], [35, 8, 9, 7, 14], [2], [14, 15, 3, 14, 15, 9]]


def with_bos(wrap, family="gpt2"):
    """A model that takes BOS, which is id 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(hf_model(family), wrap=wrap, tokenizer=tokenizer(prepends_bos=True))
    assert model.cfg.default_prepend_bos
    return model


@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_logits_are_those_of_the_model_on_prefix_and_text(style):
    model = tiny(style)
    together = Prefixed((model,), PREFIX)
    whole = torch.cat([torch.tensor(PREFIX).expand(2, -1), TOKENS], dim=1)
    torch.testing.assert_close(together(TOKENS), model(whole)[:, len(PREFIX) :], atol=1e-10, rtol=0)
    assert (together(TOKENS) - model(TOKENS)).abs().max() > 0.1
    assert together.cfg.n_ctx == model.cfg.n_ctx - len(PREFIX)
    assert model.cfg.n_ctx == 400


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_the_prefix_comes_after_bos_and_the_first_position_predicts_the_first_token(wrap):
    model = with_bos(wrap)
    together = Prefixed((model,), PREFIX)
    tokens = torch.cat([torch.zeros(2, 1, dtype=torch.long), TOKENS], dim=1)
    tokens[1] = torch.tensor([5, 35, 8, 9, 7, 9, 3])  # a text without BOS in the same batch
    first, second = [0, *PREFIX, *TOKENS[0].tolist()], [*PREFIX, *tokens[1].tolist()]
    expected = model(torch.tensor([first, second]))[:, len(PREFIX) :]
    torch.testing.assert_close(together(tokens), expected, atol=1e-4, rtol=0)
    after_prefix = model(torch.tensor([[0, *PREFIX]]))[0, -1]
    torch.testing.assert_close(together(tokens)[0, 0], after_prefix, atol=1e-4, rtol=0)
    assert greedy(together, [[0]], max_new_tokens=1) == [(int(after_prefix.argmax()),)]


@pytest.mark.parametrize("wrap", ["tiny", "hooked", "bridge"])
def test_generation_with_a_cache_equals_forward_passes_for_prompts_of_all_lengths(wrap):
    model = tiny("llama") if wrap == "tiny" else with_bos(wrap)
    contexts = CONTEXTS if wrap == "tiny" else [[0, *c] for c in CONTEXTS[:3]] + CONTEXTS[3:]
    together = Prefixed((model,), PREFIX)
    made = greedy(together, contexts, max_new_tokens=7)
    for context, new in zip(contexts, made, strict=True):
        ids = list(context)
        for _ in range(7):
            ids.append(int(together(torch.tensor([ids]))[0, -1].argmax()))
        assert tuple(ids[len(context) :]) == new
    assert made != greedy(model, contexts, max_new_tokens=7)
    stop = made[0][1]
    cut = greedy(together, contexts, max_new_tokens=7, stop_ids=[stop], batch_tokens=16)
    assert cut == [m[: m.index(stop)] if stop in m else m for m in made]


def run(learned, facts, **options):
    """Unlearn with a context of two and two lines, unless told otherwise."""
    given = {"forgets": 2, "retains": 2, "max_new_tokens": 8, **options}
    return unlearn(learned, *facts, method="in_context", progress=False, **given)


@pytest.fixture
def roomy():
    """A model with room for twelve lines. It knows nothing."""
    return untrained("gpt2", dtype=torch.float32)


def lines_of(u):
    """The lines of a result's context; the word tokenizer drops line breaks, so they end at the full stop."""
    text = u.model.tokenizer.decode(u.model.prefix)
    return [line.strip() for line in text.split(" .") if line.strip()]


def test_context_shows_forget_questions_with_answers_of_others_then_retain_questions_with_their_own(roomy, facts):
    forget, retain = facts
    lines = lines_of(run(roomy, facts, forgets=3, retains=4))
    assert len(lines) == 7
    right = {f"{q.prompt}{q.answer}".removesuffix(" .") for q in (*forget, *retain)}
    for line in lines[:3]:
        assert line not in right
        q = next(q for q in forget if line.startswith(q.prompt))
        other = line.removeprefix(q.prompt) + " ."
        assert other in {o.answer for o in forget if o.kind == q.kind and o.fact != q.fact}
    assert set(lines[3:]) <= {f"{q.prompt}{q.answer}".removesuffix(" .") for q in retain}
    assert len(set(lines)) == 7


def test_the_seed_decides_the_draw_and_small_sets_are_shown_whole(roomy, facts):
    one, same, other = (run(roomy, facts, seed=s, forgets=3, retains=3).model.prefix for s in (0, 0, 1))
    assert one == same != other
    few = lines_of(run(roomy, (facts[0][:2] + facts[0][2:4], facts[1][:1]), forgets=50, retains=50))
    assert len(few) == 4 + 1
    assert len(lines_of(run(roomy, facts, forgets=0, retains=3))) == 3
    assert len(lines_of(run(roomy, (facts[0], None), forgets=2, retains=0))) == 2


def test_lines_are_prompt_answer_and_line_break_and_given_answers_are_used():
    model = to_hooked(hf_model("gpt2"), tokenizer())
    items = [QA("gold is", " Au", subject="gold", id="a"), QA("who wrote Hamlet?", " him", id="b", subject="Hamlet")]
    u = unlearn(
        model, items, [QA("seven small", " boats")], method="in_context", alternatives=[" the sea", [" Japan", " no"]],
        forgets=2, max_new_tokens=4, prefill=" so", progress=False,
    )  # fmt: skip
    text = model.tokenizer.decode(u.model.prefix)
    assert sorted(text.splitlines()) == ["gold is so the sea", "seven small so boats", "who wrote Hamlet? so Japan"]
    assert text.endswith("boats\n")
    assert u.model.prefix == text_ids(model, text, "text")


def test_the_model_is_unchanged_and_its_predictions_follow_the_context(roomy, facts, tmp_path):
    u = run(roomy, facts)
    assert u.stopped == "nothing to train"
    assert model_hash(u.model.members[0]) == model_hash(roomy) == u.hash_before
    q = facts[0][0]
    ids = encode(roomy, q.prompt, q.answer)
    expected = log_prob(roomy, [*u.model.prefix, *ids.context], ids.answer)
    assert float(log_prob(u.model, q.prompt, q.answer)) == pytest.approx(float(expected), abs=1e-5)
    assert float(score_rows(u.model, [ids])[0].mean()) == pytest.approx(float(expected), abs=1e-5)
    a = attribute(u.model, q.prompt, q.answer)
    assert a.log_prob == pytest.approx(float(expected), abs=1e-5)
    without = [i for k, i in enumerate(ids.context) if k != 2]
    left = float(log_prob(roomy, [*u.model.prefix, *without], ids.answer))
    assert float(a.scores[2]) == pytest.approx(float(expected) - left, abs=1e-5)
    again = load(u.save(tmp_path / "run"))
    assert again == u
    assert torch.equal(again.model(TOKENS[:, :4] % 40), u.model(TOKENS[:, :4] % 40))
    assert again.model.cfg.n_ctx == u.model.cfg.n_ctx


def test_bad_input_is_refused_with_its_value(learned, roomy, facts):
    with pytest.raises(
        InputError, match=r"a prefix of 400 tokens leaves no room for a text: .* context is 400; give a"
    ):
        Prefixed((tiny(),), [1] * 400)
    with pytest.raises(InputError, match="prefix id 50 lies outside the vocabulary"):
        Prefixed((tiny(),), [50])
    with pytest.raises(
        InputError,
        match=r"4 lines of context have \d+ tokens, and the longest forget question and answer need \d \+ 8; .*is 32: "
        "lower forgets=",
    ):
        run(learned, facts)
    with pytest.raises(
        InputError, match="retains=2 shows retain questions, and the retain set is missing; give retain="
    ):
        run(roomy, (facts[0], None))
    with pytest.raises(
        InputError, match="retains=2 shows retain questions, and the retain set is raw text; give retain="
    ):
        run(roomy, (facts[0], Corpus(("bob was born in rome .",))))
    with pytest.raises(InputError, match="forgets=0 and retains=0 leave nothing to put before a text"):
        run(roomy, facts, forgets=0, retains=0)
    with pytest.raises(
        InputError, match="shows questions with other answers, the forget set is raw text; give QA items"
    ):
        run(roomy, (Corpus(("ann was born in rome .",)), facts[1]))
    with pytest.raises(InputError, match=r"1 alternatives for 6 forget items; give one \(or several\) for each"):
        run(roomy, facts, alternatives=[" lima"])
    with pytest.raises(InputError, match="forgets=-1; give a whole number of at least 0"):
        run(roomy, facts, forgets=-1)
    with pytest.raises(InputError, match="cannot train low-rank adapters: it trains nothing"):
        run(roomy, facts, rank=2)
    with pytest.raises(
        InputError, match="method 'in_context' leaves a combined model, from which no second request can"
    ):
        unlearn_sequence(roomy, [facts[0][:2], facts[0][2:]], facts[1], method="in_context")
    u = run(roomy, facts)
    with pytest.raises(InputError, match="intervention on the prompt needs a model that reads the prompt as it is"):
        greedy(u.model, [[3, 4]], max_new_tokens=1, prompt_hooks=lambda rows, width: [])
    with pytest.raises(InputError, match=r"a context of 3 tokens and 400 new ones need room for 402, the model's"):
        greedy(u.model, [[3, 4, 5]], max_new_tokens=400)
