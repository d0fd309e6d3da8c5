"""Every public function works on a combined model or refuses it by name."""

import pytest

from tests.faults.public_calls import functions, usual
from tests.faults.test_nan_weights import CALLS, arguments
from unpact_lens.errors import InputError
from unpact_lens.models.export import export_hf
from unpact_lens.unlearning.methods.in_context import Prefixed


@pytest.mark.parametrize(("name", "parameter"), CALLS)
def test_a_combined_model_gives_a_result_or_an_error_that_says_what_to_do(name, parameter, tmp_path):
    model = usual(name, parameter)[0]
    given = {**arguments(name, parameter), parameter: Prefixed((model,), [2, 3])}
    if "path" in given:
        given["path"] = tmp_path / "x"
    said = ""
    try:
        functions()[name](**given)
    except InputError as error:
        said = str(error)
    except TypeError as error:  # of another argument
        said = str(error) if " got " in str(error) else f"raw\n{error}"
    assert "\n" not in said


def test_the_refusal_names_what_is_missing():
    combined = Prefixed((usual("unpact_lens.decompose", "model")[0],), [2, 3])
    assert getattr(combined, "blocks", None) is None
    with pytest.raises(
        InputError, match="a Prefixed has no 'blocks': it is a combined model; examine one of its members"
    ):
        combined.blocks  # noqa: B018


def test_a_combined_model_is_not_exported(tmp_path):
    combined = Prefixed((usual("unpact_lens.decompose", "model")[0],), [2, 3])
    with pytest.raises(
        InputError, match="a Prefixed is a combined model, and no Hugging Face architecture is; export one"
    ):
        export_hf(combined, tmp_path / "x")
    assert not (tmp_path / "x").exists()
