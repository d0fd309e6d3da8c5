"""Put MathJax beside the documentation, so that its pages need no network: `python -m scripts.mathjax`.

The package is fetched once by npm, at one version, and its SHA-512 is checked. Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "3.2.2"
SHA512 = "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw=="
"""Base64 of the SHA-512 of the package, as npm prints it after `integrity`."""

TARGET = Path(__file__).resolve().parent.parent / "docs" / "assets" / "mathjax"
WANTED = ("es5/tex-chtml.js", "es5/output/chtml/fonts/woff-v2/", "LICENSE")
"""Files and directories of the package that are needed: TeX input, HTML output, its fonts."""


def packed(folder: Path) -> Path:
    """Let npm fetch the package into a directory, and check it."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("error: npm is needed once, to fetch MathJax for the documentation; install Node.js")
    command = [npm, "pack", f"mathjax@{VERSION}", "--silent", "--pack-destination", str(folder)]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL, cwd=folder).returncode:
        sys.exit("error: npm could not fetch MathJax; see its message above")
    file = next(folder.glob("mathjax-*.tgz"))
    found = base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    if found != SHA512:
        sys.exit(f"error: the SHA-512 of {file.name} is {found}, not {SHA512}")
    return file


def main() -> None:
    """Fetch MathJax if its files are not there."""
    stamp = TARGET / VERSION
    if stamp.exists():
        return
    with tempfile.TemporaryDirectory() as name, tarfile.open(packed(Path(name))) as archive:
        shutil.rmtree(TARGET, ignore_errors=True)
        for member in archive:
            inside = member.name.removeprefix("package/")
            data = archive.extractfile(member)
            if data is None or not inside.startswith(WANTED):
                continue
            file = TARGET / inside.removeprefix("es5/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.read())
    stamp.touch()


if __name__ == "__main__":
    main()
