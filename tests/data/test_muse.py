"""Load MUSE's tables into the fields that metrics and methods read."""

import json

import pytest
import torch

from tests.models.families import tokenizer
from tests.unlearning.conftest import untrained
from unpact_lens.data.load import load_benchmark
from unpact_lens.data.muse import muse
from unpact_lens.errors import InputError
from unpact_lens.unlearning.registry import find
from unpact_lens.unlearning.request import Request
from unpact_lens.unlearning.run_data import sources
from unpact_lens.unlearning.settings import Settings


@pytest.fixture
def folder(tmp_path):
    def qa(split, n):
        return [{"question": f"When was {split} {i}?", "answer": f"In 190{i}"} for i in range(n)]

    tables = {
        "knowmem/forget_qa": qa("f", 3),
        "knowmem/retain_qa": qa("r", 2),
        "knowmem/forget_qa_icl": qa("fi", 1),
        "knowmem/retain_qa_icl": qa("ri", 1),
        "verbmem/forget": [{"prompt": "Once upon", "gt": " a time"}],
        **{f"{c}/{s}": [{"text": f"{c} {s}"}] for c, s in [
            ("raw", "forget"), ("raw", "retain1"), ("raw", "retain2"), ("privleak", "forget"), ("privleak", "holdout"),
            ("scal", "forget_2"), ("sust", "forget_3"),
        ]},
    }  # fmt: skip
    for name, rows in tables.items():
        file = tmp_path / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(rows))
    return tmp_path


def test_each_table_fills_its_field_of_the_benchmark(folder):
    bench = load_benchmark("muse-news", path=folder)
    assert [q.prompt for q in bench.forget][:1] == ["Question: When was f 0?\nAnswer:"]
    assert sorted(q.answer for q in bench.kept) == [" In 1900", " In 1901"]
    assert bench.few_shot["far"] == "Question: When was ri 0?\nAnswer: In 1900\n\n"
    assert (bench.verbatim[0].prompt, bench.verbatim[0].answer, bench.verbatim[0].kind) == (
        "Once upon", " a time", "verbatim",
    )  # fmt: skip
    assert {q.kind for q in bench.forget} == {"date"}
    corpora = (bench.forget_corpus, bench.retain_corpus, bench.plain_text, bench.members, bench.holdout)
    assert [c.texts[0] for c in corpora] == [
        "raw forget", "raw retain1", "raw retain2", "privleak forget", "privleak holdout",
    ]  # fmt: skip


@pytest.mark.parametrize(("split", "text"), [("scal_2", "scal forget_2"), ("sust_3", "sust forget_3")])
def test_scalability_and_sustainability_change_the_forget_corpus_only(folder, split, text):
    bench = muse("news", split=split, path=folder)
    assert bench.forget_corpus.texts == (text,)
    assert bench.name == f"muse-news-{split}"
    assert bench.forget == muse("news", path=folder).forget


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": "films"}, "unknown MUSE corpus 'films'; known are 'books', 'news'"),
        ({"split": "scal_5"}, "unknown MUSE split 'scal_5'; did you mean"),
        ({"corpus": "books", "split": "sust_1"}, "MUSE-Books has no split 'sust_1'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        muse(**options)


def test_a_passage_without_its_continuation_is_an_error(folder):
    (folder / "verbmem" / "forget.json").write_text('[{"prompt": "Once"}]')
    with pytest.raises(InputError, match=r"forget.json, row 1: column 'gt' is absent; the row has prompt"):
        muse("news", path=folder)


@pytest.mark.hooked
def test_unlearning_trains_on_the_corpora_and_on_no_evaluation_question(folder):
    model = untrained("gpt2", dtype=torch.float32, n_ctx=64, d_vocab=320)
    model.tokenizer = tokenizer()
    bench = load_benchmark("muse-news", path=folder)
    data = sources(bench, None)
    assert (data.forget, data.retain) == (bench.forget_corpus, bench.retain_corpus)
    told = Request(find("ga_gdr"), model, data.forget, data.retain, Settings(), {}, 0).job(None)
    trained = [
        "".join(model.tokenizer.decode([*r.prompt, *r.answer]) for r in part.rows) for part in (told[0].data, told[1])
    ]
    assert "aw forget" in trained[0]  # the first token of a text is not predicted
    assert "aw retain1" in trained[1]
    assert not any("When was" in text or "Once upon" in text for text in trained)
    assert data.facts == bench.forget
