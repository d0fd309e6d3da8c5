"""Scores of an evaluation equal their definitions, for each group and kind of knowledge."""

import math
from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, split_benchmark, trained
from unpact_lens.errors import InputError
from unpact_lens.evaluation import METRICS, evaluate, knowledge, known_facts, metrics, right_facts
from unpact_lens.evaluation.answers import Answers
from unpact_lens.results import load, save
from unpact_lens.stats.estimate import Rate


@pytest.fixture(scope="module")
def before():
    return evaluate(trained(), split_benchmark())


@pytest.fixture(scope="module")
def after(before):
    return evaluate(retrained(), split_benchmark(), before=before, reference=before)


def test_a_model_that_knows_every_fact_has_the_best_scores(before):
    for metric in ("fact_span", "fact_span_forced", "exact_match", "rouge_l", "rouge_l_recall", "rouge_1"):
        for group in ("forget", "near", "far", "retain"):
            assert before.mean(metric, group) == 1, (metric, group)
    assert before.mean("probability") > 0.99
    assert before.mean("degenerate") == 0


def test_a_model_against_itself_forgets_and_destroys_nothing(before):
    same = before.beside(before=before)
    assert (same.forgetting.count, same.forgetting.n) == (0, 8)
    for destruction in (same.destruction, same.destruction_trained):
        assert (destruction.value, [(part.count, part.n) for part in destruction.parts]) == (0, [(0, 4), (0, 4)])
    assert same.memorised_retention.value == 0
    assert same.perplexity == same.perplexity_before


def test_forgetting_is_counted_from_the_items(after, before):
    wrong = sum(
        before.right[i].item() and not after.right[i].item() for i, g in enumerate(after.groups) if g == "forget"
    )
    assert (after.forgetting.count, after.forgetting.n) == (wrong, 8)
    assert wrong >= 6
    assert (after.destruction_near.count, after.destruction_near.n) == (0, 4)
    assert after.destruction_general.n == 0
    assert math.isnan(after.destruction_general.value)


def test_the_table_has_every_metric_of_every_group_with_the_models_compared(after):
    frame = after.to_frame().set_index(["metric", "group"])
    row = frame.loc[("fact_span", "forget")]
    rate = after.rate("fact_span", "forget")
    assert (row["value"], row["low"], row["high"], row["n"]) == (rate.value, rate.low, rate.high, 8)
    assert row["before"] == row["reference"] == 1
    assert frame.loc[("forgetting", "forget"), "value"] == after.forgetting.value
    assert frame.loc[("perplexity", "plain text"), "value"] == after.perplexity
    assert {m for m, _ in frame.index} == {
        *(name for name, metric in METRICS.items() if metric.default),
        "forgetting",
        "destruction",
        "destruction_trained",
        "memorised_retention",
    }


def test_groups_without_items_have_no_rows_and_no_value(before):
    assert "general" not in set(before.to_frame()["group"])
    assert math.isnan(before.mean("fact_span", "general"))
    assert before.rate("fact_span", "general").n == 0


def test_kinds_partition_the_items(after):
    parts = after.by_kind()
    assert set(parts) == {"place", "trade"}
    assert sum(p.forgetting.count for p in parts.values()) == after.forgetting.count
    place = parts["place"]
    assert place.rate("fact_span", "forget") == after.rate("fact_span", "forget", kind="place")
    assert all(i.startswith("place/") for i in place.ids)
    assert "before" in place.to_frame().columns


def test_markdown_has_a_row_for_each_of_the_frame(after):
    lines = after.to_markdown().splitlines()
    assert lines[0].startswith("| metric | group | value |")
    assert len(lines) == 2 + len(after.to_frame())
    assert "nan" not in after.to_markdown()


def test_scores_are_saved_without_loss(after, tmp_path):
    save(after, tmp_path / "s")
    assert load(tmp_path / "s") == after


def test_models_may_be_given_in_place_of_scores(before, after):
    found = evaluate(retrained(), split_benchmark(), ["rouge_l"], before=trained())
    assert found.metrics == ("fact_span", "rouge_l")
    assert found.forgetting == after.forgetting
    assert math.isnan(found.perplexity)


def test_a_metric_that_is_not_binary_has_no_rate(before):
    with pytest.raises(InputError, match="'rouge_l' is a number and not right or wrong"):
        before.rate("rouge_l", "forget")


def test_bad_names_offer_the_nearest(before):
    with pytest.raises(InputError, match="unknown metric 'rouge-l'; did you mean 'rouge_l'"):
        evaluate(trained(), benchmark(), ["rouge-l"])
    with pytest.raises(InputError, match="metrics='rouge_l' is one text"):
        evaluate(trained(), benchmark(), "rouge_l")
    with pytest.raises(InputError, match="unknown group 'retian'; did you mean 'retain'"):
        before.mean("rouge_l", "retian")
    with pytest.raises(InputError, match="metric 'perplexity' was not evaluated"):
        before.of("perplexity")


def test_scores_of_other_items_are_refused(before):
    bench = benchmark()
    other = evaluate(trained(), replace(bench, name="half", forget=bench.forget[:4]), ["rouge_l"])
    with pytest.raises(InputError, match="scores of benchmark 'village' with 24 items do not fit 'half' with 20"):
        other.beside(before=before)


def test_forgetting_needs_the_original_model(before):
    with pytest.raises(InputError, match="no original model to compare with"):
        _ = before.forgetting


def test_equal_ids_are_refused():
    bench = benchmark()
    with pytest.raises(InputError, match="QA id 'place/ann' occurs twice"):
        evaluate(trained(), replace(bench, general=(replace(bench.forget[0], group="general"),)))


def test_every_metric_stays_within_its_bounds_and_is_described(after):
    table = metrics()
    assert list(table.index) == list(METRICS)
    assert table["source"].str.len().min() > 5
    for name in after.metrics:
        low, high = METRICS[name].bounds
        assert bool(((after.of(name) >= low) & (after.of(name) <= high)).all()), name


def test_forced_match_uses_only_fact_tokens_and_probability_is_a_geometric_mean():
    bench = benchmark()
    answers = Answers(
        items=bench.forget[:2],
        generated=("", ""),
        token_log_probs=(torch.tensor([0.5, 0.125]).log(), torch.tensor([0.25]).log()),
        token_right=(torch.tensor([False, True, False]), torch.tensor([True, False, True])),
        fact_tokens=((1, 2), (1, 3)),
    )
    assert METRICS["fact_span_forced"].compute(answers).tolist() == [1, 0]
    assert METRICS["probability"].compute(answers).tolist() == pytest.approx([0.25, 0.25])


def test_known_facts_keeps_the_facts_that_the_model_gives():
    bench, model = benchmark(), retrained()
    right = dict(zip([q.id for q in bench.forget], right_facts(model, bench.forget, bench=bench), strict=True))
    kept = known_facts(model, bench)
    assert [q.id for q in kept.forget] == [i for i, r in right.items() if r]
    assert [q.id for q in kept.unknown] == [i for i, r in right.items() if not r]
    assert {q.group for q in kept.unknown} == {"unknown"}
    assert kept.retain == bench.retain
    assert known_facts(trained(), bench) == bench


def test_knowledge_counts_by_group_and_relation_with_the_accuracy_of_a_guess():
    bench, model = benchmark(), retrained()
    table = knowledge(model, bench)
    assert table["asked"].sum() == len((*bench.forget, *bench.retain, *bench.general))
    right = right_facts(model, bench.forget, bench=bench)
    for kind in ("place", "trade"):
        row = table[(table["group"] == "forget") & (table["relation"] == kind)].iloc[0]
        own = [(q, r) for q, r in zip(bench.forget, right, strict=True) if q.kind == kind]
        answers = [q.answer for q, _ in own]
        assert row["known"] == sum(r for _, r in own)
        assert row["guess"] == max(map(answers.count, answers)) / len(own)
        rate = Rate(int(row["known"]), len(own))
        assert (row["low"], row["high"]) == (rate.low, rate.high)


def test_too_few_known_facts_are_refused():
    with pytest.raises(InputError, match=r"knows \d of the 8 forget facts of benchmark 'village', minimum=8"):
        known_facts(retrained(), benchmark(), minimum=8)


def test_denied_facts_are_counted_by_group_and_are_not_right(before):
    saying = replace(before, negated=torch.tensor([i < 3 for i in range(len(before.ids))]))
    assert before.denied().count == 0
    assert (saying.denied("forget").count, saying.denied("forget").n) == (3, 8)
    assert sum(part.denied().count for part in saying.by_kind().values()) == 3
    with pytest.raises(InputError, match="do not say which facts were denied; evaluate the model again"):
        replace(before, negated=before.negated[:0]).denied()
