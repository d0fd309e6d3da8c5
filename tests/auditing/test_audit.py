"""An audit says the same as its parts, leaves out what it cannot know, and loses nothing when it stops."""

import json
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
from huggingface_hub import ModelCard

import unpact_lens as ul
from tests.auditing.facts import table
from unpact_lens.auditing import BUDGETS, Budget, audit_run
from unpact_lens.auditing.audit_run import AuditRun
from unpact_lens.auditing.compare_audits import compare_audits
from unpact_lens.auditing.given_model import GivenModel, split_revision
from unpact_lens.auditing.output_folder import open_audit_folder
from unpact_lens.auditing.record import record_schema
from unpact_lens.auditing.verify import verify_audit
from unpact_lens.evaluation.known_facts import right_facts

SMALL = Budget("small", 1, 12, 40, ("focus_list",), ("prefill", "quantize_4"), 2, 1, 1, 1)
LARGER = Budget("larger", 1, 12, 40, ("focus_list", "quotes"), ("prefill", "quantize_4", "noise"), 3, 1, 1, 1)
OPTIONS = {"max_new_tokens": 12, "progress": False}


def audited(after, out=None, **changes):
    given = {"before": "builtin", "facts": table(), "budget": SMALL, "out": out, **OPTIONS, **changes}
    return ul.audit(after, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("audits") / "retrained"


@pytest.fixture(scope="module")
def retrained(folder):
    return audited("builtin-retrain", folder)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory):
    return audited("builtin", tmp_path_factory.mktemp("audits") / "knowing", control="builtin-retrain")


def test_f_and_d_are_the_shares_of_known_facts_that_are_lost(retrained):
    before, after = ul.load_model("builtin"), ul.load_model("builtin-retrain")
    bench = ul.auditing.read_facts(table(), max_new_tokens=12).bench
    for items, measured in ((bench.forget, retrained.forgetting), (bench.unseen, retrained.destruction)):
        known, kept = (right_facts(m, items, bench=bench) for m in (before, after))
        lost = [not k for b, k in zip(known, kept, strict=True) if b]
        assert (measured.value, measured.n) == (sum(lost) / len(lost), len(lost))


def test_a_model_that_never_changed_is_insufficient(knowing):
    assert "insufficient" in knowing.verdict.labels
    assert knowing.sentences()[0].startswith("Insufficient: the unlearned model still gives 100% [")
    assert knowing.diffs[0].delta_logit.abs().max() == 0
    assert knowing.depth is not None


def test_the_record_fits_the_schema_that_is_shipped(retrained, folder):
    shipped = json.loads((Path(ul.auditing.__file__).parent / "audit.schema.json").read_text())
    assert shipped == json.loads(json.dumps(record_schema()))
    record = json.loads((folder / "audit.json").read_text())
    jsonschema.validate(record, shipped)
    assert record["models"]["before"]["weights_sha256"] == retrained.models["before"].weights
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**record, "verdict": {**record["verdict"], "labels": ["fine"]}}, shipped)


def test_the_card_has_metadata_that_the_hub_reads(retrained, folder):
    card = ModelCard((folder / "card.md").read_text())
    found = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert found["f"] == pytest.approx(retrained.forgetting.value, abs=1e-4)
    assert "## Unlearning audit" in card.text
    assert retrained.data["sha256"] in card.text


def test_the_saved_audit_equals_the_returned_one(retrained, folder):
    assert ul.load(folder).to_frame().equals(retrained.to_frame())
    assert "Audit of" in (folder / "report.html").read_text()


def test_nothing_is_asked_twice(retrained, folder, monkeypatch):
    def refused(*arguments, **options):
        raise AssertionError("a finished part was made again")

    monkeypatch.setattr(
        "unpact_lens.evaluation.answers.generate_answers",
        lambda model, prompts, **o: ["x"] * len(prompts) if len(prompts) <= 8 else refused(),
    )
    monkeypatch.setattr("unpact_lens.auditing.audit_run.diff", refused)
    assert audited("builtin-retrain", folder).to_frame().equals(retrained.to_frame())


def test_a_larger_budget_reads_what_a_smaller_one_made(tmp_path, monkeypatch):
    audited("builtin-retrain", tmp_path)
    made = []
    extend = audit_run.with_probes
    monkeypatch.setattr(
        audit_run, "with_probes", lambda plan, b, names, **o: made.extend(names) or extend(plan, b, names, **o)
    )
    found = audited("builtin-retrain", tmp_path, budget=LARGER)
    assert made == ["noise"]
    alone = audited("builtin-retrain", None, budget=LARGER)
    assert found.to_frame().equals(alone.to_frame())


def test_an_audit_that_stops_half_way_keeps_its_answers(tmp_path, monkeypatch):
    def stop(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(AuditRun, "recovered", stop)
        with pytest.raises(KeyboardInterrupt):
            audited("builtin-retrain", tmp_path)
    kept = (tmp_path / "answers.jsonl").read_text().count("\n")
    assert kept > 20
    with (tmp_path / "answers.jsonl").open("a") as stream:
        stream.write('{"model": "cut off in the mid')
    asked = []
    generate = ul.evaluation.answers.generate_answers
    monkeypatch.setattr(
        "unpact_lens.evaluation.answers.generate_answers",
        lambda model, prompts, **o: asked.extend(prompts) or generate(model, prompts, **o),
    )
    found = audited("builtin-retrain", tmp_path)
    monkeypatch.undo()
    assert not {q["question"] for q in table()[12:]} & set(asked)
    assert found.to_frame().equals(audited("builtin-retrain").to_frame())


def test_without_an_original_model_f_is_undefined_and_said():
    found = audited("builtin", before=None)
    assert found.forgetting.n == 0
    assert found.left_out["forgetting"] == "needs the original model (--before)"
    assert found.verdict.labels == ("insufficient",)
    assert found.diffs == ()
    assert any("No original model was given" in note for note in found.notes)


def test_without_an_original_model_d_is_relative_to_the_retrained_one():
    found = audited("builtin", before=None, control="builtin-retrain")
    assert found.destruction.n > 5  # facts that the retrained model knows
    assert found.destruction.value < 0.3


def test_without_unseen_facts_general_ones_are_asked():
    found = audited("builtin-retrain", facts=table(unseen=0))
    assert any("general facts that are shipped" in note for note in found.notes)
    assert found.destruction.n == 0  # this model knows its own world only
    assert any("fewer than 10" in note for note in found.notes)


def test_facts_that_the_original_model_does_not_know_are_excluded():
    unknown = [{"question": f"What is the birthplace of Person {i}?", "answer": "Nowhereton"} for i in range(3)]
    found = audited("builtin-retrain", facts=[*table(), *unknown])
    assert found.counts["unknown"] == 3
    assert any("does not give 3 of 15 forget facts" in note for note in found.notes)


def never(*arguments, **options):
    raise AssertionError("a model was loaded before its inputs were checked")


BEFORE_LOADING = [
    ({"before": "/nowhere/model"}, "original model: no directory '/nowhere/model'"),
    ({"before": "some/model"}, "original model: 'some/model' is no directory and not in the local hub cache"),
    ({"before": "/tmp"}, "original model: /tmp holds no model"),
    ({"facts": None}, "give either facts= .* or benchmark="),
    ({"facts": "nosuch.csv"}, "nosuch.csv does not exist"),
    ({"budget": "standrad"}, "did you mean 'standard'"),
    ({"seen": "some"}, "seen='some'; give 'split', 'all', 'none'"),
    ({"epsilon": 2.0}, "epsilon=2.0"),
]


@pytest.mark.parametrize(("changes", "message"), BEFORE_LOADING)
def test_wrong_input_is_named_before_any_model_is_loaded(changes, message, monkeypatch):
    monkeypatch.setattr("unpact_lens.auditing.given_model.load_model", never)
    with pytest.raises(ul.InputError, match=message):
        audited("builtin", **changes)


def test_a_directory_that_is_not_an_audits_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ul.InputError, match="holds no audit"):
        open_audit_folder(tmp_path)


def test_too_few_known_facts_are_counted():
    unknown = [{"question": f"What is the birthplace of Person {i}?", "answer": "Nowhereton"} for i in range(3)]
    with pytest.raises(
        ul.InputError, match=r"gives \d of the 12 forget facts, and an audit needs 10 .* add at least \d"
    ):
        audited("builtin-retrain", facts=[*table(forget=9), *unknown])
    with pytest.raises(ul.InputError, match=r"9 forget facts are given, and an audit needs 10; add at least 1 more"):
        audited("builtin-retrain", before=None, facts=table(forget=9))


def test_a_control_that_knows_the_facts_is_refused():
    with pytest.raises(ul.InputError, match=r"this control gives \d+% of the forget facts: it is no retrained model"):
        audited("builtin-retrain", control="builtin")


def test_models_of_other_shapes_compare_by_answers_only():
    from tests.models.families import hf_model, tokenizer

    found = audited((hf_model("gpt2"), tokenizer()))
    assert "cannot be compared weight by weight" in found.left_out["diffs"]
    assert found.forgetting.value == 1.0
    assert found.diffs == ()


def test_an_audit_is_verified_by_its_hashes_and_answers(retrained, folder):
    found = verify_audit(folder)
    assert found.agrees
    assert {what for what, _, _ in found.checks} >= {"answers.jsonl", "report.html", "after model", "before answers"}


def test_a_changed_answer_is_found(retrained, folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    lines = (copy / "answers.jsonl").read_text().splitlines()
    changed = [json.dumps({**json.loads(line), "text": " Changed."}) for line in lines]
    (copy / "answers.jsonl").write_text("\n".join(changed))
    found = {what: outcome for what, outcome, _ in verify_audit(copy).checks}
    assert (found["answers.jsonl"], found["after answers"], found["after model"]) == ("differs", "differs", "agrees")


def test_finished_audits_are_on_one_plane(retrained, knowing, folder):
    found = compare_audits([folder, knowing])
    assert list(found.to_frame()["method"]) == ["builtin-retrain", "builtin"]
    assert found.plot().data
    with pytest.raises(ul.InputError, match="give at least two"):
        compare_audits([folder])


def test_a_notebook_shows_verdict_plane_and_maps(retrained):
    shown = retrained._repr_mimebundle_()["text/html"]
    assert retrained.sentences()[0][:20] in shown
    assert shown.count("<img") == 2
    assert "<script" not in shown
    assert repr(retrained).startswith("Audit(builtin-retrain, ")


def test_a_revision_is_read_from_a_hub_id(tmp_path):
    assert split_revision("org/name@main") == ("org/name", "main")
    place = tmp_path / "a@b"
    place.mkdir()
    assert split_revision(str(place)) == (str(place), None)


def test_models_that_a_step_does_not_need_leave_memory():
    from unpact_lens.auditing.given_model import GivenModels

    models = GivenModels({role: GivenModel(role, "builtin") for role in ("after", "before", "control")})
    models.only("before", "after")
    models.only("control")
    assert [role for role, model in models.given.items() if model.loaded] == ["control"]


def test_an_endpoint_is_audited_by_its_answers():
    from tests.attribution.server import Server

    with Server(ul.load_model("builtin-retrain")) as server:
        found = audited(ul.Endpoint(server.url, "served"), budget=SMALL)
    local = audited("builtin-retrain")
    assert found.forgetting.value == local.forgetting.value
    assert found.recovery.rate("prefill").value == local.recovery.rate("prefill").value
    assert "endpoint" in found.left_out["quantize_4"]
    assert "endpoint" in found.left_out["diffs"]


def test_budgets_only_grow():
    order = list(BUDGETS.values())
    for small, large in pairwise(order):
        assert set(small.probes) <= set(large.probes)
        assert set(small.templates) <= set(large.templates)
        assert small.forget < large.forget


def test_no_unlearned_model_is_refused():
    with pytest.raises(ul.InputError, match="after=None; give the unlearned model: a directory"):
        ul.audit(None, facts=[])
