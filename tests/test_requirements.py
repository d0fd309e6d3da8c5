"""The lock fits what `pyproject.toml` asks for, on every Python that is supported."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lanes import PYTHONS

tomllib = pytest.importorskip("tomllib")  # Python 3.10 has none

ROOT = Path(__file__).parents[1]


def asked():
    """Requirements of the package and of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    return [r for r in map(Requirement, lines) if canonicalize_name(r.name) != "unpact-lens"]


def locked(python):
    """Version of each package that the lock gives on a Python."""
    place = {"python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux"}
    found = {}
    for line in (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            r = Requirement(line)
            if r.marker is None or r.marker.evaluate(place):
                found[canonicalize_name(r.name)] = next(iter(r.specifier)).version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_every_locked_version_is_allowed(python):
    versions = locked(python)
    known = [r for r in asked() if canonicalize_name(r.name) in versions]
    assert len(known) > 30
    wrong = [f"{r} is locked at {versions[canonicalize_name(r.name)]}" for r in known
             if not r.specifier.contains(versions[canonicalize_name(r.name)].split("+")[0])]  # fmt: skip
    assert wrong == []
