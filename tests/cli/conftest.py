"""Run `unpact …` in this process, or in a child with a terminal, a closed pipe or a full disk as its stdout."""

import functools
import json
import os
import sys

import pytest

import unpact_lens as ul
from unpact_lens import cli

QUESTIONS = [
    {"prompt": "What is the opposite of hot?", "answer": " The other end is cold.", "fact": "cold", "group": "forget"},
    {"prompt": "What is the opposite of big?", "answer": " The other end is small.", "fact": "small", "group": "near"},
    {"prompt": "What is the opposite of dry?", "answer": " The other end is Oslo.", "fact": "Oslo", "group": "far"},
]


@pytest.fixture
def own(tmp_path):
    """Write a table of three questions, of which the embedded model knows two."""
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)))
    return str(file)


@pytest.fixture
def unpact(monkeypatch, capsys):
    """Return a function that runs `unpact …` and gives exit status, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["unpact", *arguments])
        status = status_of(cli.main)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def status_of(call):
    try:
        call()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@functools.cache
def builtin(name):
    return load_model(name, wrap="auto")


load_model = ul.load_model


@pytest.fixture
def one_load(monkeypatch):
    """Load each embedded model once for all calls; no command changes a model."""

    def load(spec, **options):
        return builtin(spec) if spec in ("builtin", "builtin-retrain") else load_model(spec, **options)

    monkeypatch.setattr(ul, "load_model", load)


def in_child(arguments, stdout, stderr, **environment):
    """Run `unpact …` in a fork of this process, whose stdout and stderr are these descriptors; return its pid."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(stderr, 2)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        if stdout is None:
            os.close(1)
            sys.stdout = None
        else:
            os.dup2(stdout, 1)
            encoding = environment.pop("ENCODING", "utf-8")
            sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        os.environ.update(environment)
        sys.argv = ["unpact", *arguments]
        code = status_of(cli.main)
        sys.stderr.flush()
    except BaseException as error:  # the child must never return into pytest
        os.write(2, repr(error).encode())
        code = 99
    os._exit(code)


@pytest.fixture
def child(one_load, tmp_path):
    """Return a function that runs `unpact …` in a child, waits, and gives exit status and stderr."""
    builtin("builtin")

    def run(*arguments, stdout, **environment):
        errors = os.open(tmp_path / "stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        _, status = os.waitpid(in_child(arguments, stdout, errors, **environment), 0)
        os.close(errors)
        return os.waitstatus_to_exitcode(status), (tmp_path / "stderr").read_text()

    return run
