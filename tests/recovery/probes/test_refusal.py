"""Refusals are met by wordings before the prompt and by the start of an answer, and the fact behind one is found."""

import pytest

from tests.evaluation.world import benchmark, retrained, trained
from tests.recovery.probes.hiding import behind_a_refusal
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.recovery import recover
from unpact_lens.recovery import wrong_subject as variants
from unpact_lens.recovery.probes.refusal import CONSENTS, WORDINGS
from unpact_lens.recovery.probes.registry import PROBES, Scene
from unpact_lens.recovery.probing import Probing


def asked(monkeypatch, name, bench):
    """All prompts and answer prefixes that a probe asks; nothing is ever right."""
    seen = []

    def ask_sheet(model, sheet, where, *_):
        for r, c in where.nonzero().tolist():
            seen.append((sheet.rows[r], sheet.prompts[r][c], sheet.prefills[r][c]))
        return where & False, {}

    monkeypatch.setattr(variants, "ask_sheet", ask_sheet)
    rows = PROBES[name].answer_rows(Scene(Probing(), bench, bench.forget, ((),) * len(bench.forget)))
    for row in rows:
        row.answer(None)
    return seen


BENCH = Benchmark(
    "capitals",
    forget=(
        QA("Where is Japan's capital?", " Tokyo", subject="Japan", id="a", wrong_subject="Where is Peru's capital?"),
    ),
    retain=(),
    prefill="The capital is",
)


def test_each_wording_comes_before_the_prompt_and_before_that_of_the_wrong_subject(monkeypatch):
    found = asked(monkeypatch, "refusal_wording", BENCH)
    assert found == [
        (row, f"{wording} Where is {land}'s capital?", "The capital is")
        for wording in WORDINGS
        for row, land in (("refusal_wording", "Japan"), ("wrong_subject:refusal_wording", "Peru"))
    ]


def test_each_consent_comes_before_the_benchmarks_own_answer_prefix(monkeypatch):
    found = asked(monkeypatch, "refusal_prefix", BENCH)
    assert [prefill for row, _, prefill in found if row == "refusal_prefix"] == [
        f"{consent} The capital is" for consent in CONSENTS
    ]


def test_a_fact_that_a_wording_would_give_away_is_not_asked_in_it(monkeypatch):
    bench = Benchmark("words", forget=(QA("What follows?", " sure", subject="x", id="a"),), retain=())
    assert asked(monkeypatch, "refusal_prefix", bench) == []


def test_facts_behind_a_refusal_are_found():
    found = recover(
        behind_a_refusal(), benchmark(), before=trained(), control=retrained(), probes=("refusal_wording",),
        templates=["focus_list"], progress=False,
    )  # fmt: skip
    assert found.n_common >= 6
    assert found.excess("refusal_wording").value > 0.5
    assert found.rate("wrong_subject:refusal_wording").value == pytest.approx(0, abs=0.2)
