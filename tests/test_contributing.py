"""The examples of CONTRIBUTING.md run as written."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"^`(?P<file>(?:src|tests)/\S+\.py)`:\n\n```python\n(?P<code>.*?)```", re.MULTILINE | re.DOTALL)


def examples():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return [(hit["file"], hit["code"]) for hit in EXAMPLE.finditer(text)]


def test_each_kind_has_a_source_and_a_test_of_at_most_thirty_lines():
    found = examples()
    assert [file.split("/")[0] for file, _ in found] == ["src", "tests"] * 4
    for (_, source), (_, test) in zip(found[::2], found[1::2], strict=True):
        assert len((source + test).splitlines()) <= 30


def test_the_examples_run():
    # In a process of its own, so that the entries do not stay registered here.
    run = """
import sys
space = {}
for code in sys.stdin.read().split("\\0"):
    exec(code, space)
for name, test in list(space.items()):
    if name.startswith("test_"):
        test()
        print(name)
"""
    code = "\0".join(code for _, code in examples())
    done = subprocess.run([sys.executable, "-c", run], input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 4
