"""Build wheel and sdist twice and check that both builds are equal bytes, and that they hold exactly what they must.

    python -m scripts.check_distribution

Run by `make supply-chain`, in an environment that holds the hatchling of `requirements/build.txt`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EPOCH = "1767225600"
"""Time that is written into the archives, seconds since 1970."""

FORBIDDEN = ("__pycache__", ".pyc", ".unpact-tmp-", ".env", ".git/", "id_rsa", ".pkl", ".pt", ".bin")
"""Parts of names that no archive may hold."""


def built(out: Path) -> dict[str, Path]:
    """Build wheel and sdist into a directory; return each by its kind."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


def names(archive: Path) -> list[str]:
    """Return the names of the files in an archive."""
    if archive.suffix == ".whl":
        return [n for n in zipfile.ZipFile(archive).namelist() if not n.endswith("/")]
    with tarfile.open(archive) as tar:
        return [m.name for m in tar.getmembers() if m.isfile()]


def tracked() -> set[str]:
    """Return the files of the package that git knows."""
    command = ["git", "ls-files", "src/unpact_lens"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name.removeprefix("src/") for name in listed.split("\n") if name and (ROOT / name).is_file()}


def problems() -> list[str]:
    """Return what is wrong with the archives."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        first, second = (built(Path(folder) / n) for n in ("one", "two"))
        for kind in first:
            sums = [hashlib.sha256(build[kind].read_bytes()).hexdigest() for build in (first, second)]
            print(f"{kind}: {first[kind].name}, {first[kind].stat().st_size:,} bytes, SHA-256 {sums[0]}")
            if sums[0] != sums[1]:
                found.append(f"two builds of the {kind} differ")
            found += [f"the {kind} holds {n}" for n in names(first[kind]) if any(part in n for part in FORBIDDEN)]
        shipped = {n for n in names(first["wheel"]) if n.startswith("unpact_lens/")}
        found += [f"the wheel lacks {n}" for n in sorted(tracked() - shipped)]
        found += [f"the wheel holds {n}, which git does not know" for n in sorted(shipped - tracked())]
    return found


def main() -> None:
    """Print what is wrong and end with status 1, or print the checksums."""
    found = problems()
    for line in found:
        print(line)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
