"""A checkpoint belongs to one run: whatever changes of a run's inputs, its state is not resumed."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from tests.unlearning.conftest import untrained, word_tokenizer, world
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.unlearning import METHODS, StopRule, unlearn
from unpact_lens.unlearning.checkpointing import fingerprint, plain
from unpact_lens.unlearning.option import Flag, Number, OneOf, declared
from unpact_lens.unlearning.settings import Settings

FORGET, RETAIN = world()
FORGET = [dataclasses.replace(q, perturbed=(" the town was oslo .", " the town was lima ."), wrong_subject=q.prompt,
                              meta={"page": 1}) for q in FORGET]  # fmt: skip


def model(**changes):
    return untrained(n_layers=1, dtype=torch.float32, n_ctx=48, **changes)


def run(folder, **given):
    start = {"model": model(), "forget": FORGET, "retain": RETAIN, "method": "dpo_gdr", "lr": 1e-4, "steps": 1,
             "batch_size": 2, "progress": False, "checkpoint": folder, "forget_score": half, "retain_score": half,
             **given}  # fmt: skip
    return unlearn(start.pop("model"), start.pop("forget"), start.pop("retain"), **start)


def half(model):
    return 0.5


def third(model):
    return 1 / 3


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    run(folder)
    return folder


def with_item(items, **changes):
    """Change the last item only."""
    return [*items[:-1], dataclasses.replace(items[-1], **changes)]


FIELDS = {
    "prompt": "tell the work of cid", "answer": " the work is cairo .", "paraphrases": ("what was the job",),
    "kind": "date", "id": "other", "subject": "other", "fact_span": None, "group": "far", "wrong_subject": "other",
    "perturbed": (" the work is baker .",), "choices": (FORGET[-1].answer, " no"), "meta": {"page": 2},
    "aliases": ("other",),
}  # fmt: skip


def other_setting(name):
    """Another accepted value of a shared hyperparameter."""
    field = next(f for f in dataclasses.fields(Settings) if f.name == name)
    accepts, default = field.metadata["accepts"], field.default
    special = {"modules": ("blocks.0.mlp",), "stop": ("x",), "prefill": " the", "lr": 2e-4, "steps": 2, "batch_size": 3,
               "beta1": 0.8, "beta2": 0.99, "phrasings": "all", "rank": 2, "only": ("L0H0",),
               "end_token": True}  # fmt: skip
    if name in special:
        return special[name]
    if isinstance(accepts, Flag):
        return not default
    if isinstance(accepts, OneOf):
        return next(t for t in accepts.texts if t != default)
    assert isinstance(accepts, Number)
    return (default or 1) + 1


def changed_tokenizer():
    made = model()
    made.tokenizer = word_tokenizer()
    made.tokenizer.add_tokens(["brand-new"])
    return made


def chat_template():
    made = model()
    made.tokenizer = copy.deepcopy(made.tokenizer)
    made.tokenizer.chat_template = "{{ messages }}"
    return made


def changed_weight():
    made = clone(model())
    made.blocks[0].mlp.b_out.data[0] += 1e-6
    return made


def changed_config():
    made = clone(model())
    made.cfg.eps *= 2
    return made


CHANGES = {
    **{f"forget.{f.name}": {"forget": with_item(FORGET, **{f.name: FIELDS[f.name]})}
       for f in dataclasses.fields(QA) if f.name in FIELDS},
    **{f"retain.{f.name}": {"retain": with_item(RETAIN, **{f.name: FIELDS[f.name]})}
       for f in dataclasses.fields(QA) if f.name in FIELDS and f.name not in ("choices",)},
    "best check": {"keep": "best"},
    "forget item more": {"forget": [*FORGET, RETAIN[0]]},
    "forget order": {"forget": FORGET[::-1]},
    "retain item less": {"retain": RETAIN[1:]},
    **{f"setting {f.name}": {f.name: other_setting(f.name)} for f in dataclasses.fields(Settings) if f.name != "chat"},
    "option beta": {"beta": 0.2}, "option scale": {"scale": 2.0}, "option n_alternatives": {"n_alternatives": 2},
    "option alternatives": {"alternatives": [" the town was oslo ."] * len(FORGET)},
    "method": {"method": "dpo_klr"}, "seed": {"seed": 1},
    "weights": {"model": changed_weight()}, "config": {"model": changed_config()},
    "tokenizer": {"model": changed_tokenizer()}, "chat template": {"model": chat_template()},
    "stop rule forget": {"stop_at": StopRule(forget=0.1)}, "stop rule retain": {"stop_at": StopRule(retain=0.1)},
    "forget score": {"forget_score": third}, "retain score": {"retain_score": third},
    "track": {"track": [RETAIN[0]]}, "track every": {"track_every": 3},
}  # fmt: skip


def test_every_field_of_a_question_is_changed_in_turn():
    assert {f.name for f in dataclasses.fields(QA)} <= set(FIELDS)


OF_HOOKED = ("setting only", "config")
"""Changes that only a `HookedTransformer` has: heads apart, and a configuration that its forward pass reads."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.hooked] if name in OF_HOOKED else []) for name in CHANGES]
)
def test_state_of_a_run_with_any_other_input_is_refused(state, name):
    with pytest.raises(InputError, match="holds a run with another model, data or settings"):
        run(state, **CHANGES[name])


def test_state_of_the_same_run_is_resumed(state):
    again = run(state, checkpoint_every=7, progress=True)  # neither changes the result
    assert len([r for r in again.history.rows if r["step"] == 1]) == 1


def test_inputs_of_a_run_are_changed_completely():
    """`unlearn` has no argument that this file does not change, but those that cannot change the result."""
    import inspect

    arguments = set(inspect.signature(unlearn).parameters)
    kept_out = {"checkpoint", "checkpoint_every", "progress", "settings", "hyperparameters", "on_check"}
    changed = {k for change in CHANGES.values() for k in change}
    assert arguments - kept_out <= changed | {"model"}


OTHER = {
    "alternatives": [" x"],
    "answers": [" x"],
    "refusals": (" no",),
    "coefficient": 2.0,
    "reinforce_lr": 1e-3,
    "layer": 1,
    "share": 0.5,
    "c": 1.0,
}


@pytest.mark.parametrize("method", list(METHODS))
def test_every_option_of_every_method_changes_the_fingerprint(method):
    options = {n: declared(o) for n, o in METHODS[method].options.items()}
    defaults = {n: o.default for n, o in options.items()}
    for name, option in options.items():
        if name == "small":
            continue
        if name in OTHER:
            other = OTHER[name]
        elif isinstance(option.accepts, OneOf):
            other = next(t for t in option.accepts.texts if t != option.default)
        else:
            other = (not option.default) if isinstance(option.default, bool) else (option.default or 0) + 0.125
        assert fingerprint({"options": {**defaults, name: other}}) != fingerprint({"options": defaults})


def test_models_data_and_functions_count_with_their_content():
    a, b = model(), model(seed=3)
    assert plain(a) == plain(clone(a)) != plain(b)
    assert plain({"small": a}) != plain({"small": b})
    assert plain(torch.zeros(2)) != plain(torch.zeros(3)) != plain(torch.zeros(3).double())
    assert plain(Corpus(("a", "b"))) != plain(Corpus(("a", "c")))
    assert plain(Benchmark("x", (), ())) != plain(Benchmark("y", (), ()))
    assert plain(half) != plain(third)
    assert plain({1, 2}) == plain({2, 1})
    assert plain({"a": 1}) != plain({"a": "1"})
    with pytest.raises(TypeError, match="content of a object is not known"):
        plain(object())
