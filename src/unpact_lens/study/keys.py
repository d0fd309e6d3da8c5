"""Make the key of each part of a study: a record of all that the part depends on.

A key holds the whole resolved configuration, leaf by leaf, the fingerprints of the models (weights, configuration,
tokenizer), a hash of the data, a hash of the package's own source, and the versions of the libraries. `EXCLUDED` lists
every leaf that is left out of a key, with the reason. Nothing else is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from unpact_lens.results import versions
from unpact_lens.source_hash import source_hash
from unpact_lens.study.config import StudyConfig

KNOWN, BEFORE, CONTROL, CONTRIBUTIONS, PLAN, CELL = "known", "before", "control", "contributions", "plan", "cell"

SHARED = (KNOWN, BEFORE, CONTROL, CONTRIBUTIONS, PLAN)
"""Parts that all cells of a study share, in the order in which they are made."""

PARTS = (*SHARED, CELL)
"""All kinds of parts."""

SEES_CONTROL = (CONTROL, PLAN, CELL)
"""Parts that run the retrained model. The others never load it, so that its fingerprint is not in their keys."""

Key = Mapping[str, object]
"""Record of all that a part depends on, as JSON values."""


@dataclass(frozen=True)
class Exclusion:
    """Hold an entry of the configuration that is not in the keys of some parts.

    Attributes:
        entry: Path of the entry, e.g. `recovery` or `load.device`. It stands for all entries below it.
        parts: Kinds of parts whose keys lack it.
        reason: Why these parts cannot depend on it.
    """

    entry: str
    parts: tuple[str, ...]
    reason: str


EXCLUDED = (
    Exclusion("name", PARTS, "is only the title of the report"),
    Exclusion("model", PARTS, "says where the model is; the model's fingerprint is in the key"),
    Exclusion("control", PARTS, "says where the model is; the model's fingerprint is in the key"),
    Exclusion("resources", PARTS, "says where a cell runs"),
    Exclusion("checkpoint_every", PARTS, "a run that was resumed ends with bitwise the same weights"),
    Exclusion("save_models", PARTS, "a cell whose model is wanted and missing is run again"),
    Exclusion("seeds", PARTS, "the key of a cell holds its own seed; shared parts draw nothing from the seeds"),
    Exclusion("methods", PARTS, "the key of a cell holds its own method; shared parts run no method"),
    Exclusion("forget_level", SHARED, "only stops the training of a cell"),
    Exclusion("epsilon", SHARED, "only decides the verdict of a cell"),
    Exclusion("diff_examples", SHARED, "only counts the exact diffs of a cell"),
    Exclusion("recovery", (KNOWN, BEFORE, CONTROL, CONTRIBUTIONS), "is read by the recovery plan and by the cells"),
    Exclusion("contributions", (KNOWN, BEFORE, CONTROL), "is read where contributions or key tokens are computed"),
)
"""Every entry that a key leaves out. A test changes each leaf in turn; another records what each part reads."""


def part_key(
    part: str,
    config: StudyConfig,
    *,
    model: str,
    control: str | None,
    data: str,
    **more: object,
) -> dict[str, object]:
    """Return the key of a part.

    Args:
        part: Kind of the part. A kind that is not in `PARTS` has the exclusions of a cell.
        config: Configuration of the study.
        model: Fingerprint of the original model.
        control: Fingerprint of the retrained model. None without one.
        data: Hash of the benchmark.
        **more: What else the part depends on, e.g. the method and the seed of a cell.
    """
    facts = {
        "part": part,
        "config": {k: v for k, v in leaves(resolved(config)).items() if not excluded(k, part)},
        "model": model,
        "control": control if part in SEES_CONTROL or part not in PARTS else None,
        "data": data,
        "code": source_hash(),
        "versions": versions(),
        **more,
    }
    made: dict[str, object] = json.loads(text_of(facts))
    return made


def resolved(config: StudyConfig) -> dict[str, object]:
    """Return the entries of a configuration as JSON values, with the device and the number of threads in force."""
    entries: dict[str, object] = config.model_dump(mode="json")
    device = config.load.device or ("cuda" if torch.cuda.is_available() else "cpu")
    load = {**config.load.model_dump(mode="json"), "device": torch.device(device).type}
    return {**entries, "load": load, "threads": config.threads or torch.get_num_threads()}


def excluded(leaf: str, part: str) -> str | None:
    """Return why the key of a part leaves out an entry of the configuration, or None if the key holds it.

    Args:
        leaf: Path of the entry, e.g. `recovery.gain`.
        part: Kind of the part.
    """
    kind = part if part in PARTS else CELL
    for exclusion in EXCLUDED:
        if kind in exclusion.parts and (leaf == exclusion.entry or leaf.startswith(f"{exclusion.entry}.")):
            return exclusion.reason
    return None


def leaves(value: object, at: str = "") -> dict[str, object]:
    """Return every leaf of nested dicts and lists by its path.

    >>> leaves({"a": {"b": 1}, "c": [2, {"d": 3}], "e": []})
    {'a.b': 1, 'c.0': 2, 'c.1.d': 3, 'e': []}
    """
    return dict(_walk(value, at))


def _walk(value: object, at: str) -> Iterator[tuple[str, object]]:
    below: Mapping[str, object] | None = None
    if isinstance(value, Mapping):
        below = {str(k): v for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        below = {str(i): v for i, v in enumerate(value)}
    if not below:
        yield at, value
        return
    for name, child in below.items():
        yield from _walk(child, f"{at}.{name}" if at else name)


def text_of(facts: object) -> str:
    """Write a key as text: equal keys give equal text, and a number differs from its spelling."""
    return json.dumps(facts, sort_keys=True, ensure_ascii=False, indent=1, default=str)


def hash_of(facts: object) -> str:
    """Compute the SHA-256 of the text of a key, or of any JSON value."""
    return hashlib.sha256(text_of(facts).encode()).hexdigest()


def changes(old: object, new: Key) -> str:
    """Name what differs between two keys, in one line.

    Args:
        old: Key of the part on disk, or anything else if it has none that can be read.
        new: Key of the part now.

    >>> changes({"config": {"gain": 4.0}, "seed": 0}, {"config": {"gain": 8.0}, "seed": 0})
    'config.gain (4.0, now 8.0)'
    """
    if not isinstance(old, Mapping):
        return "it was written by another version"
    was, now = leaves(old), leaves(new)
    named = []
    for name in dict.fromkeys((*was, *now)):
        if was.get(name) != now.get(name):
            values = (_short(was.get(name)), _short(now.get(name)))
            named.append(f"{name} ({values[0]}, now {values[1]})")
    rest = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return ", ".join(named[:3]) + rest


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:11]}…"
