"""Check the fields of items and benchmarks."""

import pytest

from unpact_lens.data.benchmark import GROUPS, QA, Benchmark, Corpus, check_unique_ids
from unpact_lens.errors import InputError
from unpact_lens.results import Result, load


def test_the_span_splits_the_answer_into_prefix_and_fact():
    qa = QA("Where was Ann born?", " Ann was born in Oslo.", fact_span=(17, 21))
    assert (qa.fact, qa.answer_prefix) == ("Oslo", " Ann was born in")
    plain = QA("The capital of Japan is", " Tokyo")
    assert (plain.fact, plain.answer_prefix) == ("Tokyo", "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": " "}, "QA 'x': the prompt is empty"),
        ({"answer": ""}, "QA 'x': the answer is empty"),
        ({"group": "kept"}, f"QA 'x': group 'kept' is not one of {', '.join(GROUPS)}"),
        ({"fact_span": (2, 2)}, r"QA 'x': fact_span \(2, 2\) is outside its answer of 3 characters"),
        ({"fact_span": (0, 4)}, r"QA 'x': fact_span \(0, 4\) is outside"),
    ],
)
def test_a_bad_item_is_named_in_the_error(fields, message):
    with pytest.raises(InputError, match=message):
        QA(**{"prompt": "p", "answer": " an", "id": "x", **fields})


def test_groups_of_a_benchmark():
    items = {group: QA("p", " a", id=group, group=group) for group in GROUPS}
    bench = Benchmark(
        name="b",
        forget=(items["forget"],),
        retain=(items["far"], items["near"]),
        general=(items["general"],),
        unknown=(items["unknown"],),
        plain_text=Corpus(("one", "two")),
    )
    assert bench.near == (items["near"],)
    assert bench.far == (items["far"],)
    assert [q.id for q in bench.all_items()] == ["forget", "far", "near", "general", "unknown"]
    check_unique_ids(bench.all_items())
    with pytest.raises(InputError, match="QA id 'far' occurs twice"):
        check_unique_ids((*bench.retain, items["far"]))


def test_items_can_be_saved_within_a_result(tmp_path):
    from dataclasses import dataclass

    @dataclass(frozen=True, eq=False)
    class Asked(Result):
        items: tuple[QA, ...]

    qa = QA("p", " a b", paraphrases=("q", "r"), fact_span=(3, 4), group="near", meta={"n": (1, 2)})
    assert load(Asked((qa,)).save(tmp_path / "r")).items == (qa,)
