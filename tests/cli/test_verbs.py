"""Run the command line: results on stdout, one-line errors on stderr, documented exit status."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

import unpact_lens as ul
from tests.models.families import hf_model, tokenizer
from unpact_lens import cli
from unpact_lens.cli.completion import completer
from unpact_lens.models.generate import generate_answers


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


def test_unlearn_searches_its_settings(unpact, own, tmp_path):
    call = ("unlearn", "--method", "ga", "--benchmark", "pairs", "--data", own, "--out", str(tmp_path / "ga"))
    status, text, err = unpact(*call, "--auto", "--set", "steps=20", "--no-score", "--json")
    assert status == 0, err
    said = json.loads(text)
    trials = said["search"]
    assert {t["steps"] for t in trials} == {20}
    assert said["chosen"].startswith(f"lr={min(trials, key=lambda t: t['lost'] or 2)['lr']:.4g}, 20 steps, F = 1.00")
    assert "searching the settings of ga: at most 5 runs" in err


def test_unlearn_refuses_a_search_of_a_method_without_a_rate_before_it_loads_the_model(unpact, tmp_path):
    status, _, err = unpact("unlearn", "--method", "memit", "--model", "gpt5", "--out", str(tmp_path / "x"), "--auto")
    assert status == 2
    assert "'memit' forms its result otherwise" in err


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


def test_a_version_is_printed(unpact):
    assert unpact("--version") == (0, f"unpact-lens {ul.__version__}\n", "")


def test_known_facts_has_defaults(unpact, one_load, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "unpact_lens.evaluation.knowledge", lambda model, bench: seen.append(bench.name) or ul.metrics()
    )
    assert unpact("known-facts")[0] == 0
    assert seen == ["builtin"]


def example(command):
    """Return the arguments of a command's example."""
    return shlex.split(COMMANDS[command].epilog.split("`")[1])[1:]


@pytest.mark.parametrize("command", ["attribute", "diff"])
def test_examples_ask_for_a_fact_that_the_model_knows(command):
    prompt, answer = example(command)[-2:]
    (qa,) = [q for q in ul.load_benchmark("builtin").forget if q.prompt == prompt]
    assert qa.answer == answer
    assert qa.fact in generate_answers(ul.load_model("builtin"), [prompt], max_new_tokens=24)[0]


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "command-line.md"


def test_the_page_shows_commands_that_exist():
    lines = [line for line in PAGE.read_text().split("```sh")[1].split("```")[0].splitlines() if line]
    assert len(lines) == 7
    for line in lines:
        verb, *arguments = shlex.split(line, comments=True)[1:]
        assert COMMANDS[verb].make_context(verb, arguments).params  # parses every option


@pytest.mark.parametrize(
    ("kind", "start", "name"),
    [
        ("model", "built", "builtin-retrain"), ("benchmark", "wmdp", "wmdp-bio"), ("method", "npo_", "npo_gdr"),
        ("metric", "rouge", "rouge_l"), ("attribution", "leave", "leave_one_out"), ("probe", "quan", "quantize_4"),
        ("study", "demo", "demo-smollm2"),
    ],
)  # fmt: skip
def test_names_are_completed_and_kept(kind, start, name, monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path))
    found = completer(kind)(start)
    assert name in found
    assert all(n.startswith(start) for n in found)
    monkeypatch.setattr("unpact_lens.cli.completion.registered", lambda kind: pytest.fail("not read from the cache"))
    assert completer(kind)(start) == found
    (tmp_path / "names.json").write_text("[1")
    monkeypatch.setattr("unpact_lens.cli.completion.registered", lambda kind: ["fresh"])
    assert completer(kind)("fr") == ["fresh"]


QUESTION = ("What is the birthplace of Halvan Quinford?", " The place was Foxhollow.")


def test_a_figure_is_written_as_html_that_needs_no_network(unpact, one_load, tmp_path):
    for call in (("attribute", *QUESTION), ("diff", "builtin", "builtin-retrain", *QUESTION)):
        file = tmp_path / "new" / f"{call[0]}.html"
        status, _, err = unpact(*call, "--html", str(file))
        assert status == 0, err
        text = file.read_text()
        assert "Plotly.newPlot" in text
        assert "<script src=" not in text


def test_a_png_is_written_without_kaleido_and_browser(unpact, one_load, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    file = tmp_path / "new" / "x.png"
    status, _, err = unpact("attribute", *QUESTION, "--png", str(file))
    assert status == 0, err
    assert Image.open(file).width == 1800


@pytest.mark.parametrize(("option", "name"), [("--png", "x.html"), ("--png", "x"), ("--html", "x.png")])
def test_a_figure_file_of_another_kind_is_refused_before_any_work(unpact, monkeypatch, tmp_path, option, name):
    monkeypatch.setattr("unpact_lens.load_model", lambda *a, **k: pytest.fail("work began"))
    status, _, err = unpact("attribute", *QUESTION, option, str(tmp_path / name))
    assert status == 2
    assert f"end it in .{option[2:]}" in err


@pytest.mark.parametrize("option", ["--out", "--html", "--checkpoint"])
@pytest.mark.parametrize("place", ["file", "file/x", "n" * 300, ""])
def test_outputs_are_checked_before_any_work(unpact, monkeypatch, tmp_path, option, place):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("unpact_lens.load_model", lambda *a, **k: pytest.fail("work began"))
    where = str(tmp_path / place) if place else ""
    if option == "--html" and place == "file":
        where = str(tmp_path)  # a directory in place of a file
    others = () if option == "--out" else ("--out", str(tmp_path / "out"))
    status, _, err = unpact("unlearn", "--method", "ga", *others, option, where)
    assert status == 2
    assert err.count("\n") == 1


def test_a_directory_of_the_user_is_refused(unpact, monkeypatch, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("unpact_lens.load_model", lambda *a, **k: pytest.fail("work began"))
    status, _, err = unpact("unlearn", "--method", "ga", "--out", str(tmp_path))
    assert status == 2
    assert "is not empty and holds no result (e.g. notes.txt); give a new or empty directory" in err


@pytest.mark.parametrize("name", ["method", "model", "track", "progress", "checkpoint", "forget_score"])
def test_set_accepts_settings_only(unpact, tmp_path, name):
    status, _, err = unpact("unlearn", "--method", "ga", "--out", str(tmp_path / "x"), "--set", f"{name}=1")
    assert status == 2
    assert f"--set {name}=… is no setting" in err


def test_next_to_nothing_forgotten_is_said(unpact, one_load, own, tmp_path):
    call = ("unlearn", "--method", "ga", "--benchmark", "pairs", "--data", own, "--set", "lr=1e-9", "--set", "steps=1")
    status, out, err = unpact(*call, "--out", str(tmp_path / "x"))
    assert status == 0, err
    said = " ".join(out.split())
    assert "F = 0.000" in said
    assert "warning: F = 0.00: almost nothing is forgotten; raise lr or steps, or search them with `unpact tune" in said
    assert "verdict so far: " in said
    assert "next: unpact recover" in said


def test_recovery_says_why_no_fact_counts(unpact, one_load, own):
    status, out, err = unpact("recover", "builtin", "--benchmark", "pairs", "--data", own, "--probe", "prefill")
    assert status == 0, err
    assert "n = 0: the unlearned model still answers all 1 facts that the original model knows" in " ".join(out.split())


def test_asking_options_reach_the_model(unpact, own, one_load, monkeypatch):
    seen = []

    def noted(model, bench):
        seen.append((bench.chat, bench.prefill, bench.max_new_tokens))
        return ul.metrics()

    monkeypatch.setattr("unpact_lens.evaluation.knowledge", noted)
    call = ("known-facts", "--benchmark", "pairs", "--data", own, "--json")
    unpact(*call)
    unpact(*call, "--chat", "--prefill", " The", "--max-new-tokens", "99")
    unpact(*call, "--no-chat", "--prefill", "")
    assert seen == [(False, "", 24), (True, " The", 99), (False, "", 24)]


def test_a_model_without_a_chat_template_is_named(unpact, own, one_load):
    status, _, err = unpact("known-facts", "--benchmark", "pairs", "--data", own, "--chat")
    assert status == 2
    assert "chat template" in err


def test_without_a_command_the_help_is_shown_once(unpact):
    status, out, err = unpact()
    assert (status, err) == (2, "")
    assert out.count("Usage: unpact") == 1
    assert out.index(" demo ") < out.index(" unlearn ") < out.index(" recover ") < out.index(" builtin ")
