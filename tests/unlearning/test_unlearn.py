"""`unlearn` reaches its level, reports why it stopped, records its history, and refuses bad input."""

import copy
import itertools
from pathlib import Path

import pytest
import torch

import experiments.defaults
from experiments.defaults.search import ADAPTERS, ENOUGH, chosen
from tests.unlearning.conftest import untrained, world
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_right
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.tokens import encode
from unpact_lens.results import load
from unpact_lens.scoring import log_prob, score_rows
from unpact_lens.unlearning import StopRule, unlearn
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.registry import LORA_LR, LR, METHODS, default_settings, find, methods

QUICK = {"lr": 1e-3, "steps": 60, "check_every": 2, "progress": False}
NAMES = tuple(methods().name)
DEMO = ("ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "task_vector")


def share_known(model, items):
    answers = generate_answers(model, [q.prompt for q in items], max_new_tokens=8)
    return sum(q.fact in a.split() for a, q in zip(answers, items, strict=True)) / len(items)


@pytest.mark.parametrize("method", DEMO)
def test_methods_stop_at_the_forgetting_level(learned, facts, method):
    forget, retain = facts
    assert share_known(learned, forget) == 1
    u = unlearn(learned, forget, retain, method=method, stop_at=0.2, **QUICK)
    assert u.stopped == "forget level reached"
    assert u.forget_score == share_known(u.model, forget) <= 0.2
    scored = [r["forget_score"] for r in u.history.rows if "forget_score" in r]
    if method != "task_vector":  # a sweep continues below the level to find the smallest coefficient
        assert scored[0] == 1
        assert all(s > 0.2 for s in scored[:-1])
        assert len(u.history.rows) < 60


def test_training_stops_below_a_retain_floor(learned, facts):
    forget, retain = facts
    u = unlearn(learned, forget, retain, method="ga", stop_at=StopRule(retain=0.95), **QUICK)
    assert u.stopped == "retain floor reached"
    assert share_known(u.model, retain) < 0.95


def test_training_ends_with_the_step_budget_if_no_level_is_reached(learned, facts):
    u = unlearn(learned, facts[0], method="ga", stop_at=0.0, steps=2, lr=1e-9, progress=False)
    assert u.stopped == "step budget used up"
    assert u.forget_score == 1
    assert [r["step"] for r in u.history.rows] == [0, 1, 2]


def test_own_forget_score_decides_when_to_stop(learned, facts):
    calls = []

    def score(model):
        calls.append(model)
        return 1.0 if len(calls) < 3 else 0.0

    u = unlearn(
        learned, facts[0], method="ga", stop_at=0.5, forget_score=score, check_every=4, steps=50, progress=False
    )
    assert [r["step"] for r in u.history.rows if "forget_score" in r] == [0, 4, 8]
    assert u.stopped == "forget level reached"


def test_model_that_has_forgotten_already_is_unchanged(learned, facts):
    u = unlearn(learned, facts[0], method="ga", stop_at=0.5, forget_score=lambda m: 0.1, progress=False)
    assert model_hash(u.model) == model_hash(learned)


@pytest.mark.hooked
def test_no_two_methods_give_the_same_weights(learned, facts):
    """Methods that combine several models are compared by their predictions."""
    forget, retain = facts
    settings = {"lr": 1e-3, "steps": 3, "batch_size": 4, "progress": False}
    own = {
        "offset": {"small": untrained(n_layers=1, dtype=torch.float32, n_ctx=32)},
        # In so few steps, the bounds would not act at their defaults.
        "npo_small": {"radius": 1e-3},
        "npo_ewc": {"strength": 1e3},
        "npo_orthogonal": {"project": "always"},
        "in_context": {"forgets": 1, "retains": 1, "max_new_tokens": 6},  # these models read 32 tokens
    }
    after = {}
    for m in NAMES:
        given = next((options for start, options in own.items() if m.startswith(start)), {})
        after[m] = unlearn(learned, forget, retain, method=m, **settings, **given).model
    rows = [encode(learned, q.prompt, q.answer) for q in forget]
    predicted = {m: torch.cat(score_rows(model, rows)) for m, model in after.items()}
    for a, b in itertools.combinations(NAMES, 2):
        if isinstance(after[a], CombinedModel) or isinstance(after[b], CombinedModel):
            gap = float((predicted[a] - predicted[b]).abs().max())
        else:
            gap = max(
                float((p - q).detach().abs().max())
                for p, q in zip(after[a].parameters(), after[b].parameters(), strict=True)
            )
        assert gap > 1e-4, (a, b)


def test_terms_are_logged_and_weighted(learned, facts):
    forget, retain = facts
    u = unlearn(learned, forget, retain, method="ga_gdr", gamma=0.5, alpha=2.0, steps=2, progress=False)
    frame = u.to_frame()
    assert (frame.loss - (0.5 * frame.forget + 2.0 * frame.retain)).abs().max() < 1e-9
    assert (frame.grad_norm > 0).all()
    assert u.history.retain_order.shape[0] == 2


def test_npo_is_divided_by_the_mean_answer_length(learned, facts):
    forget, retain = facts
    u = unlearn(learned, forget, retain, method="npo_gdr", steps=1, batch_size=6, progress=False)
    row = u.history.rows[0]
    assert row["forget"] == pytest.approx(20 * 0.693147, abs=1e-4)  # (2/0.1) log 2 where the model is the reference
    assert row["loss"] == pytest.approx(
        row["forget"] / 6 + row["retain"], abs=1e-5
    )  # answers are 5 tokens long, and end
    bare = unlearn(learned, forget, retain, method="npo_gdr", steps=1, batch_size=6, length_scale=False, progress=False)
    assert bare.history.rows[0]["loss"] == pytest.approx(row["forget"] + row["retain"], abs=1e-5)


def pieces(model, text):
    ids = model.tokenizer(text)["input_ids"]
    return [ids[i : i + 32] for i in range(0, len(ids), 32)]


def test_raw_text_is_unlearned_token_by_token(learned):
    corpus = Corpus(("ann was born . the town was rome . " * 8, "bob"), name="news")
    u = unlearn(learned, corpus, method="ga", steps=2, batch_size=8, progress=False)
    # 72 tokens in chunks of 32 (the context); one token alone predicts nothing
    assert u.history.forget_order.shape == (2, 3)
    scores = [log_prob(learned, [t], rest).item() * len(rest) for t, *rest in pieces(learned, corpus.texts[0])]
    assert u.history.rows[0]["forget"] == pytest.approx(sum(scores) / (72 - 3), abs=1e-5)


def test_raw_text_is_cut_into_chunks_of_chunk_tokens(learned):
    text = "ann was born . the town was rome . " * 8
    u = unlearn(learned, Corpus((text,)), method="ga", steps=1, batch_size=20, chunk_tokens=10, progress=False)
    ids = learned.tokenizer(text)["input_ids"]
    parts = [ids[i : i + 10] for i in range(0, len(ids), 10)]
    assert u.history.forget_order.shape == (1, len(parts))
    scores = [log_prob(learned, [t], rest).item() * len(rest) for t, *rest in parts]
    assert u.history.rows[0]["forget"] == pytest.approx(sum(scores) / sum(len(p) - 1 for p in parts), abs=1e-5)


def test_chat_template_is_applied_to_training_prompts(learned, facts):
    forget = facts[0]
    learned.tokenizer = copy.deepcopy(learned.tokenizer)
    learned.tokenizer.chat_template = (
        "{% for m in messages %}tell {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}.{% endif %}"
    )
    u = unlearn(learned, forget, method="ga", chat=True, steps=1, batch_size=10, progress=False)
    by_hand = [QA(f"tell {q.prompt} .", q.answer) for q in forget]
    plain = unlearn(learned, by_hand, method="ga", steps=1, batch_size=10, progress=False)
    asked = unlearn(learned, forget, method="ga", steps=1, batch_size=10, progress=False)
    assert u.history.rows[0]["forget"] == pytest.approx(plain.history.rows[0]["forget"], abs=1e-5)
    assert abs(u.history.rows[0]["forget"] - asked.history.rows[0]["forget"]) > 1e-3


def test_saved_result_is_loaded_unchanged(learned, facts, tmp_path):
    u = unlearn(learned, *facts, method="npo_gdr", steps=2, stop_at=0.0, progress=False)
    again = load(u.save(tmp_path / "run"))
    assert again == u
    tokens = torch.arange(10)[None]
    assert torch.equal(again.model(tokens), u.model(tokens))
    assert again.config["beta"] == 0.1
    assert again.config["steps"] == 2
    other = unlearn(learned, *facts, method="npo_gdr", steps=2, stop_at=0.0, lr=1e-4, progress=False)
    assert other != u


def test_benchmark_gives_retain_set_prefill_and_answer_length(learned, facts):
    forget, retain = facts
    bench = Benchmark("toy", tuple(forget), tuple(retain), prefill=" the", max_new_tokens=8)
    u = unlearn(learned, bench, method="ga_gdr", steps=1, progress=False)
    assert u.history.retain_order is not None
    assert (u.config["prefill"], u.config["max_new_tokens"]) == (" the", 8)


def test_subject_is_filled_into_the_prefill(learned, facts):
    plain = unlearn(learned, facts[0], method="ga", steps=1, prefill="the town of {subject}", progress=False)
    named = [unlearn(learned, [q], method="ga", steps=1, prefill=f"the town of {q.subject}", progress=False)
             for q in facts[0]]  # fmt: skip
    assert plain.history.rows[0]["forget"] == pytest.approx(
        sum(u.history.rows[0]["forget"] for u in named) / len(named), abs=1e-5
    )


def test_methods_are_listed_with_formula_and_source():
    table = methods()
    assert {"ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "task_vector"} <= set(table.name)
    assert table.line.str.len().gt(10).all()
    assert table.source.str.contains("arXiv").all()
    assert table.set_index("name").needs_retain[["ga", "ga_gdr", "npo_klr"]].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "npo-gdr"}, "unknown unlearning method 'npo-gdr'; did you mean 'npo_gdr'"),
        ({"forget": []}, "the forget set is empty; give at least one QA"),
        ({"retain": None}, "method 'npo_gdr' needs a retain set; give retain=, or use 'npo'"),
        ({"retain": []}, "needs a retain set"),
        ({"learning_rate": 1e-3}, "unknown setting 'learning_rate'"),
        ({"betta": 1.0}, "unknown setting 'betta'; did you mean 'beta'"),
        ({"modules": "blocks.7"}, "modules pattern 'blocks.7' matches no parameter"),
        ({"schedule": "cosinus"}, "schedule='cosinus'; use 'constant', 'linear' or 'cosine'"),
        ({"batch_size": 0}, "batch_size=0; give a whole number of at least 1"),
        ({"lr": float("nan")}, "lr=nan; give a finite number"),
        ({"chunk_tokens": 1}, "chunk_tokens=1; give a whole number of at least 2"),
        ({"clip": -1.0}, "clip=-1.0; give a finite number above 0, or None"),
        ({"phrasings": "both"}, "phrasings='both'; use 'headline' or 'all'"),
        ({"stop_at": 3.0}, "forget level=3.0; give a number from 0 to 1"),
        ({"forget": Corpus(("ann was born",)), "stop_at": 0.1}, "no questions to score; give forget_score="),
        ({"forget": [QA("where was ann born", " oslo" * 40, id="long")]}, r"item long: prompt and answer are 4 \+ 40"),
        ({"retain": [QA("where", " oslo" * 40)]}, r"retain item 0: prompt and answer are"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_any_training(learned, facts, change, message):
    given = {"forget": facts[0], "retain": facts[1], "method": "npo_gdr", "progress": False, **change}
    with pytest.raises(InputError, match=message):
        unlearn(learned, given.pop("forget"), given.pop("retain"), **given)


def test_overlap_of_both_sets_warns_and_total_overlap_is_refused(learned, facts):
    forget, retain = facts
    with pytest.warns(UserWarning, match="2 of 6 forget items are in the retain set as well"):
        unlearn(learned, forget, [*retain, *forget[:2]], method="ga_gdr", steps=1, progress=False)
    with pytest.raises(InputError, match="all 6 forget items are in the retain set as well"):
        unlearn(learned, forget, [*retain, *forget], method="ga_gdr", steps=1, progress=False)


def test_unknown_facts_are_refused_as_a_level(learned, facts):
    unknown = [QA(q.prompt, " xanadu") for q in facts[0]]
    with pytest.raises(InputError, match="none of the 6 facts is answered right before unlearning"):
        unlearn(learned, unknown, facts[1], method="ga_gdr", stop_at=0.1, progress=False)


def test_example_facts_have_the_expected_counts():
    forget, retain = world()
    assert (len(forget), len(retain)) == (6, 14)


SEARCHED = {m: row for m, row in chosen().items() if float(row["F"]) >= ENOUGH}


@pytest.mark.parametrize(
    "method", [m if m in ("npo_gdr", "task_vector") else pytest.param(m, marks=pytest.mark.slow) for m in SEARCHED]
)
def test_every_searched_method_forgets_the_embedded_world_without_hyperparameters(method):
    """By the answers of both models to the forget facts, asked here."""
    import unpact_lens as ul

    model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
    own = {"small": model} if method.startswith("offset") else {}
    u = unlearn(model, bench, method=method, progress=False, **own)
    prompts = [q.prompt for q in bench.forget]
    before, after = (generate_answers(m, prompts, max_new_tokens=bench.max_new_tokens) for m in (model, u.model))
    known = [(fact_right(a, q), fact_right(b, q)) for a, b, q in zip(after, before, bench.forget, strict=True)]
    forgotten = 1 - sum(a for a, b in known if b) / sum(b for _, b in known)
    assert u.forgotten == pytest.approx(forgotten)
    assert forgotten >= 0.9
    assert u.warnings == ()


@pytest.mark.parametrize("method", [m for m in SEARCHED if m != "rmu"])  # RMU's rate was chosen with its target, by D
def test_default_learning_rate_is_that_of_the_search(method):
    chosen_method, builtin_like = find(method), untrained(n_layers=8)  # 8 layers of 32 are of the size of `builtin`
    assert default_settings(chosen_method, builtin_like, {})["lr"] == pytest.approx(float(SEARCHED[method]["lr"]))


def test_methods_without_a_search_are_listed_on_its_page():
    page = Path(experiments.defaults.__file__).with_name("README.md").read_text(encoding="utf-8")
    listed = page.partition("**Not searched.**")[2].partition("**What it shows.**")[0]
    for method in (*NAMES, *ADAPTERS):
        assert (f"`{method}`" in listed) == (method not in SEARCHED), method


def test_default_learning_rate_follows_the_size_of_the_model():
    small, large = (untrained(n_layers=n) for n in (1, 4))
    one, four = (default_settings(METHODS["npo_gdr"], m, {})["lr"] for m in (small, large))
    assert one == pytest.approx(4 * four)
    assert one * 32 * 1 == pytest.approx(256 * LR)
    assert default_settings(METHODS["npo_gdr"], small, {"rank": 2})["lr"] == pytest.approx(LORA_LR * one)
    u = unlearn(large, *world(), method="npo_gdr", progress=False, batch_size=2)
    assert (u.config["lr"], u.config["steps"]) == (four, 60)  # five passes would be 15 steps
    assert unlearn(large, *world(), method="ga", epochs=2, batch_size=2, progress=False).config["steps"] == 6
    assert (
        unlearn(large, world()[0], method="ga", lr=1e-6, batch_size=1, epochs=None, progress=False).config["steps"]
        == 60
    )
