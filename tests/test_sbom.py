"""The bill of materials names every package of a file with hashes."""

from scripts import sbom

LOCK = """\
attrs==26.1.0 \\
    --hash=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \\
    --hash=sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
appnope==1.0.0 ; sys_platform == 'darwin' \\
    --hash=sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
"""


def test_packages_are_read_with_marker_and_hashes(tmp_path):
    file = tmp_path / "lock.txt"
    file.write_text(LOCK)
    first, second = sbom.packages(file)
    assert (first["name"], first["version"], first["marker"]) == ("attrs", "26.1.0", None)
    assert first["sha256"] == ["a" * 64, "b" * 64]
    assert (second["name"], second["marker"]) == ("appnope", "sys_platform == 'darwin'")


def test_the_bill_names_every_package_and_is_the_same_each_time():
    bill = sbom.bill()
    assert bill == sbom.bill()
    assert bill["bomFormat"] == "CycloneDX"
    names = {c["name"] for c in bill["components"]}
    assert {"hatchling", "uv", "safetensors", "transformers"} <= names
    assert all(c["hashes"] for c in bill["components"])


def test_the_hashes_are_of_the_locked_versions():
    folder = sbom.ROOT / "requirements"
    locked = {line.split(" ;")[0] for line in (folder / "lock.txt").read_text().splitlines() if "==" in line}
    hashed = {f"{p['name']}=={p['version']}" for p in sbom.packages(folder / "hashes.txt")}
    assert locked <= hashed
    assert all(p["sha256"] for p in sbom.packages(folder / "hashes.txt") + sbom.packages(folder / "build.txt"))
