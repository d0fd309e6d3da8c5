"""Damage a file or a directory in every way that a disk, a copy or an editor can."""

import json
import shutil

FORMATS = ("format", "unpact_lens_checkpoint", "unpact_lens_study")
"""Entries that hold the version of a layout."""

OTHERS = {bool: 3, int: "text", float: "text", str: 3, list: {}, dict: [], type(None): 3.5}
"""A value of a wrong type for each type of JSON."""


def empty(file, other):
    file.write_bytes(b"")


def half(file, other):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def first_bit(file, other):
    flip(file, 0.02)


def middle_bit(file, other):
    flip(file, 0.5)


def last_bit(file, other):
    flip(file, 0.995)


def flip(file, share):
    content = bytearray(file.read_bytes())
    if content:
        content[int(share * (len(content) - 1))] ^= 4
        file.write_bytes(bytes(content))


def deleted(file, other):
    file.unlink()


def directory(file, other):
    file.unlink()
    file.mkdir()


def swapped(file, other):
    """Put a file of the same name of another thing in its place, or another file of this one."""
    shutil.copyfile(other, file)


def nested(file, other):
    file.write_text("[" * 100_000 + "]" * 100_000)


def no_text(file, other):
    file.write_bytes(b"\xff\xfe{\x00")


DAMAGES = [empty, half, first_bit, middle_bit, last_bit, deleted, directory, swapped, nested, no_text]


def formats(file):
    """Yield the file's JSON with an older, a newer and a senseless version of the layout."""
    record = json.loads(file.read_text())
    for name in FORMATS:
        if isinstance(record, dict) and name in record:
            for version in (record[name] - 1, record[name] + 1, 0, -1, True, None, "2", 1e9):
                yield f"{name}={version!r}", {**record, name: version}


def wrong_types(value):
    """Yield JSON with a value of a wrong type at each key in turn, and without the key."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found = value[key]
            yield f"{key}: {OTHERS[type(found)]!r}", changed(value, key, OTHERS[type(found)])
            if isinstance(value, dict):
                yield f"without {key}", {k: v for k, v in value.items() if k != key}
            for name, below in wrong_types(found):
                yield f"{key}.{name}", changed(value, key, below)


def changed(value, key, new):
    copied = value.copy()
    copied[key] = new
    return copied
