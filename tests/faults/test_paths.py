"""A path that the system cannot hold is refused by name, in every public function that reads or writes files."""

import re

import pytest

import unpact_lens as ul
from unpact_lens.errors import InputError

BAD = "a\0b"  # shown as it is, or escaped

CALLS = {
    "load": lambda: ul.load(BAD),
    "load_model": lambda: ul.load_model(BAD),
    "load_benchmark": lambda: ul.load_benchmark("pairs", path=BAD),
    "from_pairs": lambda: ul.from_pairs(BAD),
    "load_config": lambda: ul.study.load_config(BAD),
    "read_facts": lambda: ul.auditing.read_facts(BAD),
    "verify_audit": lambda: ul.auditing.verify_audit(BAD),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_path_with_a_nul_character_is_an_input_error(name):
    with pytest.raises(InputError, match="a(" + re.escape(repr("\0")[1:-1]) + "|\0)b"):
        CALLS[name]()
