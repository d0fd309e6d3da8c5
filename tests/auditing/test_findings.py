"""The verdict is said in plain words with its numbers, and what is missing is counted."""

from dataclasses import replace

import pytest
import torch

import unpact_lens as ul
from unpact_lens.auditing import budget as budget_module
from unpact_lens.auditing.answer_store import AnswerFile
from unpact_lens.auditing.budget import BUDGETS, Speed, budget_named, measure_speed, planned_costs
from unpact_lens.auditing.findings import UNDER, more_facts, sentences, what_would_change
from unpact_lens.auditing.given_model import Origin
from unpact_lens.auditing.result import Audit
from unpact_lens.data.splits import RetainSplit
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import answers_kept_in, ask
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.verdict import facts_to_decide, side, verdict
from unpact_lens.recovery import PROBES, Recovery

N = 60


def flags(share, n=N):
    return torch.tensor([i < round(share * n) for i in range(n)])


def recovery(paraphrase, control):
    rows = ("focus_list", "paraphrase")
    right = torch.stack([flags(0), flags(paraphrase)])
    return Recovery(
        probes=rows, families=("emphasis", "control"), items=tuple(f"f{i}" for i in range(N)),
        subjects=tuple(f"s{i}" for i in range(N)), kinds=("place",) * N, asked=torch.ones(2, N, dtype=torch.bool),
        compared=rows, right_before=torch.ones(2, N, dtype=torch.bool), right_after=right,
        right_control=None if control is None else torch.stack([flags(0), flags(control)]),
        plain_before=flags(1), plain_after=flags(0), plain_control=None if control is None else flags(0), excluded={},
        set_apart={}, oracle=True, headline="focus_list", never_items=(), never_asked=torch.zeros(2, 0).bool(),
        never_right=torch.zeros(2, 0).bool(), settings={"seed": 0, "n_examples": 0},
    )  # fmt: skip


def audit(forgot=1.0, destroyed=0.0, paraphrase=0.0, control=0.0):
    lost, gone = flags(forgot), flags(destroyed)
    right = torch.cat([~lost, ~gone]).float()
    scores = Scores(
        benchmark="facts", metrics=("fact_span",), ids=tuple(f"i{i}" for i in range(2 * N)),
        subjects=tuple(f"i{i}" for i in range(2 * N)), kinds=("place",) * 2 * N, groups=("forget",) * N + ("far",) * N,
        generated=("",) * 2 * N, values=right[None], binary=(True,), values_before=torch.ones(1, 2 * N),
        settings={"retain_split": RetainSplit()}, parts=("",) * N + ("unseen",) * N,
    )  # fmt: skip
    found = recovery(paraphrase, control)
    return Audit(
        name="m", budget="quick", models={"after": Origin("m", "directory")}, counts={}, scores={"after": scores},
        recovery=found, focus=None, focus_kept=None, diffs=(), depth=None, grafts=(),
        verdict=verdict(scores.forgetting, scores.destruction, found.excesses), settings={"seed": 0},
        data={"source": "facts.csv", "sha256": "0"}, left_out={"depth": "needs a retrained model (--control)"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, "Erased: 100% [94, 100] of the facts are forgotten, no probe brings back more than a model"),
        ({"forgot": 0.5}, "Insufficient: the unlearned model still gives 50% [38, 62] of the facts"),
        ({"destroyed": 0.5}, "Destroyed: 50% [38, 62] of the unseen facts to keep are lost."),
    ],
)
def test_each_label_is_one_sentence_with_its_interval(changes, start):
    assert sentences(audit(**changes))[0].startswith(start)


def test_hidden_facts_are_compared_with_the_retrained_model():
    found = sentences(audit(paraphrase=0.6, control=0.05))[0]
    assert found == (
        "Hid: 60% [47, 71] of the forgotten facts come back when asked in other words; a retrained model gives "
        "5% [2, 14]."
    )


def test_the_facts_that_would_decide_invert_the_interval():
    found = audit(destroyed=0.05)
    assert found.verdict.labels == ("undecided",)
    needed = more_facts(found)["destruction"]
    d = found.destruction
    assert side(replace_n(d, d.n + needed), 0.1) == "below"
    assert side(replace_n(d, d.n + needed - 1), 0.1) is None
    assert facts_to_decide(d, 0.1) == d.n + needed
    assert f"D: {d} contains 0.1; {needed} more facts would decide" in what_would_change(found)
    assert sentences(found)[0] == f"Undecided at tolerance 0.1: D is 5% [2, 14]. {needed} more facts would decide."


def replace_n(estimate, n):
    """Return an estimate whose interval is that of other many facts at the same value."""
    low, high = estimate.interval(n)

    class Other:
        alone = property(lambda self: self)
        value = estimate.value

        def interval(self, _):
            return low, high

    other = Other()
    other.n = n
    return other


def test_what_was_left_out_is_said():
    assert "depth: needs a retrained model (--control)" in what_would_change(audit())


def test_every_probe_has_words():
    assert set(PROBES) == set(UNDER)


def test_costs_grow_with_budget_facts_and_models():
    speed = Speed(answer=0.1, token=0.002, parameters=10**8, tokens=20.0)
    totals = []
    for budget in BUDGETS.values():
        counts = {"forget": budget.forget, "retain": 0, "unseen": budget.kept}
        totals.append(planned_costs(budget, speed, counts, 3, 8)["seconds"].sum())
    assert totals[0] < totals[1] < totals[2]
    quick = BUDGETS["quick"]
    fewer = planned_costs(quick, speed, {"forget": 12, "retain": 0, "unseen": 12}, 2, 8)["seconds"].sum()
    assert fewer < totals[0]


def test_costs_count_facts_that_stand_in_for_a_retrained_model_and_the_models_still_to_load():
    speed = Speed(answer=0.1, token=0.002, parameters=10**8, tokens=20.0)
    counts = {"forget": 24, "retain": 0, "unseen": 24}

    def parts(**more):
        loading = more.pop("loading", 0.0)
        return planned_costs(BUDGETS["quick"], speed, counts | more, 2, 6, loading).set_index("part").seconds

    plain, unknown, text = parts(), parts(unknown=24), parts(text=500)
    prompts = "emphasis and prompts"
    # Six prompts of each unknown fact are asked of the original model, and its key words are found: 20²/2 tokens.
    assert unknown[prompts] - plain[prompts] == pytest.approx(24 * (6 * 0.1 + 200 * 0.002))
    assert text["answers"] - plain["answers"] == pytest.approx(2 * 500 * 0.002)
    assert parts(loading=7.0)["loading"] == 7.0
    assert "loading" not in plain


def test_kept_answers_are_generated_anew_when_the_speed_is_measured(tmp_path, monkeypatch):
    model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
    asked = []
    generated = budget_module.generate_answers
    monkeypatch.setattr(
        budget_module,
        "generate_answers",
        lambda model, prompts, **more: asked.append(prompts) or generated(model, prompts, **more),
    )
    store = AnswerFile(tmp_path / "answers.jsonl")
    store.register(model, "this model")
    with answers_kept_in(store):
        ask(model, [q.prompt for q in bench.forget[:8]], [""] * 8, bench=bench)
        speed = measure_speed(model, bench, bench.forget, 4096)
    assert asked == [[bench.forget[0].prompt], [q.prompt for q in bench.forget[:8]]]
    assert speed.answer > 0
    assert speed.parameters == sum(p.numel() for p in model.parameters())


def test_an_unknown_budget_is_named():
    with pytest.raises(InputError, match="budget='quik'; did you mean 'quick'"):
        budget_named("quik")
    assert budget_named(replace(BUDGETS["quick"], forget=5)).forget == 5
