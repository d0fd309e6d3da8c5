"""No paraphrase is both unlearned and asked."""

import dataclasses

import pytest

from unpact_lens.data.load import load_benchmark
from unpact_lens.errors import InputError
from unpact_lens.study.held_out_paraphrases import split_phrasings


def test_held_out_paraphrases_are_asked_and_not_unlearned():
    bench = load_benchmark("builtin")
    taught, asked = split_phrasings(bench, 2)
    for whole, one, two in zip(bench.forget, taught.forget, asked.forget, strict=True):
        assert len(two.paraphrases) == 2
        assert one.paraphrases + two.paraphrases == whole.paraphrases
    assert taught.retain == asked.retain == bench.retain


def test_holding_out_nothing_returns_the_benchmark():
    bench = load_benchmark("builtin")
    assert split_phrasings(bench, 0) == (bench, bench)


def test_a_fact_with_too_few_paraphrases_is_refused():
    bench = load_benchmark("builtin")
    few = dataclasses.replace(bench.forget[0], paraphrases=("Where?",))
    with pytest.raises(InputError, match=rf"hold_out_phrasings=2, but '{few.id}' has 1 paraphrases; give a smaller"):
        split_phrasings(dataclasses.replace(bench, forget=(few,)), 2)
    taught, asked = split_phrasings(dataclasses.replace(bench, forget=(few,)), 1)
    assert (taught.forget[0].prompt, taught.forget[0].paraphrases) == (few.prompt, ())
    assert asked.forget[0].paraphrases == few.paraphrases
    with pytest.raises(InputError, match="hold_out_phrasings=-1"):
        split_phrasings(bench, -1)
