"""More attention equals log gain added to the scores, on the right positions; gain 1 changes nothing."""

import pytest
import torch

from tests.conftest import tiny
from tests.evaluation.world import benchmark, trained
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import ask
from unpact_lens.models.hooked import logits_at
from unpact_lens.models.tokens import encode_context
from unpact_lens.recovery.probes.attention import attend_to, attention_hooks, scale_attention, word_positions


def test_scaling_attention_equals_adding_log_gain_to_the_scores():
    scores = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    key = torch.tensor([[True, False, True, False, False], [False, True, False, False, False]])
    expected = (scores + torch.where(key, torch.tensor(4.0).log(), 0.0)[:, None, None]).softmax(-1)
    torch.testing.assert_close(scale_attention(scores.softmax(-1), key, 4.0), expected, atol=1e-7, rtol=0)


def test_gain_1_changes_no_logit_and_gain_4_does(style):
    model = tiny(style)
    tokens, last = torch.arange(8)[None], torch.tensor([[7]])
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, [1, 2]] = True
    plain = logits_at(model, tokens, last)
    torch.testing.assert_close(logits_at(model, tokens, last, attention_hooks(model, mask, 1.0)), plain)
    assert (logits_at(model, tokens, last, attention_hooks(model, mask, 4.0)) - plain).abs().max() > 1e-3


def test_positions_belong_to_the_words():
    model, qa = trained(), benchmark().forget[0]
    example = encode_context(model, qa.prompt)
    words = qa.prompt.rstrip("?.").split()[-1:]
    found = [example.context[p] for p in word_positions(model, qa.prompt, example, words)]
    assert words[0] in model.tokenizer.decode(found)
    assert word_positions(model, qa.prompt, example, []) == ()


def test_answers_at_a_gain_next_to_1_equal_those_of_the_cached_generator():
    bench = benchmark()
    items = bench.forget[:4]
    said = attend_to(trained(), items, [q.prompt.split()[:2] for q in items], bench=bench, gain=1 + 1e-9)
    assert said == ask(trained(), [q.prompt for q in items], [""] * 4, bench=bench)


def test_bad_input_is_named():
    bench = benchmark()
    with pytest.raises(InputError, match=r"gain=0\.0; give a positive number"):
        attend_to(trained(), bench.forget[:1], [[]], bench=bench, gain=0.0)
    with pytest.raises(InputError, match=r"gain=1\.0; give a positive number other than 1, which changes nothing"):
        attend_to(trained(), bench.forget[:1], [["where"]], bench=bench, gain=1.0)
    with pytest.raises(InputError, match=r"attend_to would change nothing: no prompt holds its words.*\['sea'\]"):
        attend_to(trained(), bench.forget[:1], [["sea"]], bench=bench)
    with pytest.raises(InputError, match="1 lists of words for 2 questions"):
        attend_to(trained(), bench.forget[:2], [[]], bench=bench)
