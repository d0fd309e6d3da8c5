"""Labels are escaped and scales are centred on zero."""

import math

import pytest
import torch

from unpact_lens.plots import theme


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" the", "␣the"), ("a\nb", "a⏎b"), ("\t", "⇥"), ("\u200b", "\\u200b"), ("\x00", "\\x00"), ("naïve", "naïve")],
)
def test_invisible_characters_are_shown(token, shown):
    assert theme.visible(token) == shown


def test_token_labels_are_unique_escaped_and_cut():
    labels = theme.token_labels(["<b>", "<b>", " &", "x" * 40])
    assert labels == ["&lt;b&gt;_0", "&lt;b&gt;_1", "␣&amp;_2", "x" * 23 + "…_3"]


def test_the_limit_is_the_largest_finite_value_of_all_facets():
    facets = [torch.tensor([0.5, -3.0]), torch.tensor([float("nan"), 2.0]), [float("inf")]]
    assert theme.symmetric_limit(facets) == 3.0


@pytest.mark.parametrize("empty", [[[0.0, 0.0]], [[float("nan")]], [[]], []])
def test_a_scale_without_values_has_a_width(empty):
    assert theme.symmetric_limit(empty) == 1.0


def test_colours_are_centred_on_zero_and_saturate_at_the_limit():
    assert theme.diverging_colour(0.0, 5.0)[0] == "rgb(255, 255, 255)"
    assert theme.diverging_colour(9.0, 5.0) == theme.diverging_colour(5.0, 5.0)
    assert theme.diverging_colour(5.0, 5.0)[0] == "rgb(11, 60, 111)"
    assert theme.diverging_colour(-5.0, 5.0)[0] == "rgb(140, 45, 4)"
    assert theme.diverging_colour(float("nan"), 1.0)[0] == "rgb(217, 217, 217)"


@pytest.mark.parametrize("value", [-1.0, -0.8, -0.5, -0.2, 0.0, 0.2, 0.5, 0.8, 1.0])
def test_text_is_legible_on_every_colour(value):
    def luminance(colour):
        if colour.startswith("#"):
            channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        else:
            channels = [int(c) for c in colour[4:-1].split(",")]
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted(map(luminance, theme.diverging_colour(value, 1.0)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA for text


def test_64_series_have_different_styles():
    assert len({theme.series_style(i) for i in range(64)}) == 64


def test_arrays_are_made_from_any_float_type():
    assert theme.array(torch.tensor([1.5], dtype=torch.bfloat16)).tolist() == [1.5]
    assert math.isnan(theme.array([float("nan")])[0])
