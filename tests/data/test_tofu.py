"""Load TOFU from small files of its schema, and from the real tables if available."""

import json
import os
import subprocess
import sys

import pytest

from tests.real_tofu import needs_tofu, real_tofu
from unpact_lens.data.tofu import RETAIN, authors, tofu
from unpact_lens.errors import InputError

ROWS = {"forget01": 40, "forget05": 200, "forget10": 400, "retain99": 3960, "retain95": 3800, "retain90": 3600}


def pair(name, i):
    return {"question": f"What is book {i} of {name}?", "answer": f"Book {i} of {name} is T{i}."}


def perturbed(row):
    return {
        **row,
        "paraphrased_answer": row["answer"].replace("is", "is called"),
        "perturbed_answer": [row["answer"].replace(".", f"{x}.") for x in "abcde"],
        "paraphrased_question": row["question"].replace("What is", "Name"),
    }


@pytest.fixture
def folder(tmp_path):
    forget = [pair(name, i) for name in ("Ann Lee", "Bo Berg") for i in range(20)]
    retain = [pair(name, i) for name in ("Cy Berg", "Di Moss") for i in range(20)]
    real_facts = [
        {
            "question": "Who wrote it?",
            "answer": "Ibsen",
            "original_answer": "Ibsen did.",
            "perturbed_answer": list("abc"),
        }
    ]
    tables = {
        "forget01": forget,
        "forget01_perturbed": [perturbed(r) for r in reversed(forget)],
        "retain99": retain,
        "retain_perturbed": [perturbed(r) for r in retain[5:10]],
        "real_authors_perturbed": real_facts,
        "world_facts_perturbed": real_facts,
    }
    for name, rows in tables.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_perturbed_rows_are_joined_by_question_in_any_order(folder):
    bench = tofu("forget01", path=folder, template="Q: {question} A:")
    item = bench.forget[23]
    assert item.prompt == "Q: What is book 3 of Bo Berg? A:"
    assert item.answer == " Book 3 of Bo Berg is T3."
    assert item.perturbed == tuple(f" Book 3 of Bo Berg is T3{x}." for x in "abcde")
    assert item.paraphrases == ("Q: Name book 3 of Bo Berg? A:",)
    assert item.meta["paraphrased_answer"] == " Book 3 of Bo Berg is called T3."
    assert [bool(q.perturbed) for q in bench.retain] == [5 <= i < 10 for i in range(40)]


def test_answers_in_a_chat_have_no_leading_blank(folder):
    bench = tofu("forget01", path=folder, template="{question}", chat=True)
    item = bench.forget[0]
    assert (item.prompt, item.answer) == ("What is book 0 of Ann Lee?", "Book 0 of Ann Lee is T0.")
    assert item.fact == tofu("forget01", path=folder).forget[0].fact == "T0"
    texts = (*item.perturbed, item.meta["paraphrased_answer"], bench.general[0].answer, *bench.general[0].perturbed)
    assert not any(t[0].isspace() for t in texts)


def test_retain_authors_keeps_whole_authors_with_perturbed_ones_first(folder):
    kept = tofu("forget01", path=folder, retain_authors=1).retain
    assert len(kept) == 20
    assert {q.subject for q in kept} == {"Cy Berg"}
    assert tofu("forget01", path=folder, retain_authors=1).retain == kept
    assert len(tofu("forget01", path=folder, retain_authors=2).retain) == 40
    with pytest.raises(InputError, match="retain_authors=3; give 1 to 2, or None for all"):
        tofu("forget01", path=folder, retain_authors=3)


def test_retained_authors_who_share_a_name_with_a_forgotten_one_are_near(folder):
    bench = tofu("forget01", path=folder)
    assert {q.subject for q in bench.forget} == {"Ann Lee", "Bo Berg"}
    assert {q.subject for q in bench.near} == {"Cy Berg"}
    assert {q.subject for q in bench.far} == {"Di Moss"}


def test_a_split_can_be_loaded_by_name(folder):
    from unpact_lens.data.load import load_benchmark

    assert load_benchmark("tofu-forget01", path=folder) == load_benchmark("tofu", split="forget01", path=folder)
    with pytest.raises(InputError, match="benchmark 'tofu-forget01' has no option 'splits'"):
        load_benchmark("tofu-forget01", splits=1)


def test_real_authors_and_world_facts_are_general(folder):
    bench = tofu("forget01", path=folder)
    assert [(q.meta["set"], q.group, q.kind) for q in bench.general] == [
        ("real_authors", "general", "entity"),
        ("world_facts", "general", "entity"),
    ]


def test_a_perturbed_row_of_another_split_is_an_error(folder):
    other = perturbed(pair("Ed Fox", 1))
    with (folder / "forget01_perturbed.jsonl").open("a") as file:
        file.write("\n" + json.dumps(other))
    with pytest.raises(InputError, match=r"forget01_perturbed, row 41: question 'What is book 1 of Ed Fox\?'"):
        tofu("forget01", path=folder)


def test_a_forget_question_without_its_perturbed_row_is_an_error(folder):
    rows = (folder / "forget01_perturbed.jsonl").read_text().split("\n")
    (folder / "forget01_perturbed.jsonl").write_text("\n".join(rows[:-2]))
    with pytest.raises(InputError, match="has no row for 2 questions of forget01, first forget01/0"):
        tofu("forget01", path=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "forget20"}, "unknown TOFU split 'forget20'; did you mean"),
        ({"template": "Answer:"}, "template 'Answer:' has no {question}"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        tofu(**options)


def test_authors_without_a_common_name_are_numbered():
    assert authors([{"question": "why?", "answer": f"since {i}"} for i in range(21)]) == ["author 0"] * 20 + [
        "author 1"
    ]


@needs_tofu
@pytest.mark.parametrize("split", RETAIN)
def test_every_real_split_loads_with_its_counts_and_its_perturbed_rows(split):
    bench = real_tofu(split)
    assert len(bench.forget) == ROWS[split]
    assert len(bench.retain) == ROWS[RETAIN[split]]
    assert len({q.id for q in bench.all_items()}) == len(bench.all_items())
    assert all(len(q.perturbed) == 5 and q.meta["paraphrased_answer"] for q in bench.forget)
    assert sum(bool(q.perturbed) for q in bench.retain) == 400
    sets = [q.meta["set"] for q in bench.general]
    assert (sets.count("real_authors"), sets.count("world_facts")) == (100, 117)
    assert all(len(q.perturbed) == 3 for q in bench.general)
    assert not {q.meta["question"] for q in bench.forget} & {q.meta["question"] for q in bench.retain}
    subjects = [q.subject for q in bench.forget]
    assert len(set(subjects)) == ROWS[split] // 20
    assert not any(s.startswith("author ") for s in subjects)


@needs_tofu
def test_a_perturbed_answer_is_close_to_the_paraphrase_it_was_made_from():
    """Compare word overlap with the own paraphrase and with that of another question."""
    items = real_tofu("forget01").forget
    words = [[set(a.lower().split()) for a in (q.meta["paraphrased_answer"], *q.perturbed)] for q in items]

    def overlap(a, b):
        return len(a & b) / len(a | b)

    own = [max(overlap(w[0], p) for p in w[1:]) for w in words]
    others = [max(overlap(w[0], p) for p in words[i - 7][1:]) for i, w in enumerate(words)]
    assert sum(a > b for a, b in zip(own, others, strict=True)) >= 38


PROBE = """
import sys
from huggingface_hub import HfApi
from unpact_lens.data.tofu import HUB, tofu
try:
    HfApi().dataset_info(HUB, timeout=10)
except Exception as error:
    print(f"{type(error).__name__}: {error}"[:200])
    sys.exit(77)
print(len(tofu("forget01").forget))
"""


@pytest.mark.slow
def test_tofu_loads_from_the_hub_if_reachable():
    """Run in a separate process, because the hub's client reads HF_HUB_OFFLINE on import and other tests set it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    if run.returncode == 77:
        pytest.skip(f"the hub cannot be reached: {run.stdout.strip()}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "40"
