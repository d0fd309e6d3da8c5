"""Waterfalls sum to the logit, head maps are layer × head, and each view has its figure."""

import numpy as np
import pytest

from tests.plots import examples
from unpact_lens.errors import InputError
from unpact_lens.plots import decomposition as plots


def test_the_waterfall_ends_at_the_logit():
    d = examples.decomposition("component")
    (trace,) = plots.waterfall(d).data
    assert trace.measure[-1] == "total"
    assert set(trace.measure[:-1]) == {"relative"}
    np.testing.assert_allclose(sum(trace.y[:-1]), d.total.mean())
    np.testing.assert_allclose(trace.y[-1], d.total.mean())
    assert trace.x[-3:] == ("ln_final.b", "unembed.b_U", "logit")


def test_many_heads_become_one_step_for_each_layer_with_the_same_sum():
    d = examples.decomposition("component", layers=5, heads=12)
    labels, values = plots.component_bars(d)
    assert [x for x in labels if "H" in x] == []
    assert [x for x in labels if x.endswith("heads")] == [f"L{i}.heads" for i in range(5)]
    np.testing.assert_allclose(sum(values), d.total.mean())
    np.testing.assert_allclose(values[labels.index("L1.heads")], d.values.mean(-1)[13:25].sum())


def test_a_head_map_is_layer_by_head_with_names_on_hover():
    d = examples.decomposition("head")
    fig = plots.head_map(d)
    (trace,) = fig.data
    np.testing.assert_allclose(trace.z, d.values.mean(-1))
    assert trace.hovertemplate.startswith("L%{y}H%{x}")
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin == pytest.approx(np.abs(trace.z).max())
    assert fig.layout.yaxis.title.text == "layer"
    assert fig.layout.xaxis.title.text == "head"


def test_source_tokens_sum_to_their_head():
    d = examples.decomposition("source")
    np.testing.assert_allclose(plots.head_values(d), d.values.mean(-1).sum(2))


def test_the_source_map_shows_the_strongest_heads_in_model_order():
    d = examples.decomposition("source")
    (trace,) = plots.source_map(d, heads=2).data
    strongest = d.values.mean(-1).abs().amax(2).flatten().topk(2).indices.sort().values
    assert list(trace.y) == [f"L{i // 3}H{i % 3}" for i in strongest.tolist()]
    np.testing.assert_allclose(trace.z, d.values.mean(-1).flatten(0, 1)[strongest])
    assert trace.x[0] == "&lt;s&gt;_0"


def test_the_strongest_neurons_come_first():
    d = examples.decomposition("neuron")
    (trace,) = plots.neurons(d, top=3).data
    top = d.values.mean(-1).flatten().abs().topk(3)
    np.testing.assert_allclose(np.abs(trace.x), top.values)
    assert trace.y[0] == f"L{int(top.indices[0]) // 7}N{int(top.indices[0]) % 7}"


@pytest.mark.parametrize("by", ["component", "head", "source", "neuron"])
def test_each_view_has_a_figure_with_a_subtitle(by):
    fig = examples.decomposition(by).plot()
    assert f"by {by}" in fig.layout.title.subtitle.text.replace("<br>", " ")
    assert "[logits]" in fig.layout.title.subtitle.text.replace("<br>", " ")


def test_lens_curves_show_logit_probability_and_rank_of_each_token():
    curves = examples.lens_curves()
    traces = curves.plot().data
    assert len(traces) == 6
    np.testing.assert_allclose(traces[0].y, curves.logit[:, 0])
    np.testing.assert_allclose(traces[4].y, curves.probability[:, 1])
    np.testing.assert_allclose(traces[5].y, curves.rank[:, 1])
    assert traces[0].name == "␣&lt;b&gt;Os_0"


@pytest.mark.parametrize(
    ("draw", "needs"), [(plots.waterfall, "'component'"), (plots.source_map, "'source'"), (plots.neurons, "'neuron'")]
)
def test_another_view_is_refused(draw, needs):
    with pytest.raises(InputError, match=f"{needs}, not by 'head'"):
        draw(examples.decomposition("head"))
    with pytest.raises(InputError, match="by 'head' or 'source', not by 'component'"):
        plots.head_map(examples.decomposition("component"))
