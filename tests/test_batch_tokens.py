"""Without `batch_tokens`, a run chooses its batches from the free memory once, up to 4096 tokens, and says so."""

import dataclasses
import functools
import importlib
import inspect
import sys

import pytest

import unpact_lens as ul
from scripts.api_summary import PACKAGES
from tests.auditing.facts import table
from tests.evaluation.world import benchmark, retrained, trained
from tests.study.small_study import METHODS, small_config
from unpact_lens.auditing import Budget, audit_run
from unpact_lens.auditing.audit import Asked
from unpact_lens.errors import InputError
from unpact_lens.evaluation.perplexity import WINDOW
from unpact_lens.models import memory
from unpact_lens.models.asking import Asking
from unpact_lens.models.batches import DEFAULT_BATCH_TOKENS, length_batches
from unpact_lens.models.draw import draw
from unpact_lens.models.memory import MIN_BATCH_TOKENS
from unpact_lens.recovery import Probing, attend_to, lens_ranks, patched_answers, recover, recovery_plan, run_plan
from unpact_lens.recovery.intervened_generation import continuations
from unpact_lens.recovery.probes.early_exit import early_answers
from unpact_lens.recovery.sampling import Sampling, leak, leak_emphasised
from unpact_lens.study import cells, load_config
from unpact_lens.study.cells import study_cell
from unpact_lens.study.folder import FINGERPRINT
from unpact_lens.study.run_study import run_study
from unpact_lens.study.workspace import Workspace

ITEMS = benchmark().forget
PROBES = ("prefill", "attention", "logit_lens", "early_exit", "patch_prompt")
SMALL = Budget("small", 1, 12, 40, ("focus_list", "quotes"), ("prefill", "attention"), 1, 1)


@functools.cache
def plan():
    return recovery_plan(benchmark(), before=trained(), probes=(), relearn=None, progress=False)


@functools.cache
def attribution():
    return ul.attribute(trained(), ITEMS[0].prompt, ITEMS[0].answer)


def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)


@pytest.fixture
def passes(monkeypatch):
    """Sizes of the batches that go through a model, padding included, in tokens."""
    plan(), attribution()  # made before the batches are counted
    sizes = []

    def batches(lengths, batch_tokens):
        for rows in length_batches(lengths, batch_tokens):
            if batch_tokens != WINDOW:  # perplexity is defined by windows of its own
                sizes.append(len(rows) * max(lengths[row] for row in rows))
            yield rows

    for name, module in list(sys.modules.items()):
        # Training has micro-batches of its own.
        asks = name.startswith("unpact_lens.") and not name.startswith("unpact_lens.unlearning")
        if asks and vars(module).get("length_batches") is length_batches and name != length_batches.__module__:
            monkeypatch.setattr(module, "length_batches", batches)
    return sizes


def recovered(folder):
    found = recover(retrained(), benchmark(), before=trained(), probes=PROBES, progress=False)
    return {found.settings["batch_tokens"]}, (found.right_after.tolist(), found.asked.tolist(), found.examples)


def sampled(folder):
    """At a temperature near 0, every draw is the most likely token, whatever the batches."""
    bench = benchmark()
    found = leak(trained(), bench.forget, bench=bench, samples=16, temperature=1e-4)
    return {found.settings["batch_tokens"]}, (found.held.tolist(), found.rank.tolist())


def audit_in(folder):
    return ul.audit(
        "builtin-retrain", before="builtin", facts=table(), budget=SMALL, out=folder, max_new_tokens=12, progress=False
    )


def audited(folder):
    found = audit_in(folder)
    numbers = {s.settings["batch_tokens"] for s in found.scores.values()}
    assert found.recovery is not None
    return (
        {found.settings["batch_tokens"], found.recovery.settings["batch_tokens"]} | numbers,
        (found.recovery.right_after.tolist(), found.verdict.labels, [s.generated for s in found.scores.values()]),
    )


def studied(folder):
    (folder / "data").mkdir(parents=True)
    config = load_config(small_config(folder / "data", methods=METHODS[:1], known_only=True))
    study = run_study(config, folder / "out", progress=False)
    assert study.config["batch_tokens"] is None
    (cell,) = study.cells
    numbers = {r.settings["batch_tokens"] for r in (cell.recovery, cell.scores, study.before, study.control)}
    return numbers, (cell.recovery.right_after.tolist(), cell.scores.generated, cell.verdict.labels)


@pytest.mark.parametrize("run", [recovered, sampled, audited, studied])
def test_a_run_with_little_memory_gives_the_same_answers_in_smaller_batches(run, passes, tmp_path, monkeypatch):
    numbers, answers = run(tmp_path / "plenty")
    assert numbers == {DEFAULT_BATCH_TOKENS}
    assert MIN_BATCH_TOKENS < max(passes) <= DEFAULT_BATCH_TOKENS
    passes.clear()
    little_memory(monkeypatch)
    numbers, fewer = run(tmp_path / "little")
    assert numbers == {MIN_BATCH_TOKENS}
    assert max(passes) <= MIN_BATCH_TOKENS
    assert fewer == answers


def test_draws_are_those_of_the_batch_size_that_is_chosen(passes, monkeypatch):
    def drawn(**options):
        return draw(trained(), [[1, 2, 3]] * 60, max_new_tokens=4, seed=0, **options)

    assert drawn() == drawn(batch_tokens=DEFAULT_BATCH_TOKENS)
    assert max(passes) > MIN_BATCH_TOKENS
    passes.clear()
    little_memory(monkeypatch)
    assert drawn() == drawn(batch_tokens=MIN_BATCH_TOKENS)
    assert max(passes) <= MIN_BATCH_TOKENS


def test_all_draws_of_one_call_have_the_batch_size_of_its_beginning(monkeypatch):
    fixed = plan()
    figures = iter([0])  # A second look at the memory fails.
    monkeypatch.setattr(memory, "free_memory", lambda device: next(figures))
    found = leak_emphasised(trained(), fixed, samples=2)
    assert {f.settings["batch_tokens"] for f in found.values()} == {MIN_BATCH_TOKENS}


def test_an_audit_reads_finished_parts_where_memory_is_little_and_makes_others_in_smaller_batches(
    tmp_path, monkeypatch
):
    first = audited(tmp_path)[1]
    little_memory(monkeypatch)
    made = {"evaluate", "recovery_plan", "with_probes", "run_plan"}
    with monkeypatch.context() as patch:
        for name in made:
            patch.setattr(audit_run, name, lambda *a, **k: pytest.fail("a finished part was made again"))
        assert audited(tmp_path)[1] == first
    (tmp_path / "parts" / "recovery" / FINGERPRINT).unlink()
    for name in made - {"run_plan"}:
        monkeypatch.setattr(audit_run, name, lambda *a, **k: pytest.fail("a finished part was made again"))
    again = audit_in(tmp_path)
    assert {again.settings["batch_tokens"], again.recovery.settings["batch_tokens"]} == {MIN_BATCH_TOKENS}


def test_a_study_goes_on_with_smaller_batches_where_memory_is_little(tmp_path, monkeypatch):
    config = load_config(small_config(tmp_path, methods=METHODS[:1]))
    there = Workspace(config, tmp_path / "out", lambda text: None)
    there.make_shared()
    assert there.plan.settings["batch_tokens"] == DEFAULT_BATCH_TOKENS
    little_memory(monkeypatch)
    here = Workspace(config, tmp_path / "out", lambda text: None)
    monkeypatch.setattr(Workspace, "new_plan", lambda self: pytest.fail("the plan was made again"))
    cell = study_cell(here, config.methods[0], 0)
    assert {r.settings["batch_tokens"] for r in (cell.recovery, cell.scores)} == {MIN_BATCH_TOKENS}
    monkeypatch.undo()
    monkeypatch.setattr(cells.unlearning, "unlearn", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert study_cell(there, config.methods[0], 0) == cell


CALLS = {
    "recover": lambda **o: recover(retrained(), benchmark(), before=trained(), progress=False, **o),
    "recovery_plan": lambda **o: recovery_plan(benchmark(), before=trained(), progress=False, **o),
    "run_plan": lambda **o: run_plan(retrained(), plan(), before=trained(), progress=False, **o),
    "leak": lambda **o: leak(trained(), ITEMS, bench=benchmark(), **o),
    "leak_emphasised": lambda **o: leak_emphasised(trained(), plan(), **o),
    "attend_to": lambda **o: attend_to(trained(), ITEMS, [["live"]] * len(ITEMS), bench=benchmark(), **o),
    "lens_ranks": lambda **o: lens_ranks(trained(), ITEMS, bench=benchmark(), **o),
    "patched_answers": lambda **o: patched_answers(retrained(), trained(), ITEMS, bench=benchmark(), **o),
    "early_answers": lambda **o: early_answers(trained(), [[1, 2]], [0], max_new_tokens=2, **o),
    "continuations": lambda **o: continuations(trained(), [[1, 2]], max_new_tokens=2, **o),
    "draw": lambda **o: draw(trained(), [[1, 2]], max_new_tokens=2, seed=0, **o),
    "audit": lambda **o: ul.audit("builtin-retrain", before="builtin", facts=table(), progress=False, **o),
    "evaluate": lambda **o: ul.evaluate(trained(), benchmark(), **o),
    "known_facts": lambda **o: ul.evaluation.known_facts(trained(), benchmark(), **o),
    "faithfulness": lambda **o: ul.attribution.faithfulness(trained(), [attribution()], **o),
    "attribute": lambda **o: ul.attribute(trained(), ITEMS[0].prompt, ITEMS[0].answer, **o),
}


@pytest.mark.parametrize("value", [0, -1, True, "64", 1.5])
@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_batch_size_is_named_before_the_work(call, value, passes):
    with pytest.raises(InputError, match=f"batch_tokens={value!r}; give a positive whole number of tokens"):
        CALLS[call](batch_tokens=value)
    assert passes == []


def public_calls():
    """Every public function and every set of options that has `batch_tokens`, by name."""
    for home in (ul, *(importlib.import_module(f"unpact_lens.{p}") for p in PACKAGES)):
        for name in home.__all__:
            value = inspect.unwrap(getattr(home, name))
            if inspect.isfunction(value) or dataclasses.is_dataclass(value):
                parameter = inspect.signature(value).parameters.get("batch_tokens")
                if parameter is not None:
                    yield f"{home.__name__}.{name}", parameter.default


def test_batch_tokens_is_none_by_default_in_every_public_call():
    found = dict(public_calls())
    assert {"unpact_lens.evaluate", "unpact_lens.recovery.lens_ranks", "unpact_lens.recovery.run_plan"} <= set(found)
    assert {name: default for name, default in found.items() if default is not None} == {}
    for options in (Asking, Probing, Sampling, Asked):
        assert options().batch_tokens is None
    assert load_config("demo").batch_tokens is None
