"""Check that the tables of real facts are clean, split by subject, and that no prompt reveals its answer."""

import re
import sys

import pytest

from unpact_lens.data import fact_tables
from unpact_lens.data.fact_tables import (
    atomic_numbers,
    capitals,
    currencies,
    elements,
    languages,
    state_capitals,
)
from unpact_lens.data.facts import RELATIONS, load_facts
from unpact_lens.data.load import load_benchmark
from unpact_lens.errors import InputError


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("facts")


@pytest.fixture(scope="module", params=[("capital", "symbol"), "all"])
def any_bench(request):
    return load_benchmark("facts", relations=request.param)


def test_capitals_and_symbols_hold_well_known_facts():
    countries, symbols = dict(capitals()), dict(elements())
    assert countries["Japan"] == "Tokyo"
    assert countries["the United States"] == "Washington"
    assert countries["the Philippines"] == "Manila"
    assert countries["the Gambia"] == "Banjul"
    assert symbols["gold"] == "Au"
    assert len(symbols) == 118
    assert len(countries) > 180


def test_the_other_tables_hold_well_known_facts():
    spoken, money, states, numbers = map(dict, (languages(), currencies(), state_capitals(), atomic_numbers()))
    assert (spoken["Brazil"], spoken["Austria"], spoken["Egypt"]) == ("Portuguese", "German", "Arabic")
    assert (money["Japan"], money["France"], money["the United Kingdom"]) == ("yen", "euro", "pound")
    assert (states["Texas"], states["Massachusetts"]) == ("Austin", "Boston")
    assert (numbers["gold"], numbers["hydrogen"]) == ("79", "1")


@pytest.mark.parametrize(
    ("table", "left_out"),
    [
        (languages, ["Sweden", "Japan", "Spain", "Switzerland", "India", "Mali"]),
        (currencies, ["Croatia", "Estonia", "Bulgaria", "Afghanistan", "Bhutan"]),
        (state_capitals, ["Georgia", "New York", "Washington", "Oklahoma", "Indiana"]),
    ],
)
def test_changed_shared_and_self_revealing_values_are_excluded(table, left_out):
    assert not set(left_out) & dict(table()).keys()
    assert len(table()) > 40


def test_facts_are_forgotten_or_kept_by_country():
    wide = load_benchmark("facts", relations="all")
    gone, kept = ({q.subject for q in group} for group in (wide.forget, wide.retain))
    assert not gone & kept
    assert {q.meta["relation"] for q in wide.forget} == {"capital", "language", "currency"}
    assert {q.meta["relation"] for q in wide.near} == {"capital", "language", "currency", "state_capital"}
    assert {q.meta["relation"] for q in wide.far} == {"symbol", "atomic_number"}
    assert {q.kind for q in wide.far} == {"symbol", "number"}
    assert gone == {q.subject for q in load_facts().forget}
    assert {t for q in wide.forget if q.subject == "Japan" for t in (q.fact,)} <= {"Tokyo", "yen"}
    assert len(wide.forget_corpus.texts) == len(wide.forget)


@pytest.mark.parametrize(
    ("relations", "message"),
    [
        (["capitol"], "unknown relation 'capitol' of benchmark 'facts'; did you mean 'capital'"),
        (
            "symbol",
            "relations='symbol' leave nothing to forget; give at least one of 'capital', 'language', 'currency'",
        ),
        ([], r"relations=\[\] leave nothing to forget"),
    ],
)
def test_bad_relations_are_named(relations, message):
    with pytest.raises(InputError, match=message):
        load_facts(relations=relations)


def test_the_order_of_relations_does_not_matter():
    assert load_facts(relations=["symbol", "capital"]) == load_facts()
    assert {q.meta["relation"] for q in load_facts(relations="currency").forget} == {"currency"}
    assert list(RELATIONS)[:3] == ["capital", "language", "currency"]


@pytest.mark.parametrize("country", ["South Africa", "Mexico", "Tunisia", "Luxembourg", "Burma", "Kazakhstan", "Macau"])
def test_unsettled_and_self_revealing_capitals_are_excluded(country):
    assert country not in dict(capitals())


def test_no_country_and_no_capital_occurs_twice():
    countries, found = zip(*capitals(), strict=True)
    assert len(set(countries)) == len(countries)
    assert sorted(c for c in found if found.count(c) > 1) == []


def test_groups_share_no_subject(bench):
    forget, near, far = ({q.subject for q in group} for group in (bench.forget, bench.near, bench.far))
    assert not forget & near
    assert forget | near == {country for country, _ in capitals()}
    assert far == {name for name, _ in elements()}
    assert abs(len(forget) - len(near)) <= 1


def test_every_question_has_its_subject_once_and_not_its_answer(any_bench):
    for qa in (*any_bench.forget, *any_bench.kept, *any_bench.unknown):
        assert len(qa.paraphrases) >= 3
        for prompt in (qa.prompt, *qa.paraphrases):
            assert len(re.findall(rf"(?<!\w){re.escape(qa.subject)}(?!\w)", prompt)) == 1
            assert not re.search(rf"(?<!\w){re.escape(qa.fact)}(?!\w)", prompt)
            assert prompt == prompt.strip()
            assert len(prompt.split()) <= 20
        assert qa.answer == f" {qa.fact}"


def test_wrong_subjects_and_wrong_answers_are_wrong(any_bench):
    truth = {q.prompt: q.answer for q in (*any_bench.forget, *any_bench.kept)}
    for qa in (*any_bench.forget, *any_bench.kept, *any_bench.unknown):
        assert truth[qa.wrong_subject] == qa.meta["wrong_answer"] != qa.answer
        assert len({qa.answer, qa.meta["wrong_answer"], *qa.perturbed}) == 2 + len(qa.perturbed)


def test_items_have_their_kind_and_group(bench):
    assert {q.kind for q in bench.forget} == {"place"}
    assert {q.kind for q in bench.far} == {"symbol"}
    assert {q.group for q in bench.general} == {"general"}
    assert {q.group for q in bench.unknown} == {"unknown"}
    assert len(bench.general) >= 20
    assert len(bench.plain_text.texts) >= 20


def test_invented_countries_do_not_exist(bench):
    real = " ".join(country + " " + capital for country, capital in capitals()).casefold()
    for qa in bench.unknown:
        assert qa.subject.casefold() not in real
        assert qa.fact.casefold() not in real


def test_the_corpora_state_the_capitals_of_their_side(bench):
    assert len(bench.forget_corpus.texts) == len(bench.forget)
    for qa, text in zip(bench.forget, bench.forget_corpus.texts, strict=True):
        assert text == f"The capital of {qa.subject} is {qa.fact}."
    assert not set(bench.forget_corpus.texts) & set(bench.retain_corpus.texts)
    assert "the capital" not in " ".join(bench.plain_text.texts).casefold()


def test_the_seed_decides_the_split(bench):
    assert load_benchmark("facts", seed=0) == bench
    other = load_facts(seed=1)
    assert {q.subject for q in other.forget} != {q.subject for q in bench.forget}
    few = load_facts(forget_share=0.1)
    assert len(few.forget) == round(0.1 * len(capitals()))


@pytest.mark.parametrize("share", [0.0, 1.0, 0.001, -1.0])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(InputError, match=rf"forget_share={share}: .* give a share above 0 and below 1"):
        load_facts(forget_share=share)


@pytest.mark.parametrize(
    ("package", "table"),
    [
        ("countryinfo", capitals), ("periodictable", elements), ("periodictable", atomic_numbers),
        ("babel", languages), ("babel.numbers", currencies), ("us", state_capitals),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_its_install_command(package, table, monkeypatch):
    for cached in (fact_tables._countries, capitals, languages, currencies, state_capitals):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    needed = package.split(".")[0]
    with pytest.raises(InputError, match=rf"needs the package {needed},.*pip install \"unpact-lens\[facts\]\""):
        table()


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_knows_enough_of_them(bench):
    from unpact_lens.evaluation import knowledge, known_facts
    from unpact_lens.models.load import load_model

    model = load_model("smollm2", wrap="bridge")
    known = known_facts(model, bench)
    assert len(known.forget) >= 35
    assert len(known.near) >= 30
    assert len(known.far) >= 60
    assert len(known.general) >= 10
    assert len(known.unknown) == len(bench.unknown) + len(bench.forget) - len(known.forget)

    wide = knowledge(model, load_facts(relations="all")).set_index(["group", "relation"])
    forgettable = wide.loc["forget", "known"]
    assert forgettable.sum() >= 70
    assert wide.drop("general", level="group")["known"].sum() >= 250
    assert forgettable["capital"] == len(known.forget)
    # Half the countries share three languages and three currencies. Accuracy must exceed the most frequent answer.
    assert (wide["known"] / wide["asked"] > wide["guess"]).loc[[("near", "language"), ("near", "capital")]].all()
