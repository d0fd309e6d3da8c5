"""Questions in another language exist for every relation of the shipped benchmarks, and name the same subject."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained, untrained
from unpact_lens.data.benchmark import QA
from unpact_lens.data.builtin import load_builtin
from unpact_lens.data.facts import RELATIONS
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import holds_fact
from unpact_lens.recovery import recover, recovery_plan, run_plan
from unpact_lens.recovery.probes.translation import TRANSLATIONS, translation


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_every_relation_has_a_question_that_names_the_subject_and_not_the_answer(language):
    for qa in load_builtin().forget:
        asked = translation(qa, language, "builtin")
        assert qa.subject in asked
        assert asked != qa.prompt
        assert not holds_fact(asked, qa.fact)
    assert set(TRANSLATIONS[language]["facts"]) == set(RELATIONS)
    assert all(template.count("{s}") == 1 for of in TRANSLATIONS[language].values() for template in of.values())


def test_a_benchmarks_own_question_takes_precedence():
    own = QA("Where is Ann?", " Oslo", subject="Ann", meta={"translations": {"es": "¿Dónde está Ann?"}})
    assert translation(own, "es", "builtin") == "¿Dónde está Ann?"
    assert translation(QA("Where is Ann?", " Oslo", subject="Ann"), "es", "builtin") is None


def test_an_unknown_language_is_named():
    with pytest.raises(InputError, match="unknown language 'sp'; known are 'es'"):
        translation(QA("Where?", " Oslo"), "sp", "builtin")


def in_spanish(first="rome rome ?"):
    """The benchmark with a Spanish question for three facts; the first one makes no sense."""
    bench = benchmark()
    told = tuple(
        replace(q, meta={"translations": {"es": q.paraphrases[0] if i else first}})
        for i, q in enumerate(bench.forget[:3])
    )
    return replace(bench, forget=(*told, *bench.forget[3:]))


def test_facts_count_that_the_original_model_answers_in_the_language():
    models = {"before": trained(), "control": retrained()}
    found = recover(untrained(), in_spanish(), **models, probes=["translation_es"], progress=False)
    assert found.asked[found.probes.index("translation_es")].tolist() == [False, True, True] + [False] * 5
    assert found.rate("translation_es").n == 2


def test_a_planned_translation_needs_no_other_model():
    models = {"before": trained(), "control": retrained()}
    plan = recovery_plan(in_spanish(), **models, probes=["translation_es"], progress=False)
    alone, beside = run_plan(untrained(), plan, progress=False), run_plan(untrained(), plan, **models, progress=False)
    assert alone == beside
    row = alone.probes.index("translation_es")
    assert torch.equal(alone.right_before[row], alone.asked[row])


def test_a_benchmark_without_questions_in_the_language_is_refused():
    with pytest.raises(InputError, match="'translation_es' is not run: no forget fact of benchmark 'village'"):
        recovery_plan(benchmark(), before=trained(), probes=["translation_es"])
