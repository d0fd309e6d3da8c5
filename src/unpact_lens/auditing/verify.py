"""Verify a finished audit: compute its hashes again, and ask a random tenth of its answers again."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from unpact_lens.auditing.answer_store import ANSWERS, KeptAnswer, read_answers
from unpact_lens.auditing.given_model import GivenModel
from unpact_lens.auditing.output_folder import RECORD
from unpact_lens.auditing.record import AuditRecord, file_hash
from unpact_lens.data.benchmark import Benchmark
from unpact_lens.data.splits import Facts
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import ask
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result, read_json

SHARE = 0.1
"""Share of the answers that is asked again."""

AGREES, DIFFERS, NOT_CHECKED = "agrees", "differs", "not checked"
"""Outcomes of a check."""


@dataclass(frozen=True, eq=False)
class Verification(Result):
    """Hold what was checked of an audit.

    Attributes:
        checks: What was checked, the outcome and a remark, one triple for each.
    """

    checks: tuple[tuple[str, str, str], ...]

    def _brief(self) -> str:
        differing = [what for what, outcome, _ in self.checks if outcome == DIFFERS]
        named = f": {', '.join(differing)}" if differing else ""
        return f"{len(self.checks)} checks, {len(differing)} differ{named}"

    @property
    def agrees(self) -> bool:
        """Return whether nothing differs."""
        return all(outcome != DIFFERS for _, outcome, _ in self.checks)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each check."""
        return pd.DataFrame(list(self.checks), columns=["what", "outcome", "remark"])


def verify_audit(
    folder: str | os.PathLike[str], *, seed: int = 0, share: float = SHARE, step: Callable[[str], None] | None = None
) -> Verification:
    """Compute the hashes of an audit's files and models again, and ask a random part of its answers again.

    Args:
        folder: Directory of the audit.
        seed: Random seed of the draw of answers.
        share: Share of the answers to ask again, above 0 and at most 1.
        step: Function that is called with the name of each step.

    Returns:
        The checks. Live models and endpoints cannot be checked, and say so.

    Raises:
        InputError: If the directory holds no audit, or `share` is out of range.
    """
    if not 0 < share <= 1:
        raise InputError(f"share={share}; give a share of the answers above 0 and at most 1, e.g. {SHARE}")
    place = Path(folder)
    record = read_record(place)
    say = step or (lambda text: None)
    checks: list[tuple[str, str, str]] = []
    for name, expected in {**record.files, ANSWERS: record.answers.sha256}.items():
        found = file_hash(place / name)
        same = found == expected
        checks.append((name, AGREES if same else DIFFERS, "" if same else f"SHA-256 {found[:16]}, not {expected[:16]}"))
    answers = list(read_answers(place / ANSWERS))
    draw = random.Random(seed)
    for role, entry in record.models.items():
        if entry.kind in ("live", "endpoint"):
            checks.append((f"{role} model", NOT_CHECKED, f"it was a {entry.kind} model"))
            continue
        say(f"loading {entry.given}")
        spec = f"{entry.given}@{entry.revision}" if entry.kind == "hub" and entry.revision else entry.given
        given = GivenModel(role, spec, str(record.settings.get("wrap", "auto")))
        same = given.origin.weights == entry.weights_sha256 and given.origin.fingerprint == entry.fingerprint
        checks.append((f"{role} model", AGREES if same else DIFFERS, "" if same else "other weights or tokenizer"))
        mine = [kept for kept in answers if kept.model == entry.fingerprint]
        chosen = draw.sample(mine, max(1, round(share * len(mine)))) if mine else []
        say(f"asking {len(chosen)} answers of the {role} model again")
        checks.append(_compared(role, given.load(), chosen, int(str(record.settings["batch_tokens"]))))
        given.release()
    return Verification(tuple(checks))


def read_record(folder: Path) -> AuditRecord:
    """Read `audit.json`.

    Raises:
        InputError: If there is none, or it is not of this version's form.
    """
    file = folder / RECORD
    if not file.is_file():
        raise InputError(f"no audit at {folder}: {RECORD} is missing; give the directory of `unpact audit --out`")
    try:
        return AuditRecord.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{file} is no audit of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def _compared(role: str, model: HookedModel, chosen: list[KeptAnswer], batch_tokens: int) -> tuple[str, str, str]:
    """Ask some answers of one model again and compare them."""
    different = 0
    groups: dict[str, list[KeptAnswer]] = {}
    for kept in chosen:
        groups.setdefault(json.dumps([kept.chat, kept.max_new_tokens, kept.stop]), []).append(kept)
    for some in groups.values():
        way = some[0]
        bench = Benchmark("answers", (), Facts(), chat=way.chat, max_new_tokens=way.max_new_tokens, stop=way.stop)
        texts = ask(model, [k.prompt for k in some], [k.prefill for k in some], bench=bench, batch_tokens=batch_tokens)
        different += sum(text != kept.text for text, kept in zip(texts, some, strict=True))
    remark = f"{len(chosen) - different} of {len(chosen)} answers are the same"
    return f"{role} answers", DIFFERS if different else AGREES, remark
