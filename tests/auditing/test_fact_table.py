"""Facts are read from every usual form, and a wrong table is named before anything runs."""

import json

import pandas as pd
import pytest

from tests.auditing.facts import table
from unpact_lens.auditing import read_facts
from unpact_lens.errors import InputError

ROWS = table()


def groups(found):
    return [len(part) for part in (found.bench.forget, found.bench.retain, found.bench.unseen)]


def forms(tmp_path):
    import datasets

    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "f.csv", index=False)
    frame.to_parquet(tmp_path / "f.parquet")
    (tmp_path / "f.jsonl").write_text("\n".join(json.dumps(r) for r in ROWS))
    (tmp_path / "f.json").write_text(json.dumps(ROWS))
    files = [tmp_path / f"f.{end}" for end in ("csv", "parquet", "jsonl", "json")]
    return [*files, frame, datasets.Dataset.from_list(ROWS), ROWS]


def test_pairs_and_a_mapping_give_the_facts_of_a_list_of_dicts():
    rows = [("Where was Ann born?", "Oslo"), ("Where was Ben born?", "Rome")]
    expected = read_facts([{"question": p, "answer": a} for p, a in rows]).bench
    assert read_facts(rows).bench == read_facts(dict(rows)).bench == expected
    with pytest.raises(InputError, match=r"is a list; give .* or a list of \(prompt, answer\) pairs"):
        read_facts(["one"])
    with pytest.raises(InputError, match=r"facts=, row 2: .* is no pair; give \(prompt, answer\), or a dict"):
        read_facts([*rows[:1], ("one", "two", "three")])
    with pytest.raises(InputError, match=r"facts= holds columns, not {prompt: answer}; give rows"):
        read_facts({"question": ["Where was Ann born?"], "answer": ["Oslo"]})


def test_every_form_gives_the_same_facts(tmp_path):
    found = [read_facts(form) for form in forms(tmp_path)]
    assert groups(found[0]) == [12, 4, 14]
    assert len({tuple((q.prompt, q.answer, q.fact, q.wrong_subject) for q in f.bench.all_items()) for f in found}) == 1


@pytest.mark.parametrize("names", [("Question", "Answer"), ("prompt", "completion"), ("instruction", "ground-truth")])
def test_usual_column_names_are_read(names):
    rows = [{names[0]: r["question"], names[1]: r["answer"]} for r in ROWS]
    assert groups(read_facts(rows)) == [30, 0, 0]


def test_a_question_of_the_same_frame_is_the_wrong_subject():
    rows = [
        {"question": "The capital of Peru is", "answer": "Lima"},
        {"question": "The capital of Japan is", "answer": "Tokyo"},
        {"question": "Who painted the sea?", "answer": "Ann"},
    ]
    found = read_facts(rows).bench.forget
    assert [q.wrong_subject for q in found] == ["The capital of Japan is", "The capital of Peru is", None]


WRONG = [
    (
        [{"questoin": "a?", "answer": "b"}],
        r"no column for the question; it has 'questoin', 'answer'; rename 'questoin' ",
    ),
    ([{"question": "a?", "anwser": "b"}], r"rename 'anwser' to 'answer'\?"),
    ([{"question": "a?", "answer": ""}], r"row 1: the answer is empty"),
    ([{"question": "a?", "answer": "b", "group": "forgt"}], r"group 'forgt'; did you mean 'forget'"),
    ([{"question": "a?", "answer": "b", "group": "unseen"}], r"no facts of group 'forget'"),
    (
        [{"question": "a?", "answer": "b", "group": "forget"}, {"question": "A?", "answer": "b", "group": "retain"}],
        r"'A\?' is in the groups 'forget' \(row 1\) and 'retain' \(row 2\)",
    ),
    ([{"question": "a?", "answer": "b"}, {"question": "a?", "answer": "c"}], r"has two answers, 'b' \(row 1\) and 'c'"),
    ([], r"holds no facts"),
    (3, r"facts= is a int; give a csv"),
]


@pytest.mark.parametrize(("rows", "message"), WRONG)
def test_a_wrong_table_is_named(rows, message):
    with pytest.raises(InputError, match=message):
        read_facts(rows)


def test_duplicates_are_used_once_with_a_warning():
    with pytest.warns(UserWarning, match="2 facts occur twice and are used once"):
        found = read_facts([*ROWS, *ROWS[:2]])
    assert groups(found) == [12, 4, 14]


def test_unread_columns_are_warned_of():
    with pytest.warns(UserWarning, match="columns not read: source"):
        read_facts([{"question": "a?", "answer": "b", "source": "x"}])


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"nosuch.csv does not exist"):
        read_facts("nosuch.csv")
