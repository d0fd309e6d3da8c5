"""Check the public names of the package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unpact_lens as ul


def test_every_public_name_exists_and_is_documented():
    for name in ul.__all__:
        assert getattr(ul, name).__doc__, name


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(ul.__file__).read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    seen = [alias.name for statement in block.body for alias in statement.names]
    assert sorted(seen) == sorted([*ul.__all__, *ul._SUBPACKAGES])


def test_importing_the_package_imports_no_torch():
    check = "import sys, unpact_lens; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("name", ul._MOVED)
def test_a_moved_name_works_with_a_warning(name):
    with pytest.warns(FutureWarning, match=rf"unpact_lens.{name} is now unpact_lens.{ul._MOVED[name]}.{name}"):
        moved = getattr(ul, name)
    assert moved is getattr(getattr(ul, ul._MOVED[name]), name)


def test_a_wrong_name_offers_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'attribute'"):
        ul.atribute  # noqa: B018
