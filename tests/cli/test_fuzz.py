"""Whatever is typed, `unpact` ends with status 0 or with 2 and one line, and writes only where it was told to."""

import json
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.cli.conftest import status_of
from unpact_lens import cli

FAST, FULL, SHARDS = 200, 5040, 28
"""Number of calls in `make test` and in `make test-all`, and of tests that share the latter."""

SEED = 20260101
"""Seed of the calls in `make test`; the shards in `make test-all` have `SEED + 1000` and the next ones."""

LONGEST = 30
"""Largest duration of a call, whole seconds."""

HOSTILE = [
    "", " ", "\0", "\udc80", "\n", "[INST]", "[/x]", "[red]", "\x1b[31m", "😀" * 50, "ä", "\u202e", "{prompt}",
    "%s%n", "--", "<|endoftext|>", "-1", "a" * 300, "x" * 5000, "../../etc", "/dev/null/x", "/proc/1/mem", "~nobody/x",
]  # fmt: skip
NUMBERS = [
    "0", "1", "2", "-1", "0.5", "1e-4", "1e400", "-1e400", "nan", "inf", "9" * 40, "4294967296", "18446744073709551616",
    "x", "", "true", "[]", "[1]", "{}", "null", "0x10", "1_000", "1e", "٣",
]  # fmt: skip
SETTINGS = [
    "lr",
    "epochs",
    "batch_size",
    "micro_batch",
    "schedule",
    "warmup",
    "clip",
    "weight_decay",
    "beta1",
    "beta2",
    "eps",
    "gamma",
    "alpha",
    "phrasings",
    "chat",
    "prefill",
    "chunk_tokens",
    "max_new_tokens",
    "check_every",
    "modules",
    "rank",
    "lora_alpha",
    "precision",
    "recompute",
    "reference_mb",
    "beta",
    "delta",
    "refusals",
    "relations",
    "samples",
    "token",
    "stopwords",
    "layer",
    "steering",
    "coefficient",
    "seed",
    "model",
    "method",
    "forget",
    "retain",
    "progress",
    "track",
    "path",
    "name",
]


def mostly(usual, odd):
    """Draw the usual value three times out of four: a call with several odd values ends at the first of them."""
    return st.one_of(usual, usual, usual, odd)


odd_text = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20))
text = mostly(st.sampled_from(["What is the opposite of hot?", " The other end is cold.", "a b"]), odd_text)
number = mostly(st.sampled_from(["0", "1", "2", "3"]), st.sampled_from(NUMBERS))
model = mostly(st.sampled_from(["builtin", "builtin", "builtin-retrain"]), odd_text)
setting = mostly(
    st.sampled_from(["chat=false", "lr=1e-4", "steps=2", "modules=[blocks.*.mlp]", "rank=2"]),
    st.one_of(st.builds("{}={}".format, st.sampled_from(SETTINGS), st.one_of(number, odd_text)), odd_text),
)
methods = st.sampled_from(
    ["ga", "ga", "ga_gdr", "npo_gdr", "idk_dpo", "rmu", "task_vector", "whp", "lora_ga", "o3", "offset", "eco",
     "in_context", "gaa"]
)  # fmt: skip
attributions = st.sampled_from(["leave_one_out", "replace", "grad_norm", "shapley", "context_cite", "leave"])
benchmarks = st.sampled_from(["tofu", "wmdp-bio", "nosuch"])
STUDY = ["run", "status", "retry", "clean", "schema", "x"]
FLAG = st.none()

ASKING = {"--chat": FLAG, "--no-chat": FLAG, "--prefill": text, "--max-new-tokens": number}
FILES = {"--html": "figure", "--png": "figure"}
OUT = {"--out": "out"}
JSON = {"--json": FLAG}
DATA = {"--data": text, "--benchmark": benchmarks}
VERBS = {
    "attribute": ([text], {
        "--model": model, "--method": attributions, "--units": st.sampled_from(["token", "word", "sentence", "x"]),
        "--seed": number, "--set": setting, "--shift": number,
        "--endpoint": st.sampled_from(["", "x", "http://[", "ftp://a"]),
        **ASKING, **FILES, **OUT, **JSON,
    }),
    "diff": ([model, model, text, text], {**ASKING, **FILES, **OUT, **JSON}),
    "explore": ([model, model], {
        "--control": model, "--facts": text, "--port": number, "--browser": FLAG, "--no-browser": FLAG, **ASKING,
    }),
    "unlearn": ([], {
        "--method": methods, "--stop-at": number, "--seed": number, "--set": setting, "--model": model,
        "--checkpoint-every": number, "--checkpoint": "out", "--no-score": FLAG, **DATA, **ASKING, **FILES, **OUT,
        **JSON,
    }),
    "unlearn-sequence": ([], {
        "--method": methods, "--requests": number, "--seed": number, "--set": setting, "--stop-at": number,
        "--checkpoint": "out", "--checkpoint-every": number, **DATA, **ASKING, **OUT, **JSON,
    }),
    "tune": ([], {
        "--method": methods, "--level": number, "--range": setting, "--seed": number, "--set": setting,
        "--checkpoint": "out", **DATA, **ASKING, **OUT, **JSON,
    }),
    "recover": ([model], {
        "--before": model, "--control": model, "--seed": number,
        "--probe": st.sampled_from(["prefill", "attention", "quantize_4", "x", ""]),
        **DATA, **ASKING, **FILES, **OUT, **JSON,
    }),
    "evaluate": ([model], {
        "--metric": st.sampled_from(["exact_match", "rouge_l", "judge", "entailment", "x", ""]), "--before": model,
        "--reference": model, "--judge": text, "--judge-model": text, "--nli": text, "--beside": text,
        "--markdown": FLAG, "--latex": FLAG, **DATA, **ASKING, **FILES, **OUT, **JSON,
    }),
    "known-facts": ([model], {"--set": setting, **DATA, **ASKING, **JSON}),
    "export": ([model, "out"], {}),
    "report": ([text], {"--out": "figure"}),
    "study": ([st.one_of(st.sampled_from(["CONFIG", "CONFIG", *STUDY]), text)], {
        "--jobs": number, "--on": text, "--share": text, "--dry-run": FLAG, "--all": FLAG, **FILES, **OUT, **JSON,
    }),
    "demo": ([], {"--model": text, **FILES, **OUT, **JSON}),
    "methods": ([], {"--attribution": FLAG, "--metrics": FLAG, "--probes": FLAG, **JSON}),
}  # fmt: skip
"""Positional arguments and options of each command, with what is typed for each."""

PATHS = {
    "out": st.sampled_from(
        [
            "OUT/a",
            "OUT/a",
            "OUT/b",
            "OUT/c",
            "OUT/d",
            "OUT/file",
            "OUT/foreign",
            "OUT/" + "n" * 300,
            "",
            "OUT",
            "/dev/null/x",
        ]
    ),
    "figure": st.sampled_from(["OUT/f.html", "OUT/sub/f.png", "OUT", "OUT/file/x.html", "", "/dev/null/x.html"]),
}
"""Places to write to: new ones, a file, a directory of the user, names that are too long, and closed places."""

SMALL = {
    "unlearn": ["--set", "steps=2", "--set", "micro_batch=2"],
    "unlearn-sequence": ["--set", "steps=1"],
    "tune": ["--budget", "1", "--set", "steps=1"],
    "demo": ["--model", "gpt5"],
}
"""Options that keep a call short."""


@st.composite
def call(draw):
    """A command, its arguments and options; `OUT/…` stands for a path in the call's own directory."""
    verb = draw(st.sampled_from(sorted(VERBS)))
    places, options = VERBS[verb]
    given = places[: draw(st.integers(max(0, len(places) - 1), len(places)))]
    arguments = [draw(PATHS[place] if isinstance(place, str) else place) for place in given]
    chosen = draw(st.lists(st.sampled_from(sorted(options)), max_size=5)) if options else []
    needed = (
        ["--method", "--out"] if verb in ("unlearn", "unlearn-sequence") else ["--method"] if verb == "tune" else []
    )
    for name in dict.fromkeys([*needed, *chosen]):
        what = options[name]
        what = PATHS.get(what, what) if isinstance(what, str) else what
        arguments.append(name)
        if what is not FLAG:
            arguments.append(draw(what))
    return [verb, *arguments, *SMALL.get(verb, [])]


CONFIGS = [
    "", "[]", "methods: 3", "model: builtin\nmethods: [gaa]", "a: &a [*a]", "\ufeffmethods: [gaa]", "name: [" * 300,
    "methods: [ga]\nseeds: []", "methods: [ga]\nseeds: [-1]", "methods: [ga]\nmodel: biltin", "\x00",
    "a: !!python/object:x",
]  # fmt: skip
"""Configurations of a study that are all refused: a study that runs takes minutes."""


def arrange(folder, data, config):
    """Make the directory of a call."""
    folder.mkdir()
    (folder / "file").write_text("mine")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "notes.txt").write_text("mine")
    (folder / "own.jsonl").write_text(data)
    (folder / "study.yaml").write_text(config)


def hung(typed, *_):
    """End a call that takes too long; not an `Exception`, so the command line does not catch it."""
    raise GeneratorExit(f"{typed} takes more than {LONGEST} s")


def check(arguments, folder, capsys, monkeypatch):
    """Run one call and check how it ends."""
    typed = [a.replace("OUT", str(folder)).replace("CONFIG", str(folder / "study.yaml")) for a in arguments]
    asking = typed[0] in ("unlearn", "unlearn-sequence", "tune", "recover", "evaluate", "known-facts")
    if asking and "--benchmark" not in typed and "--data" not in typed:
        # Three questions of one's own, unless something else was typed: a call must take no more than seconds.
        typed += ["--benchmark", "pairs", "--data", str(folder / "own.jsonl")]
    monkeypatch.setattr(sys, "argv", ["unpact", *typed])
    before = signal.signal(signal.SIGALRM, partial(hung, typed))
    signal.alarm(LONGEST)
    try:
        status = status_of(cli.main)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    out, err = capsys.readouterr()
    said = f"{typed}\n{status}\n{out[-500:]}\n{err}"
    assert status in (0, 2), said
    assert "Traceback" not in err, said
    if status == 2 and "Usage:" not in out:  # a command without arguments shows its help
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        assert errors == err.splitlines()[-1:], said
    elif "--json" in typed and out.strip() and "--help" not in typed:
        json.loads(out, parse_constant=lambda word: pytest.fail(said))
    assert (folder / "file").read_text() == "mine", said
    assert sorted(p.name for p in (folder / "foreign").iterdir()) == ["notes.txt"], said
    return status


@pytest.fixture
def cell(one_load, own, tmp_path, monkeypatch, capsys):
    """Return a function that runs one call in a directory of its own, and checks that nothing else is written."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("unpact_lens.explorer.server.ExplorerServer.serve_forever", lambda *_, **__: None)
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the library's own cache is no result
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    data = Path(own).read_text()
    count = [0]

    def run(arguments, config):
        count[0] += 1
        arrange(tmp_path / f"call-{count[0]}", data, config)
        status = check(arguments, tmp_path / f"call-{count[0]}", capsys, monkeypatch)
        outside = [*home.rglob("*"), *work.rglob("*")]
        assert outside == [], (arguments, outside)
        return status

    return run


def fuzzed(cell, examples, first):
    """Run this number of calls with this seed; count how they end and list those that end otherwise."""
    ends, wrongly = {0: 0, 2: 0}, {}

    @seed(first)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(call(), st.sampled_from(CONFIGS))
    def one(arguments, config):
        try:
            ends[cell(arguments, config)] += 1
        except (AssertionError, pytest.fail.Exception, GeneratorExit) as error:  # The other calls go on.
            wrongly.setdefault((arguments[0], str(error)[-60:]), str(error))

    one()
    return ends, list(wrongly.values())


def test_a_few_hundred_calls(cell):
    ends, wrongly = fuzzed(cell, FAST, SEED)
    assert wrongly == []
    assert min(ends.values()) > 10  # both ends are met


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_thousands_of_calls(shard, cell, record_property):
    ends, wrongly = fuzzed(cell, FULL // SHARDS, SEED + 1000 + shard)
    for end, count in ends.items():
        record_property(f"exit code {end}", count)
    assert wrongly == []
    assert min(ends.values()) > 10
    assert sum(ends.values()) >= FULL // SHARDS


def test_every_command_and_option_is_typed():
    commands = typer.main.get_command(cli.app).commands
    # `builtin --rebuild` writes into the package, an audit takes minutes, and `compare` reads audits.
    assert set(commands) - {"builtin", "audit", "compare"} == set(VERBS)
    assert set(commands["study"].commands) <= set(STUDY)
    for verb, (_, options) in VERBS.items():
        several = getattr(commands[verb], "commands", {"": commands[verb]}).values()
        params = [p for c in several for p in c.params if p.param_type_name == "option"]
        known = {o for p in params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")} - {"--help"}
        # `--auto` searches for minutes.
        assert known - set(options) - {"--score", "--budget", "--model", "--auto"} == set(), verb
