"""Load WMDP with the prompts of its paper."""

import dataclasses

import pandas as pd
import pytest

from unpact_lens.data.load import load_benchmark
from unpact_lens.data.wmdp import wmdp
from unpact_lens.errors import InputError
from unpact_lens.unlearning.run_data import sources


def write(folder, domain="bio", answer=2):
    (folder / f"wmdp-{domain}").mkdir()
    rows = [{"question": " Which one? ", "choices": ["w", "x", "y", "z"], "answer": answer}]
    pd.DataFrame(rows).to_parquet(folder / f"wmdp-{domain}" / "test-00000-of-00001.parquet")
    return folder


def test_a_prompt_lists_the_options_and_the_answer_is_a_letter(tmp_path):
    item = load_benchmark("wmdp-bio", path=write(tmp_path)).forget[0]
    assert item.prompt == (
        "The following are multiple choice questions (with answers) about biology.\n\n"
        "Which one?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    assert (item.answer, item.choices, item.kind) == (" C", (" A", " B", " C", " D"), "biology")


def test_the_wrong_subject_has_the_same_options_under_another_question(tmp_path):
    (tmp_path / "wmdp-bio").mkdir()
    rows = [{"question": q, "choices": [q, "x", "y", "z"], "answer": 0} for q in ("What?", "Who?")]
    pd.DataFrame(rows).to_parquet(tmp_path / "wmdp-bio" / "test-00000-of-00001.parquet")
    first, second = wmdp("bio", path=tmp_path).forget
    assert first.wrong_subject == first.prompt.replace("\n\nWhat?\n", "\n\nWho?\n")
    assert second.wrong_subject == second.prompt.replace("\n\nWho?\n", "\n\nWhat?\n")


def test_corpora_found_in_the_directory_are_loaded(tmp_path):
    assert wmdp("bio", path=write(tmp_path)).forget_corpus is None
    (tmp_path / "bio-retain-corpus.jsonl").write_text('{"text": "plain"}')
    bench = wmdp("bio", path=tmp_path)
    assert bench.forget_corpus is None
    assert bench.retain_corpus.texts == ("plain",)
    with pytest.raises(InputError, match=r"no table for cais/wmdp-bio-forget-corpus \(bio-forget-corpus, train\)"):
        wmdp("bio", path=tmp_path, corpora=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "physics"}, "unknown WMDP domain 'physics'"),
        ({"domain": "chem", "corpora": True}, "WMDP has no corpora for 'chem', only for 'bio', 'cyber'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        wmdp(**options)


def test_an_answer_outside_the_choices_is_an_error(tmp_path):
    with pytest.raises(InputError, match="wmdp-bio, row 1: column 'answer' is 4"):
        wmdp("bio", path=write(tmp_path, answer=4))


def test_unlearning_reads_the_corpora_and_refuses_to_train_on_the_questions_unasked(tmp_path):
    write(tmp_path)
    for part in ("forget", "retain"):
        (tmp_path / f"bio-{part}-corpus.jsonl").write_text(f'{{"text": "{part} text"}}')
    bench = wmdp("bio", path=tmp_path)
    data = sources(bench, None)
    assert (data.forget.texts, data.retain.texts) == (("forget text",), ("retain text",))
    assert data.facts == bench.forget
    with pytest.raises(InputError, match=r"is unlearned from its corpus, which is not loaded; .*bench\.forget"):
        sources(dataclasses.replace(bench, forget_corpus=None), None)
