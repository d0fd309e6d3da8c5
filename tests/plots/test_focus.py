"""The focus figure draws each item as a dot and each mean with its interval."""

import numpy as np

from tests.plots import examples


def test_measures_means_and_intervals_are_drawn():
    focus = examples.focus(5)
    fig = focus.plot()
    boxes = [t for t in fig.data if t.type == "box"]
    means = [t for t in fig.data if t.type == "scatter"]
    names = [
        "spearman", "overlap", "mass_before", "mass_after", "entropy_before", "entropy_after", "subject_rank_before",
        "subject_rank_after", "subject_score_before", "subject_score_after",
    ]  # fmt: skip
    assert len(boxes) == len(means) == len(names)
    for box, mean, name in zip(boxes, means, names, strict=True):
        np.testing.assert_allclose(box.y, focus.measures[name])
        value, low, high, _ = focus.means[name].tolist()
        np.testing.assert_allclose([mean.y[0], mean.error_y.array[0], mean.error_y.arrayminus[0]],
                                   [value, high - value, value - low])  # fmt: skip


def test_the_rule_is_named_and_prompts_are_escaped():
    fig = examples.focus().plot()
    assert "TopK(k=3)" in fig.layout.title.subtitle.text.replace("<br>", " ")
    assert "<script" not in fig.to_json()
    assert "[nats]" in fig.layout.annotations[5].text
