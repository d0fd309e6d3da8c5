"""TOFU's truth ratio, forget quality and model utility equal the authors' values."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.real_tofu import needs_tofu, real_tofu
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation.published import published
from unpact_lens.evaluation.tofu import (
    TRUTH_RATIOS,
    forget_quality,
    log_truth_ratio,
    model_utility,
    option_probability,
    tofu_scores,
    truth_ratio_forget,
    truth_ratio_keep,
)
from unpact_lens.models.load import load_model
from unpact_lens.scoring import log_prob

LN = math.log

PUBLISHED = {
    "retain probability": 0.989527, "retain rouge": 0.985655, "retain truth ratio": 0.474699,
    "real_authors probability": 0.455482, "real_authors rouge": 0.933, "real_authors truth ratio": 0.596229,
    "world_facts probability": 0.418562, "world_facts rouge": 0.882479, "world_facts truth ratio": 0.539033,
}  # fmt: skip
"""The components of TOFU's finetuned Llama-2-7B, from the logs that its authors publish."""


def test_truth_ratio_is_the_geometric_mean_of_wrong_over_true():
    true = torch.tensor([LN(0.4), LN(0.1)])
    wrong = torch.tensor([[LN(0.2), LN(0.05)], [LN(0.4), LN(0.1)]])
    r = log_truth_ratio(true, wrong).exp()
    torch.testing.assert_close(r, torch.tensor([0.1 / 0.4, 0.2 / 0.1]))


def toolkits(paraphrased, perturbed):
    """Compute r as TOFU's and open-unlearning's code write it, from per-token losses."""
    return {
        "geometric": 1 / np.exp(perturbed.mean(-1) - paraphrased),  # tofu/aggregate_eval_stat.py: 1 / curr_stat_1
        "arithmetic": np.exp(-perturbed).mean(-1) / np.exp(-paraphrased),  # tofu/utils.py
        "open-unlearning": np.exp(-perturbed.mean(-1)) / (np.exp(-paraphrased) + 1e-10),
    }


@pytest.mark.parametrize("how", TRUTH_RATIOS)
def test_each_public_truth_ratio_is_that_of_its_code(how):
    generator = np.random.default_rng(0)
    for size in (1.0, 30.0):  # at losses of 30 nats, the epsilon of open-unlearning is larger than the probability
        true, wrong = size * generator.random(40), size * generator.random((40, 5))
        r = toolkits(true, wrong)[how]
        log_r = log_truth_ratio(torch.tensor(-true), torch.tensor(-wrong), how)
        np.testing.assert_allclose(log_r.exp().numpy(), r, rtol=1e-6)
        inverse = 1 / (r + 1e-10) if how == "open-unlearning" else 1 / r
        assert truth_ratio_forget(log_r, how) == pytest.approx(np.minimum(r, inverse).mean(), rel=1e-6)
        assert truth_ratio_keep(log_r) == pytest.approx(np.maximum(0, 1 - r).mean(), rel=1e-6)


def test_the_published_utility_of_tofu_is_that_of_the_geometric_definition():
    """Truth ratios of the finetuned Llama-2-7B under both definitions, from the logs that TOFU's authors publish.

    The paper prints a model utility of 0.62.
    """
    arithmetic = {"retain": 0.453867, "real_authors": 0.505160, "world_facts": 0.423055}
    changed = PUBLISHED | {f"{name} truth ratio": value for name, value in arithmetic.items()}
    assert round(model_utility(PUBLISHED), 2) == 0.62
    assert round(model_utility(changed), 2) == 0.59


def test_a_collapsed_model_has_the_ratio_0_under_the_epsilon_of_open_unlearning():
    collapsed = log_truth_ratio(torch.tensor([-400.0]), torch.tensor([[-410.0]]), "open-unlearning")
    assert collapsed.exp().item() == pytest.approx(0, abs=1e-100)
    assert log_truth_ratio(torch.tensor([-400.0]), torch.tensor([[-410.0]])).item() == -10


def test_an_unknown_truth_ratio_is_refused(model, bench):
    with pytest.raises(InputError, match="unknown truth ratio 'harmonic'"):
        tofu_scores(model, bench, truth_ratio="harmonic")
    with pytest.raises(InputError, match="the reference's scores have the geometric truth ratio, not 'arithmetic'"):
        tofu_scores(model, bench, reference=tofu_scores(model, bench), truth_ratio="arithmetic")


def test_the_published_table_says_which_truth_ratio_it_used(model, bench):
    how = published("tofu-forget10").truth_ratio
    assert how == "open-unlearning"
    assert tofu_scores(model, bench, truth_ratio=how).settings["truth_ratio"] == how


def test_truth_ratios_of_forget_and_retain_sets_have_opposite_directions():
    log_r = torch.tensor([0.25, 2.0, 1.0]).log()
    assert truth_ratio_forget(log_r) == pytest.approx((0.25 + 0.5 + 1) / 3)
    assert truth_ratio_keep(log_r) == pytest.approx((0.75 + 0 + 0) / 3)


def test_very_small_probabilities_still_give_a_ratio():
    """r itself would be 0/0 or infinite here."""
    log_r = log_truth_ratio(torch.tensor([-2000.0, -1.0]), torch.tensor([[-1.0], [-2000.0]]))
    assert truth_ratio_forget(log_r) == 0.0
    assert truth_ratio_keep(log_r) == pytest.approx(0.5)


def test_forget_quality_does_not_change_under_a_monotone_map():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, generator=generator), torch.randn(60, generator=generator) + 0.5
    assert forget_quality(a, b).log10_p == forget_quality(a.exp(), b.exp()).log10_p == forget_quality(-a, -b).log10_p


def test_option_probabilities_sum_to_one():
    p = option_probability(torch.tensor([LN(0.2)]), torch.tensor([[LN(0.1), LN(0.1)]]))
    torch.testing.assert_close(p, torch.tensor([0.5], dtype=torch.double))


def test_model_utility_of_the_published_components_is_the_published_value():
    """The authors' own aggregation of their logs gives 0.62268; the paper prints 0.62."""
    assert model_utility(PUBLISHED) == pytest.approx(0.622677, abs=1e-6)


def test_model_utility_is_the_harmonic_mean_and_zero_if_one_is():
    assert model_utility([0.5] * 8 + [0.25]) == pytest.approx(9 / (8 / 0.5 + 1 / 0.25))
    assert model_utility([0.5] * 8 + [0.0]) == 0.0


@pytest.mark.parametrize(
    ("components", "message"), [([0.5] * 8, "has nine components, got 8"), ([0.5] * 8 + [1.1], "is 1.1; it should lie")]
)
def test_errors_name_bad_components(components, message):
    with pytest.raises(InputError, match=message):
        model_utility(components)


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("llama").double(), tokenizer=tokenizer(), dtype=torch.float64)


def item(i, group="forget", **meta):
    return QA(
        prompt=f"who wrote Hamlet {i}?", answer=" Japan", id=f"{group}/{i}/{meta.get('set')}", group=group,
        perturbed=(" gold", " small boats"), meta={"paraphrased_answer": " Tokyo is", **meta},
    )  # fmt: skip


@pytest.fixture
def bench():
    return Benchmark(
        name="t",
        forget=tuple(item(i) for i in range(5)),
        retain=(item(1, "near"), item(2, "far"), QA("no wrong", " answers", group="far")),
        general=(item(1, "general", set="real_authors"), item(1, "general", set="world_facts")),
        max_new_tokens=3,
    )


def test_every_number_is_recomputed_from_single_answers(model, bench):
    scores = tofu_scores(model, bench)
    assert scores.sets == ("forget",) * 5 + ("retain",) * 2 + ("real_authors", "world_facts")
    items = (*bench.forget, *bench.retain[:2], *bench.general)
    for i, q in enumerate(items):
        lp = {text: float(log_prob(model, q.prompt, text)) for text in (q.answer, " Tokyo is", *q.perturbed)}
        log_r = (lp[" gold"] + lp[" small boats"]) / 2 - lp[" Tokyo is"]
        assert float(scores.log_ratio[i]) == pytest.approx(log_r, abs=1e-9)
        own = math.exp(lp[q.answer])
        options = own + sum(math.exp(lp[w]) for w in q.perturbed)
        assert float(scores.probability[i]) == pytest.approx(own / options if i >= 7 else own, abs=1e-9)
    assert len(scores.components) == 9
    # ROUGE of a random model is 0, and so is the harmonic mean.
    assert scores.model_utility == 0.0


def test_a_model_does_not_differ_from_itself(model, bench):
    scores = tofu_scores(model, bench, reference=model)
    assert scores.forget_quality.p == 1.0
    assert scores.forget_quality.n == (5, 5)
    again = tofu_scores(model, bench, reference=tofu_scores(model, bench))
    assert again == scores


def test_a_limit_takes_questions_evenly_and_a_missing_set_leaves_utility_undefined(model, bench):
    scores = tofu_scores(model, replace(bench, general=()), limit=2)
    assert scores.ids == ("forget/0/None", "forget/3/None", "near/1/None", "far/2/None")
    assert math.isnan(scores.model_utility)
    assert scores.to_frame().set_index(["metric", "set"]).loc[("truth ratio", "forget"), "n"] == 2


def test_results_are_saved_without_loss(model, bench, tmp_path):
    from unpact_lens.results import load

    scores = tofu_scores(model, bench, reference=model)
    assert load(scores.save(tmp_path / "s")) == scores


def test_errors_name_what_is_missing(model, bench):
    with pytest.raises(InputError, match="no question of benchmark 'plain' has `perturbed` answers"):
        tofu_scores(model, Benchmark("plain", (QA("a", " b"),), ()))
    with pytest.raises(InputError, match="give one as reference="):
        _ = tofu_scores(model, bench).forget_quality
    with pytest.raises(InputError, match="the reference's scores are of other questions"):
        tofu_scores(model, bench, limit=1, reference=tofu_scores(model, bench))
    with pytest.raises(InputError, match="limit=0"):
        tofu_scores(model, bench, limit=0)


@pytest.mark.slow
@pytest.mark.smollm2
@needs_tofu
def test_a_real_model_knows_world_facts_and_no_fictitious_author():
    """SmolLM2 never saw TOFU: its truth ratio tells what it learned in pretraining from what it cannot know."""
    bench = real_tofu("forget01", template="{question}", chat=True)
    facts = tuple(q for q in bench.general if q.meta["set"] == "world_facts")
    bench = replace(bench, general=facts, max_new_tokens=16)
    scores = tofu_scores(load_model("smollm2", wrap="bridge"), bench, limit=10)
    parts = scores.components
    assert parts["world_facts truth ratio"] > parts["retain truth ratio"] + 0.2
    assert parts["world_facts probability"] > 0.3  # four options: 0.25 by chance
    forget = [r for r, name in zip(scores.log_ratio.tolist(), scores.sets, strict=True) if name == "forget"]
    assert truth_ratio_forget(torch.tensor(forget)) > 0.6
