"""The lens reads out each block at the position before the fact. After the last block, it is the model's output."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained
from unpact_lens.attribution import TopK
from unpact_lens.decomposition import lens_curves
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import answer_all
from unpact_lens.recovery import recover
from unpact_lens.recovery.probes.logit_lens import lens_ranks, read_out_early, token_rank

BENCH = benchmark()


@pytest.mark.parametrize("model", [trained, retrained])
def test_the_rank_after_the_last_block_is_the_models_own(model):
    answers = answer_all(model(), BENCH.forget, bench=BENCH)
    own = [bool(right[start]) for right, (start, _) in zip(answers.token_right, answers.fact_tokens, strict=True)]
    assert (lens_ranks(model(), BENCH.forget, bench=BENCH)[:, -1] == 1).tolist() == own


def test_ranks_equal_those_of_lens_curves():
    ranks = lens_ranks(retrained(), BENCH.forget, bench=BENCH)
    for qa, own in zip(BENCH.forget, ranks, strict=True):
        curves = lens_curves(retrained(), qa.prompt, qa.answer)
        first = len(qa.answer_prefix.split())  # a token a word
        assert torch.equal(curves.rank[1:, first] + 1, own)


def test_the_rank_counts_more_likely_tokens():
    logits = torch.tensor([[0.1, 3.0, 2.0], [5.0, 4.0, 4.0]])
    assert token_rank(logits, torch.tensor([2, 2])).tolist() == [2, 2]


def test_ranks_of_tokens_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"tokens \[0, 4\]; the vocabulary has the tokens 0 to -1"):
        token_rank(torch.zeros(2, 0), torch.tensor([0, 4]))
    with pytest.raises(InputError, match=r"logits of shape \(2, 5\) for \(3,\) tokens"):
        token_rank(torch.zeros(2, 5), torch.tensor([0, 1, 2]))


def test_only_blocks_before_the_last_count():
    ranks = torch.tensor([[4, 1, 9], [4, 2, 1], [1, 7, 1]])
    assert read_out_early(ranks).tolist() == [True, False, True]


def test_bad_input_is_named():
    with pytest.raises(InputError, match="no questions; give the facts"):
        lens_ranks(trained(), (), bench=BENCH)


def test_the_control_row_reads_after_the_prompt_about_the_wrong_subject():
    found = recover(retrained(), BENCH, before=trained(), probes=["logit_lens"], rule=TopK(2), progress=False)
    items = [replace(q, prompt=q.wrong_subject) for q in BENCH.forget]
    right = read_out_early(lens_ranks(retrained(), items, bench=BENCH))
    plain, control = (found.probes.index(name) for name in ("logit_lens", "wrong_subject:logit_lens"))
    assert torch.equal(found.right_after[control], right)
    counted = found.common & found.asked[control]
    expected = float((found.right_after[plain][counted].double() - right[counted].double()).mean())
    assert found.excess("logit_lens").value == pytest.approx(expected)
