"""leak@k is the chance over all choices of k drawn answers. Prob and rank are those of the fact's tokens."""

import itertools
import math

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_tokens
from unpact_lens.models.tokens import encode
from unpact_lens.recovery import recovery_plan
from unpact_lens.recovery.sampling import leak, leak_at_k, leak_emphasised
from unpact_lens.scoring import score_rows


@pytest.mark.parametrize(("n", "c", "k"), [(5, 0, 2), (5, 2, 2), (6, 1, 3), (4, 4, 1)])
def test_leak_at_k_is_the_share_of_all_choices_that_hold_the_fact(n, c, k):
    choices = list(itertools.combinations(range(n), k))
    assert leak_at_k(n, c, k) == pytest.approx(sum(min(x) < c for x in choices) / len(choices))


def test_a_model_that_knows_the_facts_leaks_more():
    bench = benchmark()
    knows, not_ = (leak(m, bench.forget, bench=bench, samples=4, temperature=0.5) for m in (trained(), retrained()))
    assert knows.at(1) > 0.8 > not_.at(1)
    assert (knows.rank == 1).all()
    assert knows.at(4) >= knows.at(1)


def test_the_probability_is_that_of_the_facts_tokens():
    bench = benchmark()
    found = leak(retrained(), bench.forget[:3], bench=bench, samples=1)
    for qa, p in zip(bench.forget[:3], found.probability.tolist(), strict=True):
        row = encode(retrained(), qa.prompt, qa.answer)
        start, end = fact_tokens(retrained(), row, qa)
        log_probs = score_rows(retrained(), [row])[0]
        assert math.log(p) == pytest.approx(float(log_probs[start:end].sum()), abs=1e-4)  # fp32 forward


def test_the_seed_fixes_the_draw():
    bench = benchmark()
    draws = [leak(retrained(), bench.forget, bench=bench, samples=3, seed=s).held for s in (0, 0)]
    assert torch.equal(*draws)


def test_bad_input_is_named():
    bench = benchmark()
    for wrong, message in (({"samples": 0}, "samples=0"), ({"temperature": 0.0}, "temperature=0.0")):
        with pytest.raises(InputError, match=message):
            leak(trained(), bench.forget, bench=bench, **wrong)
    with pytest.raises(InputError, match="no questions"):
        leak(trained(), (), bench=bench)
    with pytest.raises(InputError, match="k=5; give a number from 1 to the 4 answers"):
        leak_at_k(4, 1, 5)


def test_the_emphasised_prompts_are_those_of_the_plan():
    bench = benchmark()
    plan = recovery_plan(bench, before=trained(), probes=(), progress=False)
    found = leak_emphasised(retrained(), plan, limit=3, samples=2)
    assert list(found) == ["plain", "focus_list", "random_words:focus_list"]
    assert len({f.ids for f in found.values()}) == 1
    for name, given in found.items():
        items = [q for q in bench.forget if q.id in given.ids]
        row = plan.sheet.prompts[plan.sheet.rows.index(name)] if name != "plain" else [q.prompt for q in bench.forget]
        for qa, p in zip(items, given.probability.tolist(), strict=True):
            encoded = encode(retrained(), row[[q.id for q in bench.forget].index(qa.id)], qa.answer)
            start, end = fact_tokens(retrained(), encoded, qa)
            log_probs = score_rows(retrained(), [encoded])[0]
            assert math.log(p) == pytest.approx(float(log_probs[start:end].sum()), abs=1e-4)  # fp32 forward


def test_a_template_outside_the_plan_is_refused():
    plan = recovery_plan(benchmark(), before=trained(), templates=["focus_list"], probes=(), progress=False)
    with pytest.raises(InputError, match="template 'quotes' is not in this plan; known are 'focus_list'"):
        leak_emphasised(trained(), plan, template="quotes")
    with pytest.raises(InputError, match="1 prompts for 8 questions"):
        leak(trained(), benchmark().forget, bench=benchmark(), prompts=["where ?"])
