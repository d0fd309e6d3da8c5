"""MUSE's verbmem and knowmem score generated texts as MUSE does."""

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from tests.models.families import hf_model, tokenizer
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation.muse import knowmem, muse_prompt, muse_rouge, verbmem
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.load import load_model


def test_muse_scores_f1_without_stemming():
    gold, generated = "the boats sailed at noon", "the boat sailed at night"
    assert muse_rouge(generated, gold) == RougeScorer(["rougeL"], use_stemmer=False).score(gold, generated)["rougeL"][2]
    assert muse_rouge(generated, gold) == pytest.approx(0.6)


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("llama"), tokenizer=tokenizer())


def bench_for(model):
    prompts = ["who wrote Hamlet?", "gold has the symbol"]
    said = generate_answers(model, prompts, max_new_tokens=6, stop=())
    return Benchmark(
        name="m",
        forget=(QA(" Hamlet? gold", " Au", id="f"),),
        retain=(QA(" Hamlet? boats", " sea", id="r", group="far"),),
        verbatim=(
            QA(prompts[0], said[0] + " and more that is never compared", kind="verbatim", id="known"),
            QA(prompts[1], " zz qq", kind="verbatim", id="unknown"),
        ),
        few_shot={"forget": "seven small boats"},
    )


def test_recited_passages_score_100_and_others_0(model):
    bench = bench_for(model)
    result = verbmem(model, bench, max_new_tokens=6)
    expected = [muse_rouge(g, t) for g, t in zip(result.generated, result.gold, strict=True)]
    torch.testing.assert_close(result.scores, torch.tensor(expected, dtype=torch.double))
    assert "never compared" not in result.gold[0]
    assert result.value() == pytest.approx(100 * sum(expected) / 2)


def test_solved_examples_precede_the_questions_of_their_group(model):
    result = knowmem(model, bench_for(model), max_new_tokens=4)
    stops = ("\n\n", "\nQuestion", "Question:")
    alone = generate_answers(model, ["seven small boats Hamlet? gold", " Hamlet? boats"], max_new_tokens=4, stop=stops)
    assert result.generated == tuple(alone)
    assert result.groups == ("forget", "far")


def muse_knowmem_prompt(question, icl):
    """Write a prompt as MUSE's `metrics/knowmem.py` does."""
    general_prompt = ""
    for q, a in icl:
        general_prompt += f"Question: {q}\nAnswer: {a}\n\n"
    return general_prompt + f"Question: {question}\nAnswer: "


def test_the_prompt_of_knowmem_is_muse_s_own(tmp_path):
    qa = QA("Question: Who wrote Hamlet?\nAnswer:", " Shakespeare", id="f")
    icl = [("Who painted Guernica?", "Picasso"), ("What is Au?", "gold")]
    solved = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in icl)
    bench = Benchmark("m", (qa,), (), few_shot={"forget": solved})
    assert muse_prompt(bench, qa) == muse_knowmem_prompt("Who wrote Hamlet?", icl)
    assert muse_prompt(bench, QA("Where is Oslo", " Norway", group="far")) == "Where is Oslo"


@pytest.mark.parametrize("prepends_bos", [False, True])
def test_the_passage_is_cut_as_muse_cuts_it(prepends_bos):
    """MUSE counts the tokens that the tokenizer adds: with a BOS, one token of the passage less is compared."""
    own = tokenizer(prepends_bos)
    passage = " gold has the symbol Au who wrote Hamlet"
    bench = Benchmark("m", (), (), verbatim=(QA("seven small boats", passage, kind="verbatim", id="p"),))
    result = verbmem(load_model(hf_model("llama"), tokenizer=own), bench, max_new_tokens=5)
    gt_ids = own(passage, return_tensors="pt", add_special_tokens=True).input_ids[:, :5]
    assert result.gold[0] == own.batch_decode(gt_ids, skip_special_tokens=True)[0]
    assert len(own(result.gold[0], add_special_tokens=False)["input_ids"]) == 5 - prepends_bos


def test_texts_in_other_scripts_are_scored():
    assert muse_rouge("Осло — столица", "Осло — столица") == 1


def test_a_benchmark_without_passages_is_refused(model):
    with pytest.raises(InputError, match="benchmark 'b' has no `verbatim` passages"):
        verbmem(model, Benchmark("b", (), ()))
