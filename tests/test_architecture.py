"""The picture of the packages shows the imports of the source."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def drawn():
    spec = importlib.util.spec_from_file_location("architecture_picture", ROOT / "scripts" / "architecture_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_what_the_source_imports():
    module = drawn()
    assert module.PICTURE.read_text(encoding="utf-8") == module.svg(module.reduced(module.imports()))


def test_no_arrow_points_up():
    module = drawn()
    row = {name: i for i, names in enumerate(module.ROWS) for name in names}
    assert all(row[a] <= row[b] for a, b in module.imports())


def test_every_package_is_drawn():
    module = drawn()
    packages = {p.parent.name for p in module.SOURCE.glob("*/__init__.py")}
    assert packages - {"cli"} <= set(module.LINES)
