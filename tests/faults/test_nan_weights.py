"""Every public function that runs a model refuses one whose weights hold NaN."""

import inspect

import pytest

from tests.faults.public_calls import LEFT_OUT, broken, functions, known, usual
from unpact_lens.errors import InputError

MODELS = (
    "model",
    "before",
    "after",
    "full",
    "retrain",
    "unlearned",
    "recipient",
    "donor",
    "big",
    "base",
    "small_after",
)
READS_NO_WEIGHT = {
    "load_model": "is asked for a model, and refuses NaN when it reads one; see tests/models/test_load.py",
}
"""Functions that take a model and run none, with the reason."""

CALLS = sorted(
    (name, parameter)
    for name, function in functions().items()
    if name not in LEFT_OUT and name not in READS_NO_WEIGHT
    for parameter in inspect.signature(function).parameters
    if parameter in MODELS and known(name, parameter) and hasattr(usual(name, parameter)[0], "named_parameters")
)
"""Every public function with each of its models."""


def arguments(name, parameter):
    given = {}
    for other, about in inspect.signature(functions()[name]).parameters.items():
        needed = about.default is inspect.Parameter.empty and about.kind not in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        if needed or other in ("answer", "draws", "progress", "drawn", "steps"):
            given[other] = usual(name, other)[0]
    return {**given, parameter: broken()}


@pytest.mark.parametrize(("name", "parameter"), CALLS)
def test_nan_weights_are_refused(name, parameter, tmp_path):
    given = arguments(name, parameter)
    if "path" in given:
        given["path"] = tmp_path / "x"
    with pytest.raises(InputError, match=r"weight \S+ (holds|contains) NaN|NaN"):
        functions()[name](**given)
