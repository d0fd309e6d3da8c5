"""Every hyperparameter of every method is checked by type and range, whatever way its value is written."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re

import numpy as np
import pytest
import torch

from tests.unlearning.conftest import untrained, world
from tests.unlearning.runs import ONE
from unpact_lens.errors import InputError
from unpact_lens.unlearning import METHODS, Method, StopRule, unlearn
from unpact_lens.unlearning.option import Flag, MaybeFlag, Model, Number, OneOf, Option, Text, Texts, declared
from unpact_lens.unlearning.registry import default_settings
from unpact_lens.unlearning.settings import Settings, split

NOT_NUMBERS = ("many", "", math.nan, math.inf, "nan", True, [1], {})
NEVER: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    # name: (values to refuse, values to accept), written by hand and not read from the declarations
    "lr": ((0, -1e-3, None, *NOT_NUMBERS), (1e-5, "1e-5", "0.001", 1)),
    "steps": ((0, -1, 1.5, "2.5", *NOT_NUMBERS), (1, "20", 3.0, None)),
    "epochs": ((0, -1, 0.5, *NOT_NUMBERS), (1, "2", None)),
    "batch_size": ((0, -1, 0.5, None, *NOT_NUMBERS), (1, "2")),
    "micro_batch": ((0, -1, 0.5, *NOT_NUMBERS), (1, "2", None)),
    "schedule": (("cosinus", 1, None, ""), ("constant", "linear", "cosine")),
    "warmup": ((0.1, -1, None, "0.5", *NOT_NUMBERS), (0, 10, "10")),
    "clip": ((0, -1, *NOT_NUMBERS), (1, "0.5", None)),
    "weight_decay": ((-0.1, None, *NOT_NUMBERS), (0, "0.1")),
    "beta1": ((1, -0.1, 2, None, *NOT_NUMBERS), (0, "0.9")),
    "beta2": ((1, -0.1, 2, None, *NOT_NUMBERS), (0, "0.999")),
    "eps": ((0, -1e-8, None, *NOT_NUMBERS), (1e-8, "1e-6")),
    "gamma": ((-1, None, *NOT_NUMBERS), (0, "0.5")),
    "alpha": ((-1, None, *NOT_NUMBERS), (0, "1e3")),
    "phrasings": (("both", None, 1), ("headline", "all")),
    "chat": ((None, "maybe", 2, 0), (True, False, "false", "true")),
    "prefill": ((None, 1, True), ("", " the")),
    "end_token": (("maybe", 2), (True, "false", None)),
    "stop": (("\n", None, 5, [""], [1]), ([], ["\n"], ("\n", "."))),
    "chunk_tokens": ((1, 2.5, None, *NOT_NUMBERS), (2, "64")),
    "max_new_tokens": ((0, None, *NOT_NUMBERS), (1, "8")),
    "check_every": ((0, None, *NOT_NUMBERS), (1, "8")),
    "modules": ((5, [], [1], True, [""]), ("blocks.1.mlp", ["blocks.1.mlp"], None)),
    "rank": ((0, -1, 0.5, *NOT_NUMBERS), (1, "2", None)),
    "lora_alpha": ((0, -1, None, *NOT_NUMBERS), (16, "8")),
    "precision": (("fp8", None, 16), ("full", "bf16")),
    "recompute": ((None, "maybe", 1), (True, "false")),
    "reference_mb": ((-1, *NOT_NUMBERS), (0, "64", None)),
    "beta": ((-1, None, *NOT_NUMBERS), (0.5, "0.5")),
    "length_scale": ((None, "maybe", 1), (True, "no")),
    "delta": ((None, *NOT_NUMBERS), (0, -1.5, "0.5")),
    "scale": ((0, -1, None, *NOT_NUMBERS), (1, "20")),
    "refusals": (((), None, 5, [1], [" "]), ([" no"], " no", (" no", " never"))),
    "alternatives": ((5, [], [1], [[]]), (None, [" a", [" b", " c"]])),
    "subjects": ((0, None, 0.5, *NOT_NUMBERS), (1, "3")),
    "drawn": ((0, None, 0.5, *NOT_NUMBERS), (1, "3")),
    "templates": ((0, None, 0.5, *NOT_NUMBERS), (1, "3")),
    "naming": (("songs", None, 1), ("texts", "lists")),
    "n_alternatives": ((0, None, 0.5, *NOT_NUMBERS), (1, "3")),
    "only": ((5, [], [1], [" "]), ("L0H1", ["L0H1", "L1H0"], None)),
    "anchor": ((-1, None, *NOT_NUMBERS), (0, "0.5")),
    "radius": ((0, -1, *NOT_NUMBERS), (1, "0.5", None)),
    "spare": ((1, -0.1, None, *NOT_NUMBERS), (0, "0.05")),
    "project": (("never", None, 1), ("conflict", "always")),
    "fisher_examples": ((0, None, 0.5, *NOT_NUMBERS), (1, "3")),
    "rho": ((0, -1, None, *NOT_NUMBERS), (0.5, "0.5")),
    "retain_limit": ((-1, None, *NOT_NUMBERS), (0, "0.5")),
    "dual_step": ((-1, None, *NOT_NUMBERS), (0, "0.5")),
    "answers": ((5, [], [1], [" "]), (None, [" a"], " a")),
    "n_answers": ((0, None, 0.5, *NOT_NUMBERS), (1, "3")),
    "hold": ((0, -1, None, *NOT_NUMBERS), (0.5, "0.5")),
    "target_steps": ((0, None, 0.5, *NOT_NUMBERS), (1, "3")),
    "target_lr": ((0, -1, None, *NOT_NUMBERS), (0.5, "0.5")),
    "coefficient": ((0, -1, *NOT_NUMBERS), (1, "0.5", None)),
    "max_coefficient": ((0, -1, None, *NOT_NUMBERS), (1, "256")),
    "tolerance": ((0, -1, None, *NOT_NUMBERS), (0.1, "0.05")),
    "strength": ((-1, None, *NOT_NUMBERS), (1, "5.0")),
    "eco.strength": ((0, -1, *NOT_NUMBERS), (1, "5.0", None)),
    "max_strength": ((0, -1, None, *NOT_NUMBERS), (1, "64")),
    "forgets": ((-1, 0.5, None, *NOT_NUMBERS), (0, "3")),
    "retains": ((-1, 0.5, None, *NOT_NUMBERS), (0, "3")),
    "reinforce_steps": ((0, None, 1.5, *NOT_NUMBERS), (1, "5")),
    "reinforce_lr": ((0, -1, *NOT_NUMBERS), (1e-3, "1e-3", None)),
    "layer": ((-1, 0.5, *NOT_NUMBERS), (0, "1", None)),
    "c": ((-1, *NOT_NUMBERS), (0, "6.5", None)),
    "positions": (("last", None, 1), ("predicting", "answer")),
    "mean": (("batch", None, 1), ("token", "example")),
    "ignore_first": ((-1, 0.5, None, *NOT_NUMBERS), (0, "1")),
    "beta1_weight": ((-1, None, *NOT_NUMBERS), (0, "5")),
    "beta2_weight": ((-1, None, *NOT_NUMBERS), (0, "1")),
    "sparsity": ((-0.1, 1, 1.5, None, *NOT_NUMBERS), (0, "0.3")),
    "small": ((5, "gpt2"), (None,)),
    "weight": ((0, -1, None, *NOT_NUMBERS), (1, "0.5")),
    "key_tokens": ((0, -1, None, 1.5, *NOT_NUMBERS), (1, "3")),
    "keep_rest": ((-1, None, *NOT_NUMBERS), (0, "1.0")),
    "weigh_sequences": ((None, "maybe", 1), (True, "false")),
    "share": ((0, -0.1, 1.5, *NOT_NUMBERS), (1, "0.5", None)),
    "pick": (("best", None, 1), ("key", "chance")),
}
SHARED = {f.name: f.metadata["accepts"] for f in dataclasses.fields(Settings)}
BETA_ABOVE_0 = {"npo", "simnpo", "undial", "dpo", "altpo", "idk_dpo", "unpact_select_npo"}


def options_of(method: Method) -> dict[str, object]:
    return {**SHARED, **{name: declared(option).accepts for name, option in method.options.items()}}


def tried_values(method: str, option: str):
    """Bad and good values of an option; where one method reads it otherwise, its own."""
    return NEVER.get(f"{method}.{option}", NEVER[option])


@pytest.fixture(scope="module")
def data():
    return untrained(), *world()


@pytest.mark.parametrize("name", list(METHODS))
def test_every_bad_value_of_every_option_is_refused_before_any_work(name, data, monkeypatch):
    module = importlib.import_module("unpact_lens.unlearning.unlearn")
    monkeypatch.setattr(module, "Request", lambda *given: pytest.fail("the run started"))
    model, forget, retain = data
    tried = 0
    for option in options_of(METHODS[name]):
        refused, _ = tried_values(name, option)
        for value in refused:
            with pytest.raises(InputError) as error:
                unlearn(model, forget, retain, method=name, progress=False, **{option: value})
            assert str(error.value).startswith(f"{option}={value!r}; "), (option, value)
            assert "\n" not in str(error.value)
            tried += 1
    assert tried > 150


@pytest.mark.parametrize("name", list(METHODS))
def test_every_good_value_is_accepted_and_numeric_text_is_read_as_its_number(name, data):
    method = METHODS[name]
    for option in options_of(method):
        bounds = {"only", "anchor", "radius"}
        if (option in bounds and "rank" in method.defaults) or (option == "rank" and bounds & set(method.defaults)):
            continue  # a rank and a bound are refused together
        for value in tried_values(name, option)[1]:
            if option == "share" and value is None and name.startswith("npo_local"):
                continue  # this method has no other way to choose
            settings, own = split({option: value}, default_settings(method, data[0], {}), method.options)
            read = own[option] if option in own else getattr(settings, option)
            if isinstance(value, str) and isinstance(options_of(method)[option], Number):
                assert read == float(value)
                assert not isinstance(read, str)


def test_the_table_names_every_option_and_every_option_is_declared():
    known = set(SHARED).union(*(m.options for m in METHODS.values()))
    assert known == {option for option in NEVER if "." not in option}
    for method in METHODS.values():
        for name, option in method.options.items():
            assert isinstance(option, Option), (method.name, name)
            option.accepts.read(name, option.default)  # a default is itself accepted
        Settings(**method.defaults)


@pytest.mark.parametrize("name", sorted(BETA_ABOVE_0))
def test_beta_of_losses_that_divide_by_it_must_be_positive(name, data):
    for beta in (0, 0.0, "0"):
        with pytest.raises(InputError, match=r"beta=.*; give a finite number above 0"):
            unlearn(*data, method=name, beta=beta, progress=False)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("seed", None), ("seed", -1), ("seed", 0.5), ("seed", "x"), ("seed", True), ("track_every", 0),
     ("track_every", None), ("checkpoint_every", 0), ("checkpoint_every", "often"), ("stop_at", "soon"),
     ("stop_at", -0.1), ("stop_at", True), ("stop_at", math.nan)],
)  # fmt: skip
def test_other_arguments_are_checked_too(argument, value, data):
    with pytest.raises(InputError, match=f"{argument}.*{value!r}; give a (whole )?number"):
        unlearn(*data, method="ga", progress=False, **{argument: value})
    assert StopRule("0.5", "1e-1") == StopRule(0.5, 0.1)


def test_text_and_number_give_the_same_run(data):
    plain = unlearn(*data, method="npo_gdr", **{**ONE, "lr": 1e-4, "beta": 0.5, "seed": 3})
    text = unlearn(*data, method="npo_gdr", **{**ONE, "lr": "1e-4", "beta": "0.5", "seed": "3", "steps": "1"})
    assert text == plain
    assert text.config["lr"] == 1e-4


def test_numbers_of_other_libraries_are_accepted():
    assert Number(0).read("x", np.float32(0.5)) == 0.5
    assert Number(0, whole=True).read("x", np.int64(3)) == 3
    with pytest.raises(InputError, match=r"x=tensor"):
        Number(0).read("x", torch.tensor([1.0, 2.0]))


def test_a_method_of_ones_own_may_declare_defaults_alone(data):
    made = Method("own", "l", "f", "s", forget=lambda view, options: view.log_probs.mean(),
                  options={"rate": 0.5, "on": True, "how": "fast", "what": None})  # fmt: skip
    METHODS._found()["own"] = made
    try:
        u = unlearn(*data, method="own", rate="0.25", on="false", what=3, **ONE)
        assert (u.config["rate"], u.config["on"], u.config["how"], u.config["what"]) == (0.25, False, "fast", 3)
        with pytest.raises(InputError, match="rate='x'; give a finite number"):
            unlearn(*data, method="own", rate="x", **ONE)
    finally:
        del METHODS._found()["own"]


@pytest.mark.parametrize(
    ("accepts", "words"),
    [
        (Number(), "a finite number"),
        (Number(1, whole=True), "a whole number of at least 1"),
        (Number(0, 1, above=True), "a number above 0 and at most 1"),
        (Number(0, 1), "a number from 0 to 1"),
        (OneOf(("a", "b", "c")), "'a', 'b' or 'c'"),
        (Flag(), "True or False"),
        (MaybeFlag(), "True, False or None"),
        (Text(), "a text"),
        (Texts(optional=True), "a list of at least one text, or None"),
        (Model(), "a model from load_model()"),
    ],
)
def test_messages_say_what_would_be_accepted(accepts, words):
    assert accepts.words() == words
    with pytest.raises(InputError) as error:
        accepts.read("x", object)
    assert str(error.value).endswith(words)


@pytest.mark.parametrize(("given", "value"), [(None, None), (True, True), ("false", False), ("yes", True)])
def test_a_flag_may_be_left_to_the_run(given, value):
    assert MaybeFlag().read("end_token", given) is value


@pytest.mark.parametrize("given", ["perhaps", 1, 0.5, []])
def test_a_flag_that_may_be_left_says_what_it_accepts(given):
    with pytest.raises(InputError, match=re.escape(f"end_token={given!r}; give True, False or None")):
        MaybeFlag().read("end_token", given)
