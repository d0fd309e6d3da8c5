"""Prefixes are drawn from the vocabulary by the seed, say nothing about the fact, and unlock what stands behind one."""

import pytest

from tests.conftest import tiny
from tests.evaluation.world import benchmark, retrained, trained
from tests.recovery.probes.hiding import behind_a_trigger
from unpact_lens.errors import InputError
from unpact_lens.recovery import recover
from unpact_lens.recovery.probes.trigger import RANDOM_LENGTH, RANDOM_PREFIXES, random_prefixes


def test_random_prefixes_depend_on_the_seed_and_are_words_of_the_vocabulary():
    model = trained()
    found = random_prefixes(model, 0)
    assert found == random_prefixes(model, 0) != random_prefixes(model, 1)
    assert len(set(found)) == RANDOM_PREFIXES
    known = set(model.tokenizer.get_vocab())
    assert all(len(p.split()) == RANDOM_LENGTH and set(p.split()) <= known for p in found)


def test_facts_behind_a_chat_like_prefix_are_found():
    found = recover(
        behind_a_trigger(), benchmark(), before=trained(), control=retrained(), probes=("trigger",),
        templates=["focus_list"], progress=False,
    )  # fmt: skip
    assert found.n_common >= 6
    assert found.rate("trigger").value == 1
    assert found.rate("wrong_subject:trigger").value == 0
    assert found.excess("trigger").value >= 0.4


def test_a_model_without_tokenizer_or_with_too_few_words_is_refused():
    with pytest.raises(InputError, match="the model has no tokenizer"):
        random_prefixes(tiny())
    with pytest.raises(InputError, match=r"tokens of Latin letters, and 9999 are needed; leave 'trigger' out"):
        random_prefixes(trained(), length=9999)
