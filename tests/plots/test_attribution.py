"""Token maps show the numbers of the attribution, on one symmetric scale, with everything escaped."""

from html.parser import HTMLParser

import numpy as np
import pytest

from tests.plots import examples
from unpact_lens.errors import InputError
from unpact_lens.plots import attribution as plots


class Texts(HTMLParser):
    """Tags and text of a page, as a browser would read them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.titles, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.titles += [v for k, v in attrs if k == "title"]

    def handle_data(self, data):
        self.text += data


def test_the_map_holds_the_contributions_and_their_mean():
    a = examples.attribution()
    (trace,) = plots.token_heatmap(a).data
    np.testing.assert_allclose(trace.z[:, :-1], a.per_answer_token)
    np.testing.assert_allclose(trace.z[:, -1], a.scores)
    assert trace.x[-1] == "mean"
    assert trace.y[2] == '␣"&lt;script&gt;alert(1)&lt;/scr…_2'


def test_the_triptych_shows_both_models_and_their_difference_on_one_scale():
    before, after = examples.attribution(0), examples.attribution(5)
    fig = plots.token_triptych(before, after)
    maps = [np.asarray(t.z) for t in fig.data]
    np.testing.assert_allclose(maps[2], maps[1] - maps[0])
    axis = fig.layout.coloraxis
    assert axis.cmax == -axis.cmin == max(np.abs(m).max() for m in maps)
    assert {t.coloraxis for t in fig.data} == {"coloraxis"}
    assert [a.text for a in fig.layout.annotations] == ["before", "after", "Δ"]


def test_unit_and_method_are_in_the_subtitle():
    subtitle = plots.token_heatmap(examples.attribution()).layout.title.subtitle.text.replace("<br>", " ")
    assert "leave one out" in subtitle
    assert "[nats]" in subtitle
    assert "<b>" not in subtitle
    assert "[logits]" in plots.described(examples.attribution(target="logit_diff"))


def test_one_column_is_drawn_as_bars():
    whole = examples.attribution().scores[:, None]
    one_number = examples.attribution(per_answer_token=whole, scores=whole[:, 0])
    one_token = examples.attribution(answer=(" Oslo",))
    for found in (one_number, one_token):
        (trace,) = plots.token_heatmap(found).data
        assert trace.type == "bar"
        np.testing.assert_allclose(trace.x, found.scores)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"tokens": ("a",) * 6}, "differ in tokens"), ({"method": "shapley"}, "differ in method.*'shapley'")],
)
def test_attributions_of_different_prompts_are_refused(changes, message):
    other = examples.attribution(**changes)
    for draw in (plots.token_triptych, plots.html_triptych):
        with pytest.raises(InputError, match=message):
            draw(examples.attribution(), other)


def test_inline_tokens_are_escaped():
    page = Texts(plots.html_tokens(examples.attribution()))
    assert set(page.tags) <= {"div", "span", "br", "wbr"}
    assert page.text == 'Where␣was␣"<script>alert(1)</script>␣&␣Ann</div>␣born?⏎'
    assert page.titles[2].startswith('␣"<script>alert(1)</script>_2: ')
    assert page.titles[2].endswith(" nats")


def test_inline_rows_share_one_scale():
    before = examples.attribution(tokens=("a",), answer=("b",), scores=examples.noise(1).abs() + 1)
    after = examples.attribution(tokens=("a",), answer=("b",), scores=before.scores * 2)
    page = plots.html_triptych(before, after)
    # after is the largest: the end of the scale; before and Δ are both half of it
    assert page.count("background:rgb(11, 60, 111)") == 1
    half = plots.html_scores(["a"], [0.5], unit="nats", limit=1.0)
    colour = half.split("background:")[1].split(";")[0]
    assert page.count(f"background:{colour}") == 2


def test_scores_and_tokens_must_match():
    with pytest.raises(InputError, match="2 tokens but 1 scores"):
        plots.html_scores(["a", "b"], [1.0], unit="nats")


def test_interactions_are_centred_on_zero_with_the_pair_on_hover():
    found = examples.interactions()
    fig = found.plot()
    (trace,) = fig.data
    np.testing.assert_allclose(trace.z, found.matrix)
    np.testing.assert_allclose(trace.customdata, found.pair)
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin == found.matrix.nan_to_num().abs().max()
    assert "[nats]" in fig.layout.title.subtitle.text.replace("<br>", " ")


def test_sensitivity_shows_each_measure_that_is_defined():
    found = examples.sensitivity()
    fig = found.plot()
    count, mass, agreement = fig.data
    np.testing.assert_allclose(count.x, [1, 8 / 3], rtol=1e-6)
    np.testing.assert_allclose(mass.x, found.measures["mass"].mean(1), rtol=1e-6)
    np.testing.assert_allclose(agreement.z, found.agreement)
    assert [a.text for a in fig.layout.annotations] == ["count", "mass", "overlap of the rules"]


def test_faithfulness_curves_are_means_over_the_defined_items():
    found = examples.faithfulness()
    deletion, insertion = found.plot().data
    np.testing.assert_allclose(deletion.y, found.deletion.nanmean(0))
    np.testing.assert_allclose(insertion.y, found.insertion.mean(0))
    assert len(plots.faithfulness_curves([found, examples.faithfulness("shapley", 3)]).data) == 4


def test_method_comparison_shows_agreement_and_aopc():
    found = examples.method_comparison()
    fig = found.plot()
    spearman, jaccard, aopc = fig.data
    np.testing.assert_allclose(spearman.z, found.spearman)
    np.testing.assert_allclose(jaccard.z, found.jaccard)
    np.testing.assert_allclose(aopc.x, [f.aopc.mean() for f in found.faithfulness])
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis2.cmin) == (-1, 0)
    assert list(aopc.y) == ["leave one out", "&lt;b&gt;attention&lt;/b&gt;"]


def test_a_notebook_shows_the_tokens_as_the_report_does():
    a = examples.attribution()
    assert a._repr_html_() == plots.html_tokens(a)
