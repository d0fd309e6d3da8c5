"""An average over questions has the means of the single results, and parts that sum."""

import math
from dataclasses import replace

import pytest
import torch

from tests.comparison.models import moved, pair
from tests.conftest import tiny
from tests.models.families import tokenizer
from unpact_lens.attribution import TopK, attribute
from unpact_lens.comparison import (
    average,
    diff,
    diff_many,
    focus,
    graft_many,
    graft_map,
    key_path,
    key_path_many,
    patch,
    patch_many,
    split_heads,
)
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.decomposition import decompose
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

ITEMS = [([3, 1, 4], [9, 2]), ([5, 6, 7, 8], [1]), ([2, 2], [3, 4, 5])]


def average_diff(before, after, items=ITEMS, *, level=0.95, resamples=10, seed=0, **options):
    options = {"contributions": False, "weights": False, **options}
    found = (diff(before, after, *item, **options) for item in items)
    return average(found, level=level, resamples=resamples, seed=seed)


def test_means_are_those_of_single_diffs_and_sum(style):
    before, after = pair(style)
    found = average_diff(before, after, resamples=50)
    singles = [diff(before, after, *item, contributions=False, weights=False) for item in ITEMS]
    mean = torch.stack([d.delta_log_prob.mean() for d in singles]).mean()
    assert found.scalars["log_prob"][0].item() == pytest.approx(mean.item(), abs=1e-10)
    logit = found.scalars["logit"][0].item()
    assert found.components[:, 0].sum().item() == pytest.approx(logit, abs=1e-10)
    assert logit - found.scalars["logsumexp"][0].item() == pytest.approx(mean.item(), abs=1e-10)
    head = torch.stack([d.delta_heads[1, 2].mean() for d in singles]).mean()
    assert found.heads[1, 2, 0].item() == pytest.approx(head.item(), abs=1e-10)
    low, high = found.heads[1, 2, 1:3].tolist()
    assert low <= head.item() <= high
    assert found.heads[1, 2, 3] == 3


def test_equal_models_are_at_zero_and_the_noise_baseline_is_averaged_too():
    model = tiny()
    same = average_diff(model, clone(model))
    assert not same.components.isnan().any()
    assert not same.components[:, :3].any()
    found = average_diff(model, moved(model), floor=(model, moved(model, size=0.01)))
    assert found.floor == average_diff(model, moved(model, size=0.01))
    assert found.above_floor().median() > 3
    assert "floor" in found.to_frame()
    with pytest.raises(InputError, match="no noise baseline"):
        same.above_floor()


def test_splits_activations_and_focus_are_averaged_too():
    before, after = pair("llama", n_layers=2)
    floor = (before, moved(before, size=0.01))
    asked = {"split": True, "pattern_parts": True, "activations": True, "contributions": True}
    found = average_diff(before, after, resamples=20, floor=floor, **asked)
    singles = [diff(before, after, *item, activations=True) for item in ITEMS]
    splits = [split_heads(before, after, *item, pattern_parts=True) for item in ITEMS]

    assert found.players == ("pattern", "input", "ov", "readout", "qk_weights", "qk_input")
    torch.testing.assert_close(found.split[:4, ..., 0].sum(0), found.heads[..., 0], atol=1e-10, rtol=0)
    torch.testing.assert_close(found.split[4:, ..., 0].sum(0), found.split[0, ..., 0], atol=1e-10, rtol=0)
    mean = torch.stack([s.values[2].mean(-1) for s in splits]).mean(0)
    torch.testing.assert_close(found.split[2, ..., 0], mean, atol=1e-10, rtol=0)

    relative = torch.stack([d.activations.relative.nanmean(1) for d in singles]).mean(0)
    torch.testing.assert_close(found.activations["relative"][:, 0], relative, atol=1e-10, rtol=0)
    cka = torch.stack([d.activations.cka for d in singles])
    torch.testing.assert_close(found.activations["cka"][:, 0], cka.nanmean(0), atol=1e-10, rtol=0)
    for k, name in enumerate(("kl_prompt", "kl_answer")):
        # The last position of the prompt already predicts the answer.
        cuts = [len(prompt) - 1 for prompt, _ in ITEMS]
        kl = [(d.activations.kl[:c], d.activations.kl[c:])[k].mean() for d, c in zip(singles, cuts, strict=True)]
        assert found.scalars[name][0].item() == pytest.approx(torch.stack(kl).mean().item(), abs=1e-10)

    sides = [
        [replace(getattr(d, f"contributions_{side}"), id=str(i)) for i, d in enumerate(singles)]
        for side in ("before", "after")
    ]
    assert found.focus == focus(*sides, resamples=20)
    assert found.floor == average_diff(*floor, resamples=20, **asked)
    for frame in (found.split_frame(), found.activations_frame(), found.heads_frame()):
        assert frame["floor"].abs().mean() > 0
    for what in ("components", "split", "activations", "focus"):
        assert found.plot(what=what).data
    with pytest.raises(InputError, match=r"what='splits'; did you mean 'split'"):
        found.plot(what="splits")


def test_a_stream_is_read_once_one_item_at_a_time():
    before, after = pair()
    read, measured = [], []

    def stream():
        for item in ITEMS:
            assert len(measured) == len(read)
            read.append(item)
            yield item
            measured.append(item)

    assert average_diff(before, after, stream()) == average_diff(before, after)
    assert read == ITEMS


def test_an_average_names_the_option_for_a_missing_part():
    found = average_diff(*pair(), ITEMS[:1])
    with pytest.raises(InputError, match=r"not split; average diff\(..., split=True\)"):
        found.split_frame()
    with pytest.raises(InputError, match="no activations"):
        found.activations_frame()
    with pytest.raises(InputError, match=r"no focus; average diff\(..., contributions=True\)"):
        found.plot(what="focus")
    with pytest.raises(InputError, match="floor= takes a pair of models"):
        average_diff(*pair(), floor=pair()[:1])


def test_averages_are_saved_and_reproducible(tmp_path):
    found = average_diff(*pair(), resamples=20, seed=3)
    assert load(save(found, tmp_path / "s")) == found
    assert found == average_diff(*pair(), resamples=20, seed=3)
    assert found.heads_frame()["head"][5] == "L1H1"
    one = average_diff(*pair(), ITEMS[:1], resamples=20)
    assert math.isnan(one.scalars["logit"][1])


def test_decompositions_are_averaged_and_sum_to_the_logit(tmp_path):
    model, _ = pair("llama")
    for by in ("component", "head"):
        singles = [decompose(model, *item, by=by) for item in ITEMS]
        found = average(iter(singles), resamples=20)
        mean = torch.stack([d.values.mean(-1) for d in singles]).mean(0)
        torch.testing.assert_close(found.values[..., 0], mean, atol=1e-10, rtol=0)
        parts = found.values[..., 0].sum() + found.remainder[:, 0].sum()
        assert parts.item() == pytest.approx(found.total[0].item(), abs=1e-10)
        assert found.to_frame()["mean"].sum() == pytest.approx(found.total[0].item(), abs=1e-10)
        assert load(save(found, tmp_path / by)) == found
        assert f"logit {found.total[0]:+.2f}" in found.plot().layout.title.subtitle.text.replace("<br>", " ")
    with pytest.raises(InputError, match="by='source' goes by position"):
        average(decompose(model, *item, by="source") for item in ITEMS)
    neurons = average(decompose(model, *item, by="neuron") for item in ITEMS)
    assert neurons.values.shape == (3, 48, 4)
    with pytest.raises(InputError, match="no figure of an average by='neuron'"):
        neurons.plot()


QAS = (
    QA("abc", "de", id="q1", subject="Ann"),
    QA("fgh", "i", id="q2", subject="Ann"),
    QA("jk", "lm", id="q3", subject="Bob"),
)


@pytest.fixture
def readers():
    before = tiny("llama", d_vocab=320, n_layers=2)
    before.tokenizer = tokenizer()
    return before, moved(before)


def test_a_qa_stands_for_prompt_and_answer_and_gives_its_id_and_subject(readers):
    qa = QAS[0]
    for measure in (diff, patch, graft_map, key_path):
        options = {"what": "head"} if measure is patch else {}
        found, plain = measure(*readers, qa, **options), measure(*readers, qa.prompt, qa.answer, **options)
        assert (found.id, found.subject) == ("q1", "Ann")
        assert (plain.id, plain.subject) == ("", "")
        assert found.to_frame().equals(plain.to_frame())
    found = diff(*readers, qa)
    assert (found.contributions_before.id, found.contributions_before.subject) == ("q1", "Ann")
    with pytest.raises(InputError, match="QA 'q1' holds its own answer; leave out answer='x'"):
        diff(*readers, qa, "x")
    with pytest.raises(InputError, match="no answer to the prompt 'abc'; pass prompt and answer, or a QA"):
        diff(*readers, "abc")


def test_intervals_draw_whole_subjects(readers):
    found = average((diff(*readers, qa, contributions=False, weights=False) for qa in QAS), resamples=200)
    values = found.items[:, 0].double()
    # Every resample is Ann twice, Bob twice, or each once.
    ends = sorted([values[:2].mean().item(), values[2].item()])
    assert found.scalars["log_prob"][1:3].tolist() == pytest.approx(ends)
    assert found.ids == ("q1", "q2", "q3")


def test_former_calls_give_the_same_averages(readers):
    floor = (readers[0], moved(readers[0], size=0.01))
    draw = {"resamples": 20, "seed": 1}
    plain = {"contributions": True, "weights": False, "split": True, "activations": True, "floor": floor}
    kept = {k: v for k, v in plain.items() if k != "weights"}
    assert average((diff(*readers, q, **plain) for q in QAS), **draw) == diff_many(*readers, QAS, **kept, **draw)
    patched = average((patch(*readers, q, what="head", floor=floor) for q in QAS), **draw)
    assert patched == patch_many(*readers, QAS, floor=floor, **draw)
    paths = average((key_path(*readers, q, keys=TopK(1), draws=2, seed=1, floor=floor) for q in QAS), **draw)
    assert paths == key_path_many(*readers, QAS, keys=TopK(1), draws=2, floor=floor, **draw)
    grafts = average((graft_map(*readers, q, floor=floor) for q in QAS), **draw)
    batched = graft_many(*readers, QAS, floor=floor, **draw)
    for ours, theirs in ((grafts, batched), (grafts.floor, batched.floor)):
        torch.testing.assert_close(ours.change, theirs.change, atol=1e-6, rtol=0)
        assert (ours.ids, ours.labels, ours.what, ours.settings) == (
            theirs.ids,
            theirs.labels,
            theirs.what,
            ours.settings,
        )


def test_unlike_results_are_not_averaged():
    before, after = pair()
    one, two = (diff(before, after, *item, contributions=False, weights=False) for item in ITEMS[:2])
    floored = diff(before, after, *ITEMS[0], contributions=False, weights=False, floor=(before, after))
    with_split = diff(before, after, *ITEMS[0], contributions=False, weights=False, split=True)
    shallow = diff(*pair(n_layers=2), *ITEMS[0], contributions=False, weights=False)
    patches = [patch(before, after, *ITEMS[0], what=what) for what in ("head", "resid_pre")]
    for results, message in (
        ([], r"no results to average; give e\.g\. \(ul\.diff\(before, after, qa\) for qa in bench\.forget\)"),
        ([attribute(before, *ITEMS[0])], "a Attribution cannot be averaged; give results of one kind: ModelDiff"),
        ([one, patches[0]], "result 1 is a PatchingMap, the first a ModelDiff; average one kind"),
        ([one, floored], r"only some results have a noise baseline \(result 1 differs\)"),
        ([floored, two], r"only some results have a noise baseline \(result 1 differs\)"),
        ([one, with_split], "result 1 was not made with the same parts as the first"),
        ([one, shallow], "result 1 has other labels than the first"),
        ([patches[1]], "what='resid_pre' goes by position"),
    ):
        with pytest.raises(InputError, match=message):
            average(results)
    with pytest.raises(InputError, match=r"level=95\.0"):
        average([one], level=95.0)
    with pytest.raises(InputError, match="no items"):
        diff_many(before, after, iter([]))
    with pytest.raises(TypeError, match="unknown"):
        diff(before, after, *ITEMS[0], unknown=1)


def test_a_benchmark_is_compared_fact_by_fact_and_averaged(readers):
    bench = Benchmark("made-up", forget=QAS, retain=())
    whole = diff(*readers, bench)
    assert whole == diff(*readers, list(QAS))
    assert whole == average(diff(*readers, qa, weights=False) for qa in QAS)
    assert whole.focus is not None
    heads = whole.to_frame("heads")
    single = diff(*readers, QAS[0], weights=False)
    for what, names in (("heads", ["layer", "head"]), ("components", ["component"])):
        assert list(whole.to_frame(what).columns[: len(names)]) == names
        assert list(single.to_frame(what).columns[: len(names)]) == names
    assert list(decompose(readers[0], QAS[0].prompt, QAS[0].answer, by="head").to_frame().columns[:2]) == [
        "layer",
        "head",
    ]
    assert heads["mean"].tolist() == pytest.approx(whole.heads[..., 0].flatten().tolist())
    assert single.to_frame("heads")["delta"].tolist() == pytest.approx(single.delta_heads.mean(-1).flatten().tolist())


def test_a_benchmark_without_forget_facts_and_an_answer_beside_a_data_set_are_refused(readers):
    with pytest.raises(InputError, match="benchmark 'empty' has no forget facts; give a list of QA"):
        diff(*readers, Benchmark("empty", forget=(), retain=QAS[:1]))
    with pytest.raises(InputError, match="the prompt is a data set, whose items hold their answers"):
        diff(*readers, list(QAS), " Oslo")
