"""Test self-rehearsal: what the original model writes for itself, and the methods that rehearse it."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter

import pytest
import torch

import unpact_lens as ul
from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.models.asking import Asking
from unpact_lens.models.draw import draw
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import bos_ids
from unpact_lens.unlearning import METHODS
from unpact_lens.unlearning.self_rehearsal import listed_names, names_in, self_rehearsal

SMALL = {"subjects": 12, "drawn": 96, "templates": 2}


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return ul.load_model("builtin")


@pytest.fixture(scope="module")
def bench() -> ul.Benchmark:
    return ul.load_benchmark("builtin")


@pytest.fixture(scope="module")
def written(model: HookedModel, bench: ul.Benchmark) -> tuple[QA, ...]:
    return self_rehearsal(model, bench.forget, **SMALL)


def test_drawn_tokens_follow_the_probabilities_of_the_model(model: HookedModel) -> None:
    bos = bos_ids(model)
    first = Counter(ids[0] for ids in draw(model, [bos] * 4000, max_new_tokens=1, seed=0))
    expected = model(torch.tensor([bos])).detach()[0, -1].double().softmax(-1)
    total = sum(abs(first[i] / 4000 - float(p)) for i, p in enumerate(expected))
    assert total / 2 < 0.05  # total variation; 4000 draws from another context differ by far more
    other = draw(model, [bos] * 4, max_new_tokens=3, seed=1)
    assert other == draw(model, [bos] * 4, max_new_tokens=3, seed=1)
    assert all(len(ids) == 3 for ids in other)


def test_no_written_question_is_about_a_subject_to_forget(written: tuple[QA, ...], bench: ul.Benchmark) -> None:
    gone = {q.subject for q in bench.forget}
    assert 0 < len({q.subject for q in written}) <= 12
    assert not {q.subject for q in written} & gone
    assert not any(subject in q.prompt for q in written for subject in gone)
    assert max(Counter(q.subject for q in written).values()) <= 2


def test_written_answers_are_what_the_model_says(
    model: HookedModel, bench: ul.Benchmark, written: tuple[QA, ...]
) -> None:
    for qa in written[:4]:
        ids = torch.tensor([[*bos_ids(model), *model.tokenizer(qa.prompt, add_special_tokens=False)["input_ids"]]])
        width = ids.shape[1]
        for _ in range(24):
            ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert model.tokenizer.decode(ids[0, width:]).startswith(qa.answer)


def test_written_answers_go_on_after_the_prefill(model: HookedModel, bench: ul.Benchmark) -> None:
    place = [q for q in bench.forget if q.meta["relation"] == "birthplace"]
    plain = self_rehearsal(model, place, **SMALL)
    after = self_rehearsal(model, place, **SMALL, asked=Asking(prefill=" The place"))
    known = {q.prompt: q.answer for q in after}
    begun = [q for q in plain if q.answer.startswith(" The place")]
    assert begun
    assert all(q.answer == " The place" + known[q.prompt] for q in begun)


def test_subjects_that_share_a_word_are_near(written: tuple[QA, ...], bench: ul.Benchmark) -> None:
    words = {word for q in bench.forget for word in q.subject.split()}
    assert all((q.group == "near") == bool(set(q.subject.split()) & words) for q in written)


def test_another_name_of_a_subject_to_forget_is_dropped(model: HookedModel, bench: ul.Benchmark) -> None:
    known = bench.unseen[0].subject
    about = [q for q in bench.unseen if q.subject == known]
    others = self_rehearsal(model, bench.forget, subjects=64, drawn=512, templates=6)
    alias = next(q.subject for q in others if q.subject != known)
    twin = [dataclasses.replace(q, prompt=q.prompt.replace(known, alias)) for q in about]
    # The model gives `alias` its answers. If those are the facts to forget under another name, `alias` is dropped.
    renamed = [dataclasses.replace(q, subject=alias) for q in twin]
    written = self_rehearsal(model, [*bench.forget, *renamed], subjects=64, drawn=512, templates=6)
    assert alias not in {q.subject for q in written}


def test_names_are_runs_of_the_form_of_the_subjects() -> None:
    assert names_in("Ada Bell met Bo Lind, Cy and The Big Sky.", ["Halvan Quinford"]) == ["Ada Bell", "Bo Lind"]
    assert names_in("Oslo, New York and rome", ["Paris", "New Delhi"]) == ["Oslo", "New York"]
    assert names_in("the sea is wide", ["salt"]) == []


COUNTRIES = ["Spain", "the Isle of Man", "Bosnia and Herzegovina", "British Indian Ocean Territory"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Argentina is Spanish", ["Argentina", "Spanish"]),
        ("the United States is USD", ["the United States", "USD"]),
        ("the country of Japan", ["Japan"]),  # no subject begins with "of"
        ("the euro and the dollar", []),  # no capitalised word
        ("Trinidad and Tobago, and of the Crown", ["Trinidad and Tobago", "the Crown"]),
        ("in Peru and", ["Peru"]),  # no subject ends with "and"
    ],
)
def test_words_without_a_capital_count_only_where_a_subject_holds_them(text: str, names: list[str]) -> None:
    assert names_in(text, COUNTRIES) == names


def test_the_continuation_of_a_question_is_read_up_to_the_words_after_the_subject(
    model: HookedModel, bench: ul.Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower-case subject, of any words, ends where the question goes on."""
    texts = {"The symbol of": "iron is Fe and rust", "In the group of": "the noble gases one finds neon"}
    capitals = [QA("The king of the Isle of Man is", " Bo", subject="the Isle of Man")]
    forget = [
        QA("The symbol of boron is", " B", subject="boron"),
        QA("In the group of the four light metals one finds", " lithium", subject="the four light metals"),
    ]

    def drawn(model: HookedModel, contexts: list[tuple[int, ...]], **_: object) -> list[list[int]]:
        starts = [model.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in contexts]
        return [model.tokenizer(texts.get(s.strip(), ""), add_special_tokens=False)["input_ids"] for s in starts]

    monkeypatch.setattr(sys.modules[self_rehearsal.__module__], "draw", drawn)
    written = self_rehearsal(model, forget, drawn=8, templates=2, subjects=8)
    assert {(q.subject, q.group) for q in written} == {("iron", "far"), ("the noble gases", "near")}
    texts["The king of"] = "the Bay of Biscay"
    assert {q.group for q in self_rehearsal(model, capitals, drawn=8, templates=1)} == {"far"}  # "the" is no name
    texts["The king of"] = "the Isle of Dogs"
    assert {q.group for q in self_rehearsal(model, capitals, drawn=9, templates=1)} == {"near"}


def test_a_forget_set_without_subjects_is_refused(model: HookedModel) -> None:
    with pytest.raises(ul.InputError, match=r"no forget question holds its subject in its prompt.*set QA\.subject"):
        self_rehearsal(model, [QA("Where was she born?", " In Oslo.")])
    with pytest.raises(ul.InputError, match=r"'npo_self' puts other subjects into the forget questions.*QA items"):
        ul.unlearn(model, Corpus(("Halvan Quinford was born in Foxhollow.",)), method="npo_self")


@pytest.mark.parametrize("name", ["subjects", "drawn", "templates"])
def test_sizes_that_are_not_positive_are_refused(model: HookedModel, bench: ul.Benchmark, name: str) -> None:
    with pytest.raises(ul.InputError, match=f"{name}=0; give a whole number"):
        self_rehearsal(model, bench.forget, **{name: 0})


def test_texts_that_name_nobody_are_an_error(model: HookedModel, bench: ul.Benchmark) -> None:
    long = [dataclasses.replace(q, prompt=q.prompt.replace(q.subject, "A B C D E F G"), subject="A B C D E F G")
            for q in bench.forget[:1]]  # fmt: skip
    with pytest.raises(ul.InputError, match="name no subject of the form of 'A B C D E F G'"):
        self_rehearsal(model, long, drawn=4)


def test_rehearsing_methods_train_on_what_the_model_wrote_and_on_no_given_fact(
    model: HookedModel, bench: ul.Benchmark
) -> None:
    rehearsing = {n for n, m in METHODS.items() if m.rehearses}
    assert rehearsing == {n for n in METHODS if n.endswith("_self")}
    assert {"ga_self", "npo_self", "simnpo_self", "unpact_blind_self", "npo_null_self", "pdu_self"} <= rehearsing
    run = {"method": "npo_self", "steps": 2, "batch_size": 4, "progress": False, **SMALL}
    alone = ul.unlearn(model, bench.forget, **run)
    given = ul.unlearn(model, bench.forget, bench.retain, **run)
    for name, weight in alone.model.state_dict().items():
        assert torch.equal(weight, given.model.state_dict()[name])
    assert alone.config["subjects"] == 12


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (" Peru, the Isle of Skye, Chad or Togo, Fiji,", ["Peru", "the Isle of Skye"]),
        (" Peru, a land of plenty, Chad,", ["Peru"]),
        (" Peru", []),  # the text may end within it
        (", Peru,", []),
        ("\nPeru,\nChad,\n", ["Peru", "Chad"]),
    ],
)
def test_a_list_is_read_up_to_the_first_item_that_is_no_subject(text: str, names: list[str]) -> None:
    assert listed_names(text, COUNTRIES) == names


def test_subjects_may_be_named_in_lists_of_subjects_to_forget(
    model: HookedModel, bench: ul.Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = sorted({q.subject for q in bench.forget})
    seen: list[str] = []

    def drawn(model: HookedModel, contexts: list[tuple[int, ...]], **_: object) -> list[list[int]]:
        seen.extend(model.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in contexts)
        more = [" Ada Bell,", f" {gone[0]}, Ada Bell, Bo Lind, Cy", " and so on, Dee Rook,"]
        return [model.tokenizer(more[i % 3], add_special_tokens=False)["input_ids"] for i in range(len(contexts))]

    monkeypatch.setattr(sys.modules[self_rehearsal.__module__], "draw", drawn)
    written = self_rehearsal(model, bench.forget, naming="lists", subjects=8, drawn=6, templates=1)
    assert {q.subject for q in written} <= {"Ada Bell", "Bo Lind"}
    assert "Ada Bell" in {q.subject for q in written}
    lists = [text.strip().removesuffix(",").split(", ") for text in seen]
    assert [len(set(found)) for found in lists] == [6] * 6
    assert {name for found in lists for name in found} <= set(gone)
    assert len({tuple(found) for found in lists}) == 6


def test_a_list_holds_subjects_that_one_question_asks_about(
    model: HookedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    metals, kings = ["iron", "gold", "tin"], ["Ada", "Bo"]
    forget = [QA(f"the symbol of {name} is", " x", subject=name) for name in metals]
    forget += [QA(f"the crown of {name} is", " x", subject=name) for name in kings]
    seen: list[set[str]] = []

    def drawn(model: HookedModel, contexts: list[tuple[int, ...]], **_: object) -> list[list[int]]:
        starts = (model.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in contexts)
        seen.extend({part.strip() for part in start.split(",") if part.strip()} for start in starts)
        return [model.tokenizer(" zinc,", add_special_tokens=False)["input_ids"] for _ in contexts]

    monkeypatch.setattr(sys.modules[self_rehearsal.__module__], "draw", drawn)
    self_rehearsal(model, forget, naming="lists", drawn=6, templates=1)
    assert seen == [set(metals), set(kings)] * 3


def test_another_way_of_naming_is_refused(model: HookedModel, bench: ul.Benchmark) -> None:
    with pytest.raises(ul.InputError, match="naming='songs'; use 'texts' or 'lists'"):
        self_rehearsal(model, bench.forget, naming="songs")
