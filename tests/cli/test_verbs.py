"""Run the command line: results on stdout, one-line errors on stderr, documented exit status."""

import json
import subprocess
import sys

import pytest
import torch
import typer

import unpact_lens as ul
from tests.models.families import hf_model, tokenizer
from unpact_lens import cli


def test_attribute_prints_one_score_per_token(unpact):
    status, out, _ = unpact("attribute", "What is the opposite of hot?", "--json")
    rows = json.loads(out)
    assert status == 0
    assert "".join(r["token"] for r in rows) == "What is the opposite of hot?"
    assert max(rows, key=lambda r: r["score"])["token"].strip() in "opposite hot"


@pytest.mark.parametrize("option", [(), ("--attribution",), ("--metrics",)])
def test_methods_lists_names_and_sources(unpact, option):
    status, out, _ = unpact("methods", *option, "--json")
    rows = json.loads(out)
    assert status == 0
    assert rows
    assert all(r["name"] and r["source"] for r in rows)


def test_an_unlearned_model_is_saved_and_can_be_compared(unpact, tmp_path):
    out = str(tmp_path / "ga")
    settings = ("--set", "lr=1e-3", "--set", "steps=2")
    status, text, err = unpact("unlearn", "--method", "ga", "--out", out, *settings, "--json")
    assert status == 0, err
    said = json.loads(text)
    assert (said["method"], said["steps"], said["out"]) == ("ga", 2, out)
    assert said["F"]["n"] > 0
    assert said["next"] == f"unpact recover {out} --before builtin --control builtin-retrain"
    question, answer = "What is the opposite of hot?", " The other end is cold."
    status, text, err = unpact("diff", "builtin", out, question, answer, "--json")
    assert status == 0, err
    assert {"component", "before", "after", "delta"} <= json.loads(text)[0].keys()


def test_tune_searches_the_ranges_and_saves_the_trials(unpact, tmp_path):
    arguments = ("tune", "--method", "ga", "--budget", "2", "--level", "0.99", "--range", "lr=1e-3..2e-3")
    fixed = ("--range", "steps=1..2", "--set", "check_every=1", "--set", "max_new_tokens=8")
    status, out, err = unpact(*arguments, *fixed, "--out", str(tmp_path / "t"), "--json")
    assert status == 0, err
    trials = json.loads(out)
    assert len(trials) == 2
    assert all(1e-3 <= t["lr"] <= 2e-3 and t["steps"] in (1, 2) for t in trials)
    assert ul.load(tmp_path / "t").best.keys() == {"lr", "steps"}


def test_unlearn_sequence_reports_each_request(unpact, tmp_path):
    settings = ("--set", "lr=1e-3", "--set", "steps=1", "--set", "max_new_tokens=8")
    arguments = ("unlearn-sequence", "--method", "ga", "--requests", "2", "--out", str(tmp_path / "s"), *settings)
    status, out, err = unpact(*arguments, "--json")
    assert status == 0, err
    assert [{"F_0", "F_1", "D", "stopped"} <= set(row) for row in json.loads(out)] == [True] * 2
    assert len(ul.load(tmp_path / "s").runs) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "--method", "ga", "--range", "lr=1e-4"), "--range lr=0.0001 is not NAME=LOW..HIGH, e.g. --range lr="),
        (("unlearn-sequence", "--method", "ga", "--requests", "99", "-o", "x"), "requests=99; the forget set has"),
        (("demo", "--model", "gpt5"), "the demo runs on 'builtin' or 'smollm2', not 'gpt5'"),
        (("attribute", "x", "--model", "biltin"), "did you mean 'builtin'"),
        (("attribute", "x", "--method", "leave_one"), "did you mean 'leave_one_out'"),
        (("attribute", ""), "prompt '' is 0 tokens long"),
        (("attribute", "a", ""), "answer '' is 0 tokens long"),
        (("unlearn", "--method", "npo_grd", "--out", "x"), "did you mean 'npo_gdr'"),
        (("unlearn", "--method", "ga", "--out", "x", "--set", "lr"), "--set 'lr' is not NAME=VALUE"),
        (("unlearn", "--method", "ga", "--out", "x", "--benchmark", "tofo"), "did you mean 'tofu'"),
        (("study", "nosuch.yaml"), "no study configuration 'nosuch.yaml'"),
        (("report", "nowhere"), "no result at nowhere"),
        (("recover", "nowhere-at-all/model"), "nowhere-at-all/model"),
    ],
)
def test_wrong_input_gives_one_line_and_status_2(unpact, arguments, message):
    status, _, err = unpact(*arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_an_internal_error_gives_status_1(unpact, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr("unpact_lens.methods", broken)
    status, _, err = unpact("methods")
    assert status == 1
    assert "internal error: RuntimeError: boom" in err


COMMANDS = typer.main.get_command(cli.app).commands


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(unpact, command):
    status, out, _ = unpact(command, "--help")
    assert status == 0
    assert f"Example: unpact {command} " in " ".join(out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text(command):
    assert [p.name for p in COMMANDS[command].params if not getattr(p, "help", None)] == []


def test_importing_the_package_loads_no_torch():
    code = "import sys, unpact_lens; assert unpact_lens.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_evaluate_prints_metrics_and_forgetting(unpact, own, tmp_path):
    arguments = ("evaluate", "builtin", "--benchmark", "pairs", "--data", own, "--before", "builtin")
    status, out, err = unpact(*arguments, "--metric", "exact_match", "--out", str(tmp_path / "s"), "--json")
    assert status == 0, err
    rows = {(r["metric"], r["group"]): r for r in json.loads(out)}
    assert [rows["fact_span", g]["value"] for g in ("forget", "near", "far")] == [1, 1, 0]
    assert rows["forgetting", "forget"]["value"] == 0
    assert (tmp_path / "s" / "result.json").is_file()


@pytest.mark.parametrize(("form", "starts"), [("--markdown", "| metric | group |"), ("--latex", r"\begin{tabular}")])
def test_evaluate_prints_markdown_and_latex(unpact, own, form, starts):
    status, out, _ = unpact("evaluate", "builtin", "--benchmark", "pairs", "--data", own, form)
    assert status == 0
    assert out.startswith(starts)


def test_known_facts_counts_by_group_and_relation(unpact, own):
    status, out, err = unpact("known-facts", "builtin", "--benchmark", "pairs", "--data", own, "--json")
    assert status == 0, err
    assert [(r["group"], r["asked"], r["known"]) for r in json.loads(out)] == [
        ("forget", 1, 1), ("near", 1, 1), ("far", 1, 0),
    ]  # fmt: skip


def test_an_exported_model_loads_in_plain_transformers(unpact, tmp_path):
    from transformers import AutoModelForCausalLM

    own = hf_model("llama")
    own.save_pretrained(tmp_path / "own")
    tokenizer().save_pretrained(tmp_path / "own")
    status, out, err = unpact("export", str(tmp_path / "own"), str(tmp_path / "hf"))
    assert status == 0, err
    assert out.strip() == str(tmp_path / "hf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(again(ids).logits, own(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "builtin", "--latex", "--json"), "--markdown, --latex and --json exclude each other"),
        (("evaluate", "builtin", "--beside", "muse-new"), "did you mean 'muse-news'"),
        (("evaluate", "builtin", "--metric", "rouge"), "unknown metric 'rouge'"),
        (("known-facts", "--benchmark", "facts", "--set", "relations=capitol"), "unknown relation 'capitol'"),
        (("export", "biltin", "x"), "did you mean 'builtin'"),
    ],
)
def test_wrong_input_to_evaluate_known_facts_and_export_is_named(unpact, arguments, message):
    status, _, err = unpact(*arguments)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
