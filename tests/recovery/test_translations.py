"""Questions in another language exist for every relation of the benchmarks that ship, and name the same subject."""

import pytest

from unpact_lens.data.benchmark import QA
from unpact_lens.data.builtin import load_builtin
from unpact_lens.data.facts import RELATIONS
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import holds_fact
from unpact_lens.recovery.translations import TRANSLATIONS, translation


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_every_relation_has_one_that_names_the_subject_and_not_the_answer(language):
    for qa in load_builtin().forget:
        asked = translation(qa, language, "builtin")
        assert qa.subject in asked
        assert asked != qa.prompt
        assert not holds_fact(asked, qa.fact)
    assert set(TRANSLATIONS[language]["facts"]) == set(RELATIONS)
    assert all(template.count("{s}") == 1 for of in TRANSLATIONS[language].values() for template in of.values())


def test_a_benchmarks_own_wording_goes_first_and_nothing_is_made_up():
    own = QA("Where is Ann?", " Oslo", subject="Ann", meta={"translations": {"es": "¿Dónde está Ann?"}})
    assert translation(own, "es", "builtin") == "¿Dónde está Ann?"
    assert translation(QA("Where is Ann?", " Oslo", subject="Ann"), "es", "builtin") is None


def test_an_unknown_language_is_named():
    with pytest.raises(InputError, match="unknown language 'sp'; known are 'es'"):
        translation(QA("Where?", " Oslo"), "sp", "builtin")
