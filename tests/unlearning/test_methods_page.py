"""The page of methods equals the registry, and every method has a formula and a source."""

import importlib.util
from pathlib import Path

import pytest

from unpact_lens.unlearning import METHODS

SCRIPT = Path(__file__).parents[2] / "scripts" / "methods_page.py"
ASKED = (
    "ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "simnpo", "idk_ft", "idk_dpo", "dpo", "altpo", "task_vector",
    "whp", "rmu", "undial", "wga", "satimp", "ce_u", "offset", "sparsity_aware", "o3", "unpact_select",
    "unpact_recall", "unpact_blind", "npo_null", "npo_orthogonal", "npo_ewc", "npo_local", "npo_small", "sam_npo",
    "jensun", "pdu", "relearn", "rmu_subject", "eco", "in_context",
)  # fmt: skip


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("methods_page", SCRIPT)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_page_equals_the_registry(module):
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run: python scripts/methods_page.py"


def test_every_method_is_on_the_page_with_formula_and_source(module):
    text = module.page()
    for name in METHODS:
        assert f"`{name}`" in text
    for name in ASKED:
        method = METHODS[name]
        assert method.formula in text or name.endswith(("_gdr", "_klr", "_self"))
        assert method.source in text
        assert method.note in text
