"""Every public function that takes facts reads them in every form that `from_pairs` reads."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import unpact_lens as ul
from unpact_lens.comparison import diff_many, unlearning_depth
from unpact_lens.data.as_facts import as_benchmark, as_facts
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.evaluation import known_facts
from unpact_lens.evaluation.known_facts import knowledge
from unpact_lens.recovery import recovery_plan
from unpact_lens.unlearning import tune, unlearn_sequence


@functools.cache
def models():
    return ul.load_model("builtin"), ul.load_model("builtin-retrain")


@functools.cache
def facts():
    """Return three facts of different subjects that the model knows, and one fact to keep."""
    bench = ul.load_benchmark("builtin")
    by_subject = {q.subject: q for q in known_facts(models()[0], bench).forget}
    chosen = [*list(by_subject.values())[:2], bench.retain[0]]
    return [QA(q.prompt, q.answer, id=f"row {n}", subject=f"row {n}") for n, q in enumerate(chosen, start=1)]


ROWS = ["mapping", "frame", "data set", "csv", "json", "jsonl", "parquet"]
FORMS = ["pairs", "lists", "dicts", "generator", "Benchmark", *ROWS]


def given(form, items, folder):
    """Return facts in one form."""
    import datasets

    pairs = [(q.prompt, q.answer) for q in items]
    rows = [{"prompt": q.prompt, "answer": q.answer} for q in items]
    file = folder / f"{len(items)}-{items[0].id}.{form}"
    if form == "csv":
        pd.DataFrame(rows).to_csv(file, index=False)
    elif form == "parquet":
        pd.DataFrame(rows).to_parquet(file)
    elif form in ("json", "jsonl"):
        file.write_text(json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows)))
    else:
        return {
            "pairs": pairs, "lists": [list(pair) for pair in pairs], "dicts": rows, "mapping": dict(pairs),
            "frame": pd.DataFrame(rows), "data set": datasets.Dataset.from_list(rows),
            "generator": (q for q in items), "Benchmark": Benchmark("mine", tuple(items), ()),
        }[form]  # fmt: skip
    return str(file)


def weights(u):
    return [w.sum().item() for w in u.model.parameters()]


def unlearned(forget, retain=None, **options):
    method = "ga" if retain is None else "npo_gdr"
    return ul.unlearn(models()[0], forget, retain, method=method, steps=1, lr=1e-4, progress=False, **options)


CALLS = {
    "unlearn": lambda f: weights(unlearned(f(2))),
    "unlearn_sequence": lambda f: weights(
        unlearn_sequence(models()[0], [f(2)], f(-1), method="ga", steps=1, progress=False).runs[0]
    ),
    "evaluate": lambda f: ul.evaluate(models()[1], f(2), ["fact_span"], before=models()[0]).values.tolist(),
    "known_facts": lambda f: [q.prompt for q in known_facts(models()[0], f(2)).forget],
    "knowledge": lambda f: knowledge(models()[0], f(2))["known"].sum(),
    "recover": lambda f: ul.recover(
        models()[1], f(2), before=models()[0], templates=("quotes",), headline="quotes", probes=("prefill",),
        progress=False,
    ).to_frame().to_csv(),
    "recovery_plan": lambda f: recovery_plan(
        f(2), before=models()[0], templates=("quotes",), headline="quotes", progress=False
    ).sheet.prompts,
    "attribute_many": lambda f: [a.scores.tolist() for a in ul.attribute_many(models()[0], f(2), progress=False)],
    "compare_methods": lambda f: ul.attribution.compare_methods(
        models()[0], f(2), ["leave_one_out"], progress=False
    ).to_frame().drop(columns="seconds").to_csv(),
    "diff_many": lambda f: diff_many(*models(), f(2)).to_frame().to_csv(),
    "unlearning_depth": lambda f: unlearning_depth(models()[0], models()[1], models()[0], f(2)).scores.tolist(),
    "tune": lambda f: tune(
        "ga", models()[0], f(2), budget=1, objective=lambda u: sum(weights(u)), level=1.0, steps=1
    ).value,
}  # fmt: skip
"""Public functions that take facts. `f(n)` are the first `n` facts in the form under test, `f(-1)` the one to keep."""


def some(form, folder, n):
    items = facts()[-1:] if n == -1 else facts()[:n]
    return list(items) if form == "QA" else given(form, items, folder)


@functools.cache
def of_items(name):
    """Return the result that a function gives for a list of `QA`."""
    return CALLS[name](lambda n: some("QA", None, n))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_every_function_gives_the_same_result_for_every_form_of_facts(name, form, tmp_path):
    if name == "tune":
        pytest.importorskip("optuna")
    assert CALLS[name](lambda n: some(form, tmp_path, n)) == of_items(name)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "Benchmark"])
def test_unlearn_keeps_facts_in_every_form(form, tmp_path):
    expected = unlearned(facts()[:2], facts()[-1:], track=facts()[:1])
    found = unlearned(*(some(form, tmp_path, n) for n in (2, -1)), track=some(form, tmp_path, 1))
    assert weights(found) == weights(expected)
    assert [len(looks) for looks in found.history.trajectory.values()] == [1, 1]


@pytest.mark.parametrize("form", ["pairs", "lists", "dicts", "Benchmark", *(form for form in ROWS if len(form) > 4)])
def test_diff_averages_over_facts_in_every_form(form, tmp_path):
    source = some(form, tmp_path, 2)
    if form in ("parquet", "jsonl"):
        source = Path(source)  # A text is a prompt here.
    assert ul.diff(*models(), source).to_frame().equals(ul.diff(*models(), facts()[:2]).to_frame())


def test_a_table_with_facts_to_keep_is_unlearned_as_its_benchmark(tmp_path):
    rows = [{"prompt": q.prompt, "answer": q.answer} for q in facts()]
    rows[2]["group"] = "retain"
    with pytest.warns(UserWarning, match="is not split"):
        found = ul.unlearn(models()[0], rows, method="npo_gdr", steps=1, lr=1e-4, progress=False)
    assert weights(found) == weights(unlearned(facts()[:2], facts()[-1:]))


def test_an_answer_gets_its_space_where_no_chat_template_separates_it():
    pair = [("Where is Oslo?", "Norway")]
    assert as_facts(pair, "facts")[0].answer == " Norway"
    assert as_facts(pair, "facts", chat=True)[0].answer == "Norway"
    assert as_benchmark(pair, chat=True).chat is True


def test_pairs_are_attributed_as_one_prompt_and_answer_is():
    prompt, answer = facts()[0].prompt, facts()[0].answer.strip()
    (found,) = ul.attribute_many(models()[0], [(prompt, answer)], progress=False)
    assert torch.equal(found.scores, ul.attribute(models()[0], prompt, answer).scores)


WRONG = [
    ("Where is Oslo?", r"='Where is Oslo\?' is no file; give the path of a csv, .* pairs"),
    ("x" * 5000, "is no file; give the path of a csv"),
    (3, "is a int; give the path of a csv, json, jsonl or parquet file, or a list of"),
    (QA("a?", " b"), "is a QA; give the path"),
    ([("a?", " b"), ("c?",)], r"row 2: \('c\?',\) is no .*; give \(prompt, answer\), or a"),
    ([("a?", " b"), "c?"], r"row 2: 'c\?' is no question with its answer; give \(prompt, answer\)"),
    ([{"prompt": "a?", "answer": " b"}, {"prompt": "c?"}], "row 2: column 'answer' is absent; the row has prompt"),
    ([{"prompt": "a?", "answer": None}], "row 1: column 'answer' is null"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "message"), WRONG)
@pytest.mark.parametrize("name", ["unlearn", "evaluate", "known_facts", "recovery_plan", "attribute_many", "diff_many"])
def test_what_is_no_fact_is_refused_with_what_to_give(name, source, message):
    with pytest.raises(InputError, match=message) as refused:
        CALLS[name](lambda n: source)
    assert "\n" not in str(refused.value)


def test_raw_text_is_offered_where_it_is_read():
    for text in ("Oslo is in Norway.", 3):
        with pytest.raises(InputError, match=r"^forget.*pairs, or raw text as Corpus\(\[\.\.\.\]\)$"):
            unlearned(text)
        with pytest.raises(InputError, match=r"^retain.*pairs, or raw text as Corpus\(\[\.\.\.\]\)$"):
            unlearned(facts()[:2], text)
    with pytest.raises(InputError, match="bench is raw text, which holds no questions; give the path"):
        ul.evaluate(models()[0], Corpus(("Oslo is in Norway.",)))
    with pytest.raises(InputError, match=r"retain is a Benchmark; give its facts, e\.g\. retain=bench\.retain"):
        unlearned(facts()[:2], Benchmark("mine", tuple(facts()), ()))
