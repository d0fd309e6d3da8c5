"""Build the wheel, install it into a fresh environment, and run the README: `python -m scripts.check_install`.

The environment gets the locked versions and nothing of this checkout. `twine check` reads the description first.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts import setup_env

ROOT = Path(__file__).resolve().parent.parent

CHECK = """\
import sys
import unpact_lens
assert sys.prefix in unpact_lens.__file__, unpact_lens.__file__
"""


def snippet() -> str:
    """Return the Python code of the README."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL))


def built(folder: Path) -> Path:
    """Build the wheel into a directory, without anything else."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("unpact_lens-*.whl"))


def new_environment(folder: Path) -> Path:
    """Create an empty virtual environment with the tested torch; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    setup_env.install_torch(python)
    return python


def check(folder: Path) -> None:
    """Build, check and install, and run the README.

    Args:
        folder: Empty directory to work in.

    Raises:
        subprocess.CalledProcessError: If one of the steps fails.
    """
    wheel = built(folder / "dist")
    python = new_environment(folder / "venv")
    pip = [str(python), "-m", "pip", "install", "-q"]
    started = time.monotonic()
    subprocess.run([*pip, "-c", str(setup_env.LOCK), str(wheel)], check=True)
    print(f"{wheel.name} installed in {time.monotonic() - started:.0f} s", flush=True)
    subprocess.run([*pip, "twine"], check=True)
    subprocess.run([str(python), "-m", "twine", "check", "--strict", str(wheel)], check=True)
    empty = folder / "empty"
    empty.mkdir()
    program = empty / "readme.py"
    program.write_text(
        CHECK + snippet() + '\nul.diff(model, u.model, fact).plot("heads").save("heads.png")\n', encoding="utf-8"
    )
    started = time.monotonic()
    subprocess.run([str(python), "-I", str(program)], check=True, cwd=empty)
    subprocess.run([str(python.with_name("unpact")), "--version"], check=True, cwd=empty)
    size = (empty / "heads.png").stat().st_size
    print(f"the README's code ran in {time.monotonic() - started:.0f} s; heads.png has {size:,} bytes", flush=True)


def main() -> None:
    """Do it in a temporary directory."""
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder))


if __name__ == "__main__":
    main()
