"""Write the software bill of materials: every locked package with its hashes, in CycloneDX 1.5.

    python -m scripts.sbom [FILE]

Standard library only. The serial number and the order depend on the lock alone, so equal locks give equal files.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HASHES = ROOT / "requirements" / "hashes.txt"
"""Locked versions with the SHA-256 of every file of the index; written by `make lock`."""

BUILD = ROOT / "requirements" / "build.txt"
"""The same for what builds the package: hatchling and uv."""

LINE = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")


def packages(path: Path) -> list[dict[str, object]]:
    """Return name, version, marker and hashes of each package in a requirements file with hashes."""
    found: list[dict[str, object]] = []
    hashes: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := LINE.match(line):
            hashes = []
            found.append({"name": match[1], "version": match[2], "marker": match[3], "sha256": hashes})
        elif "--hash=sha256:" in line:
            hashes += re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
    return found


def component(package: dict[str, object]) -> dict[str, object]:
    """Return a package as a CycloneDX component."""
    name, version = package["name"], package["version"]
    entry: dict[str, object] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "hashes": [{"alg": "SHA-256", "content": found} for found in package["sha256"]],  # type: ignore[attr-defined]
    }
    if package["marker"]:
        entry["properties"] = [{"name": "marker", "value": package["marker"]}]
    return entry


def bill() -> dict[str, object]:
    """Return the bill of materials."""
    parts = [component(p) for path in (BUILD, HASHES) for p in packages(path)]
    version = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(digest[:32])}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "name": "unpact-lens",
                "version": version[1] if version else "0",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": parts,
    }


def main() -> None:
    """Write the bill of materials to a file, or to stdout."""
    text = json.dumps(bill(), indent=1) + "\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
