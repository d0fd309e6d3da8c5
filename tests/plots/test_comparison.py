"""Figures of diffs, patches and changes show Δ = after − before on one scale."""

from dataclasses import replace

import numpy as np
import pytest

from tests.plots import examples
from unpact_lens.errors import InputError
from unpact_lens.plots import changes
from unpact_lens.plots import model_diff as plots


def test_component_deltas_are_drawn_and_sum_to_the_logits_delta():
    diff = examples.model_diff()
    before, after, delta = plots.model_diff(diff).data
    np.testing.assert_allclose(np.subtract(after.y, before.y), delta.y)
    np.testing.assert_allclose(sum(delta.y[:-1]), diff.delta_logit.mean())
    np.testing.assert_allclose(delta.y[-1], diff.delta_logit.mean())


def test_the_subtitle_states_the_identity():
    diff = examples.model_diff()
    logit, normaliser = float(diff.delta_logit.mean()), float(diff.delta_logsumexp.mean())
    subtitle = plots.model_diff(diff).layout.title.subtitle.text.replace("<br>", " ")
    assert (
        f"Δ logit {logit:+.2f} logits, Δ logsumexp {normaliser:+.2f}, Δ log-prob {logit - normaliser:+.2f}" in subtitle
    )
    assert "&lt;b&gt;Oslo" in subtitle


def test_the_head_triptych_is_on_one_symmetric_scale():
    diff = examples.model_diff(layers=3, heads=4)
    fig = plots.head_triptych(diff)
    before, after, delta = (np.asarray(t.z) for t in fig.data)
    assert before.shape == (3, 4)
    np.testing.assert_allclose(delta, diff.delta_heads.mean(-1))
    np.testing.assert_allclose(delta, after - before)
    axis = fig.layout.coloraxis
    assert axis.cmax == -axis.cmin == max(np.abs(m).max() for m in (before, after, delta))


def test_sources_are_drawn_before_after_and_delta_on_one_symmetric_scale():
    sides = {f"sources_{side}": examples.decomposition("source", seed) for side, seed in (("before", 3), ("after", 4))}
    diff = replace(examples.model_diff(), **sides)
    fig = diff.plot(what="sources")
    before, after, delta = (np.asarray(t.z) for t in fig.data)
    np.testing.assert_allclose(delta, after - before)
    np.testing.assert_allclose(before, diff.sources_before.values.mean(-1).flatten(0, 1))
    assert (
        fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin == max(np.abs(m).max() for m in (before, after, delta))
    )
    assert len(plots.source_triptych(diff, heads=2).data[0].y) == 2
    assert "&lt;script&gt;" in fig.data[0].x[3]


def test_the_view_of_a_diff_is_chosen_and_checked():
    diff = examples.model_diff()
    assert len(diff.plot(what="heads").data) == 3
    with pytest.raises(InputError, match="what='head'; did you mean 'heads'"):
        diff.plot(what="head")
    with pytest.raises(InputError, match="has no sources; make it with diff"):
        diff.plot(what="sources")
    with pytest.raises(InputError, match="has no contributions"):
        diff.plot(what="contributions")


def test_the_largest_relative_change_comes_first_and_an_undefined_one_last():
    (trace,) = examples.weight_changes().plot().data
    assert list(trace.y) == ["blocks.0.attn.W_Q", "embed.W_E", "blocks.0.mlp.W_in"]
    (trace,) = changes.weight_changes(examples.weight_changes(), top=1).data
    assert list(trace.y) == ["blocks.0.attn.W_Q"]


def test_a_patching_map_shows_the_change_and_the_share_of_the_gap():
    patching = examples.patching_map()
    fig = patching.plot()
    (trace,) = fig.data
    np.testing.assert_allclose(trace.z, patching.values)
    np.testing.assert_allclose(trace.customdata, patching.values / 3)
    assert "&lt;script&gt;" in trace.x[2]
    assert "before into after" in fig.layout.title.text.replace("<br>", " ")


def test_the_players_of_a_split_head_sum_to_its_delta_on_one_scale():
    split = examples.head_split()
    fig = split.plot()
    delta, *players = (np.asarray(t.z) for t in fig.data)
    np.testing.assert_allclose(sum(players), delta)
    np.testing.assert_allclose(delta, split.delta.mean(-1))
    assert [a.text for a in fig.layout.annotations] == ["Δ", "pattern", "input", "ov", "readout"]
    assert fig.layout.coloraxis.cmax == max(np.abs(m).max() for m in (delta, *players))


def test_activation_changes_are_relative_to_the_length_before():
    found = examples.activation_changes()
    fig = found.plot()
    bars, trace = fig.data
    np.testing.assert_allclose(bars.y, found.kl)
    np.testing.assert_allclose(trace.z, found.norm_delta / found.norm_before)
    np.testing.assert_allclose(np.asarray(trace.customdata)[..., 0], found.cosine)
    np.testing.assert_allclose(np.asarray(trace.customdata)[:, 0, 1], found.cka)
    assert fig.layout.coloraxis.cmin == 0
