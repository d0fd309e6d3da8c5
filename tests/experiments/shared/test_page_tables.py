"""A block is read back as it was written, and the text around it does not change."""

import pytest

from experiments.shared.page_tables import fill_block, read_block
from unpact_lens.errors import InputError


def test_block_is_replaced_and_read_back(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t -->\nold\n<!-- /t -->\nafter\n")
    fill_block(page, "t", "| a |\n|---|\n")
    assert page.read_text() == "before\n<!-- t -->\n| a |\n|---|\n<!-- /t -->\nafter\n"
    assert read_block(page, "t") == "| a |\n|---|"


def test_missing_block_is_named_in_the_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(InputError, match="has no block 'x'; write <!-- x -->"):
        read_block(page, "x")
