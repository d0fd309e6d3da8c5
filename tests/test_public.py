"""The public surface is what the documentation says it is."""

import pytest

import unpact_lens as ul


def test_every_public_name_exists_and_is_documented():
    for name in ul.__all__:
        assert getattr(ul, name).__doc__, name


def test_a_wrong_name_offers_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'attribute'"):
        ul.atribute  # noqa: B018
