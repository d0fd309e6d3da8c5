"""Run the code of the README and follow its links."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_the_two_commands_come_before_the_python_code():
    text = README.read_text()
    assert text.index("make demo") < text.index("make test") < text.index("```python")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S))
def test_a_python_block_of_the_readme_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_local_links_of_the_readme_exist():
    for target in re.findall(r"\]\(((?!http)[^)#]+)", README.read_text()):
        assert (README.parent / target).exists(), target
