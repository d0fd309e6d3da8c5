"""Recovery bars show the rates on the common set, and the control's on the same facts."""

import math

import numpy as np
import pytest

from tests.plots import studies
from unpact_lens.plots import recovery as plots
from unpact_lens.stats.intervals import wilson


def test_bars_and_whiskers_are_rates_and_wilson_intervals():
    r = studies.recovery()
    after, control = r.plot().data
    assert (after.name, control.name) == ("unlearned model", "retrained model")
    for bar, right in ((after, r.right_after), (control, r.right_control)):
        counts = (right & r.common).sum(1).tolist()
        np.testing.assert_allclose(bar.x, [c / 40 for c in counts])
        for i, count in enumerate(counts):
            rate = r.rate(r.probes[i]) if bar is after else r.control_rate(r.probes[i])
            assert (rate.count, rate.n) == (count, 40)
            low, high = wilson(count / 40 * rate.effective_n, rate.effective_n)
            np.testing.assert_allclose(bar.x[i] - bar.error_x.arrayminus[i], low, atol=1e-12)
            np.testing.assert_allclose(bar.x[i] + bar.error_x.array[i], high, atol=1e-12)


def test_families_are_grouped_and_the_headline_is_marked():
    families, labels = studies.recovery().plot().data[0].y
    assert list(families) == ["emphasis"] * 2 + ["control prompts"] * 3 + ["stronger probes"] * 2
    assert labels[0] == "focus list ★"
    assert labels[2] == "random words in focus list"


def test_never_known_facts_replace_a_missing_retrained_model():
    _, beside = studies.recovery(control=None).plot().data
    assert beside.name == "never-known facts"
    assert set(beside.x) == {0.0}


def test_an_undefined_rate_has_no_bar_and_a_label():
    r = studies.recovery(n_before=0.0)
    fig = r.plot()
    assert r.n_common == 0
    assert all(math.isnan(x) for x in fig.data[0].x)
    assert all(label.endswith("(undefined)") for label in fig.data[0].y[1])
    assert "common set of 0 of 40 facts" in fig.layout.title.subtitle.text.replace("<br>", " ")


@pytest.mark.parametrize("oracle", [True, False])
def test_the_subtitle_names_the_source_of_the_key_tokens(oracle):
    import dataclasses

    fig = dataclasses.replace(studies.recovery(), oracle=oracle).plot()
    assert ("oracle-assisted" if oracle else "answer-free") in fig.layout.title.subtitle.text.replace("<br>", " ")


def test_the_title_names_the_method_and_seed():
    title = plots.cell_recovery(studies.cell("npo<b>", seed=3)).layout.title.text
    assert "npo&lt;b&gt;, seed 3" in title.replace("<br>", " ")
