"""Patching writes the states of one model into the other, at the right positions of a padded batch only."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained, untrained
from unpact_lens.attribution import TopK
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import ask, fact_right
from unpact_lens.models.tokens import encode_context
from unpact_lens.recovery import recover
from unpact_lens.recovery.probes.patching import WHERE, middle, patched_answers, places, read_with, unrelated_fact

BENCH = benchmark()
FACTS = BENCH.forget


def plain(model, items=FACTS, opened=None):
    return ask(model, [q.prompt for q in items], opened or [""] * len(items), bench=BENCH)


@pytest.mark.parametrize("where", WHERE)
def test_a_model_patched_into_itself_answers_as_without_the_patch(where):
    for model in (trained(), retrained()):
        opened = [q.answer_prefix if where == "opening" else "" for q in FACTS]
        assert patched_answers(model, model, FACTS, bench=BENCH, where=where) == plain(model, opened=opened)


def test_patching_the_last_layer_gives_the_donors_first_word():
    patched = patched_answers(untrained(), trained(), FACTS, bench=BENCH, layer=2)
    opened = patched_answers(untrained(), trained(), FACTS, bench=BENCH, where="opening", layer=2)
    assert [t.split()[0] for t in opened] == [q.fact for q in FACTS]
    first = [text.split()[0] for text in patched]
    assert first == [text.split()[0] for text in plain(trained())]
    assert first != [text.split()[:1] for text in plain(untrained())]


def test_patching_the_whole_input_of_another_prompt_gives_its_answer():
    sources = [unrelated_fact(q, FACTS) for q in FACTS]
    assert all(s.subject != q.subject and s.kind != q.kind for q, s in zip(FACTS, sources, strict=True))
    patched = patched_answers(trained(), trained(), FACTS, bench=BENCH, sources=sources, layer=0)
    # The whole input is the other prompt's where it is not shorter than this one.
    swapped = [
        (q, s, text)
        for q, s, text in zip(FACTS, sources, patched, strict=True)
        if len(s.prompt.split()) >= len(q.prompt.split())
    ]
    assert swapped
    assert all(fact_right(text, s) and not fact_right(text, q) for q, s, text in swapped)


def test_answers_do_not_depend_on_the_batch():
    items = [*FACTS, replace(FACTS[0], prompt="please tell me " + FACTS[0].prompt)]
    together = patched_answers(retrained(), trained(), items, bench=BENCH, layer=1)
    alone = [patched_answers(retrained(), trained(), [q], bench=BENCH, layer=1)[0] for q in items]
    assert together == alone


def test_places_are_the_last_token_of_the_subject_or_all_that_is_read():
    qa, model = FACTS[0], trained()
    example = encode_context(model, qa.prompt)
    (at,) = places(model, qa, example, "subject")
    assert model.tokenizer.decode([example.context[at]]) == qa.subject
    assert places(model, qa, example, "prompt") == tuple(range(len(example.context)))
    assert places(model, replace(qa, subject="somebody"), example, "subject") == ()
    opened, opening = read_with(model, qa, BENCH, "opening")
    assert (opening, len(opened.context)) == (qa.answer_prefix, len(example.context) + 3)
    assert places(model, qa, opened, "opening") == tuple(range(len(opened.context)))
    assert middle(model) == 1


def test_the_models_are_left_as_they_were():
    model, first = retrained(), plain(retrained())
    patched_answers(model, trained(), FACTS, bench=BENCH)
    assert plain(model) == first
    assert not any(p.fwd_hooks for p in model.hook_dict.values())


def test_no_fact_is_unrelated_to_itself_or_to_its_subject():
    assert unrelated_fact(FACTS[0], [q for q in FACTS if q.subject == FACTS[0].subject]) is None
    assert unrelated_fact(FACTS[0], FACTS) == unrelated_fact(FACTS[0], FACTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"where": "subjects"}, "where='subjects'; did you mean 'subject'"),
        ({"layer": 3}, "layer=3; give a block from 0 to 1, or 2"),
        ({"sources": FACTS[:1]}, "1 sources for 8 questions"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        patched_answers(retrained(), trained(), FACTS, bench=BENCH, **changes)


def test_a_prompt_that_does_not_name_its_subject_is_named():
    with pytest.raises(InputError, match="does not name its subject 'zoe'"):
        patched_answers(retrained(), trained(), [replace(FACTS[0], subject="zoe")], bench=BENCH, where="subject")
    with pytest.raises(InputError, match="answer ' oslo' has nothing before its fact"):
        patched_answers(retrained(), trained(), [QA("where ?", " oslo")], bench=BENCH, where="opening")
    other = untrained()
    other.cfg.d_mlp = 7
    with pytest.raises(InputError, match=r"the models differ in shape: cfg\.d_mlp"):
        patched_answers(other, trained(), FACTS, bench=BENCH)


@pytest.fixture(scope="module")
def recovery():
    models = {"before": trained(), "control": retrained()}
    probes = [f"patch_{where}" for where in WHERE]
    return recover(retrained(), BENCH, **models, probes=probes, rule=TopK(2), progress=False)


def row(recovery, name, of="right_after"):
    return getattr(recovery, of)[recovery.probes.index(name)]


def test_the_original_models_own_states_change_nothing(recovery):
    assert torch.equal(row(recovery, "patch_prompt", "right_before"), recovery.plain_before)
    assert torch.equal(row(recovery, "patch_subject", "right_before"), recovery.plain_before)
    assert row(recovery, "patch_opening", "right_before").all()


@pytest.mark.parametrize("where", WHERE)
def test_the_control_row_patches_the_states_of_an_unrelated_fact(recovery, where):
    sources = [unrelated_fact(q, FACTS, seed=0) for q in FACTS]
    texts = patched_answers(retrained(), trained(), FACTS, bench=BENCH, where=where, sources=sources)
    right = [fact_right(t, q) for t, q in zip(texts, FACTS, strict=True)]
    assert row(recovery, f"unrelated_fact:patch_{where}").tolist() == right


def test_without_a_retrained_model_the_excess_is_over_the_unrelated_fact():
    found = recover(retrained(), BENCH, before=trained(), probes=["patch_subject"], rule=TopK(2), progress=False)
    counted = found.common & row(found, "unrelated_fact:patch_subject", "asked")
    other = row(found, "unrelated_fact:patch_subject")[counted].double().mean()
    expected = float(row(found, "patch_subject")[counted].double().mean() - other)
    assert found.excess("patch_subject").value == pytest.approx(expected)
