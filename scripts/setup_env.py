"""Create `.venv` with the tested versions: `python3 scripts/setup_env.py [EXTRA ...]`. Standard library only.

torch is installed first. On Linux without an NVIDIA GPU the CPU build is taken, so that no gigabytes of CUDA are
pulled: from whatever index or folder pip is set up with, if that holds one, else from PyTorch's own index, which `uv`
knows. Everything else comes at the versions of `requirements/lock.txt`.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "lock.txt"
TORCH = next(line for line in (ROOT / "requirements" / "torch.txt").read_text().split() if line.startswith("torch=="))


def run(*command: object, quiet: bool = False) -> bool:
    """Run a command; whether it succeeded."""
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.run([str(c) for c in command], stdout=sink, stderr=sink, check=False).returncode == 0


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    return shutil.which("nvidia-smi") is not None and run("nvidia-smi", quiet=True)


def install_torch(python: Path) -> None:
    """The tested torch, without CUDA where CUDA has no use."""
    if run(python, "-c", f"import torch; assert torch.__version__.split('+')[0] == {TORCH[7:]!r}", quiet=True):
        return
    pip = (python, "-m", "pip", "install", "-q")
    if platform.system() == "Linux" and not has_gpu():
        print(f"installing {TORCH} (CPU build: no NVIDIA GPU found)", flush=True)
        if run(*pip, f"{TORCH}+cpu", quiet=True):
            return
        if run(*pip, "uv") and run(
            python, "-m", "uv", "pip", "install", "-q", "--python", python, "--torch-backend", "cpu", TORCH
        ):
            return
        print("no CPU build of torch is in reach; installing the default one", flush=True)
    else:
        print(f"installing {TORCH}", flush=True)
    if not run(*pip, TORCH):
        sys.exit(f"error: could not install {TORCH}; see pip's message above")


def main(extras: list[str]) -> None:
    """Create the environment if need be, and bring it to the locked versions."""
    if sys.version_info < (3, 10):  # noqa: UP036  (this file runs before anything is installed)
        sys.exit(f"error: Python {platform.python_version()} is too old; Python 3.10 or newer is needed (PYTHON=...)")
    python = VENV / ("Scripts/python.exe" if platform.system() == "Windows" else "bin/python")
    if not python.exists() and not run(sys.executable, "-m", "venv", VENV):
        sys.exit("error: could not create .venv; on Debian and Ubuntu install the package python3-venv")
    install_torch(python)
    print("installing unpact-lens" + (f" with {', '.join(extras)}" if extras else ""), flush=True)
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    if not run(python, "-m", "pip", "install", "-q", "-c", LOCK, "-e", target):
        sys.exit("error: installation failed; see pip's message above")


if __name__ == "__main__":
    main(sys.argv[1:])
