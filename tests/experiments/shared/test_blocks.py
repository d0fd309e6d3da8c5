"""A block is read back as it was filled, and nothing around it changes."""

import pytest

from experiments.shared.blocks import fill_block, read_block
from unpact_lens.errors import InputError


def test_a_block_is_replaced_and_read_back(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t -->\nold\n<!-- /t -->\nafter\n")
    fill_block(page, "t", "| a |\n|---|\n")
    assert page.read_text() == "before\n<!-- t -->\n| a |\n|---|\n<!-- /t -->\nafter\n"
    assert read_block(page, "t") == "| a |\n|---|"


def test_a_missing_block_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(InputError, match="has no block 'x'; write <!-- x -->"):
        read_block(page, "x")
