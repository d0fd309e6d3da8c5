"""Every file that the package ships is in the table of licences and origins."""

import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "unpact_lens"
PAGE = ROOT / "docs" / "shipped-files.md"


def patterns():
    rows = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [p for row in rows for p in re.findall(r"`([^`]+)`", row)]


def test_every_shipped_file_has_a_licence_and_an_origin():
    shipped = [
        PurePosixPath(p.relative_to(PACKAGE).as_posix())
        for p in sorted(PACKAGE.rglob("*"))
        if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts and ".unpact-tmp-" not in str(p)
    ]
    assert len(shipped) > 10
    known = [p.replace("/**", "/*/*") for p in patterns()]
    lacking = [str(f) for f in shipped if not any(f.match(p) for p in known)]
    assert lacking == []


def test_the_word_list_has_the_number_of_words_of_the_table():
    words = (PACKAGE / "models" / "assets" / "builtin" / "words.txt").read_text().split()
    assert f"{len(words)} common English words" in PAGE.read_text(encoding="utf-8")
