"""Probes that are added to a finished recovery: rows like any other, on the same common set.

Most change how the model computes and not what it reads: attention to the key tokens, rounded weights, states of the
model before, an early read-out. Two ask in words that the plan could not hold: emphasis on what is key to the
*unlearned* model, which the plan does not know, and another language. A probe is one function below and one line of
`BUILDERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS, HEADLINE
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import fact_right, prefill_for
from unpact_lens.recovery.controls import random_words, wrong_name
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.probes.attention import GAIN, attend_to
from unpact_lens.recovery.probes.emphasis import emphasised, key_words
from unpact_lens.recovery.probes.logit_lens import lens_ranks, read_out_early
from unpact_lens.recovery.probes.patching import WHERE, patched_answers, places, read_with, unrelated_fact
from unpact_lens.recovery.probes.quantize import quantized
from unpact_lens.recovery.result import (
    CONTROL_FAMILY,
    EMPHASIS_FAMILY,
    OWN,
    PROBE_FAMILY,
    RANDOM_WORDS,
    UNRELATED_FACT,
    WRONG_SUBJECT,
    Recovery,
)
from unpact_lens.recovery.sheet import Sheet, ask_sheet, plain_sheet
from unpact_lens.recovery.translations import TRANSLATIONS, translation

ATTENTION, AFTER_KEYS, LOGIT_LENS = "attention", "after_keys", "logit_lens"
TRANSLATED = "translation_"


@dataclass(frozen=True)
class Scene:
    """What the rows of a probe are made from.

    Attributes:
        plan: whose facts, key words and ways to ask are taken.
        before: the model before unlearning.
        after: the unlearned model; None where only probes that do not hang on it are wanted.
        common: the facts that count.
        gain: of the attention.
    """

    plan: RecoveryPlan
    before: Any
    after: Any
    common: Bool[Tensor, " item"]
    gain: float

    @property
    def items(self) -> tuple[QA, ...]:
        """The forget facts."""
        return self.plan.sheet.items

    @property
    def bench(self) -> Benchmark:
        """How to ask."""
        return self.plan.bench

    @property
    def budget(self) -> int:
        """Tokens of one batch."""
        return int(self.plan.settings["batch_tokens"])

    @property
    def seed(self) -> int:
        """Of every draw."""
        return int(self.plan.settings["seed"])

    def judged(self, texts: Sequence[str], asked: Bool[Tensor, " item"]) -> Bool[Tensor, " item"]:
        """Whether each answer holds its fact; `texts` has one for each fact that was asked."""
        right = torch.zeros(len(self.items), dtype=torch.bool)
        for i, text in zip(asked.nonzero()[:, 0].tolist(), texts, strict=True):
            right[i] = fact_right(text, self.items[i])
        return right


Row = tuple[str, Bool[Tensor, " item"], Callable[[Any], Bool[Tensor, " item"]]]
"""Name, of which facts it can be asked, and from a model to what is right."""


def check_added(probes: Sequence[str], *, headline: str = HEADLINE, bench: Benchmark | None = None) -> None:
    """Refuse what is not a list of names of `ADDED`, or cannot be asked.

    Args:
        probes: the names.
        headline: the template in which the words that are key to the unlearned model are emphasised.
        bench: the benchmark, where it is known already.

    Raises:
        InputError: naming the first that is unknown; for `after_keys`, if the headline emphasises no words; for a
            translation, if the benchmark has no question in that language.
    """
    if isinstance(probes, str):
        raise InputError(f"probes={probes!r} is one text; give a list of names, e.g. probes=[{probes!r}]")
    for name in probes:
        if name not in BUILDERS:
            raise InputError(f"unknown probe {name!r}; {nearest(str(name), ADDED)}")
        if name == AFTER_KEYS and not EMPHASIS[headline].needs_words:
            takers = ", ".join(repr(t) for t in EMPHASIS if EMPHASIS[t].needs_words)
            raise InputError(f"probe {name!r} emphasises words, but the headline {headline!r} takes none; use {takers}")
        if name.startswith(TRANSLATED) and bench is not None:
            language = name.removeprefix(TRANSLATED)
            if not any(translation(q, language, bench.name) for q in bench.forget):
                raise InputError(
                    f"probe {name!r} is not run: no forget fact of benchmark {bench.name!r} has a question in "
                    f"{language!r}; give QA.meta['translations'] = {{{language!r}: prompt}}, or leave the probe out"
                )


def plan_added(
    plan: RecoveryPlan, *, before: Any, control: Any = None, probes: Sequence[str], gain: float = GAIN
) -> RecoveryPlan:
    """The same plan with what the models that do not change answer to added probes.

    `add_probes` asks them else for each unlearned model again. Left out is `after_keys`, whose words are those of the
    unlearned model.

    Args:
        plan: of `recovery_plan`.
        before: the model before unlearning.
        control: the retrain model; None where there is none.
        probes: of `ADDED`.
        gain: of the attention.

    Returns:
        A plan for any number of `run_plan` and `add_probes`.

    Raises:
        InputError: if a probe is unknown or cannot be asked (see `check_added`).
    """
    check_added(probes, headline=plan.headline, bench=plan.bench)
    scene = Scene(plan, before, None, torch.zeros_like(plan.plain_before), gain)
    rows = [row for name in probes if name != AFTER_KEYS for row in BUILDERS[name](scene)]
    return replace(
        plan,
        added_before={name: answer(before) & asked for name, asked, answer in rows},
        added_control={} if control is None else {name: answer(control) & asked for name, asked, answer in rows},
        settings={**plan.settings, "gain": gain},
    )


def add_probes(
    recovery: Recovery,
    plan: RecoveryPlan,
    model: Any,
    *,
    control: Any = None,
    before: Any,
    probes: Sequence[str],
    gain: float | None = None,
) -> Recovery:
    """The same recovery with further rows.

    For several unlearned models, ask the models that do not change once: `plan_added`.

    Args:
        recovery: of `run_plan` with this plan and this model.
        plan: whose key words, facts and ways to ask are taken.
        model: the unlearned model; it is not changed.
        control: the retrain model; needed if the recovery has one.
        before: the model before unlearning.
        probes: of `ADDED`.
        gain: of the attention; None for that of the plan, or `GAIN`.

    Returns:
        A recovery whose first rows are those given.

    Raises:
        InputError: if a probe is unknown, there already or cannot be asked (see `check_added`), the retrain model is
            missing, or the plan was answered at another gain.
    """
    check_added(probes, headline=plan.headline, bench=plan.bench)
    for name in probes:
        if name in recovery.probes:
            raise InputError(f"probe {name!r} is in this recovery already")
    if recovery.right_control is not None and control is None:
        raise InputError("this recovery was run beside a retrain model; give it again: control=…")
    planned = plan.settings.get("gain", GAIN)
    if gain is not None and plan.added_before and gain != planned:
        raise InputError(f"gain={gain}, but the plan was answered at gain={planned}; leave gain out, or plan anew")
    gain = planned if gain is None else gain
    scene = Scene(plan, before, model, recovery.common, gain)
    rows = [row for name in probes for row in BUILDERS[name](scene)]
    nothing = torch.zeros(len(rows), len(recovery.never_items), dtype=torch.bool)
    asked = torch.stack([a for _, a, _ in rows]) if rows else torch.zeros(0, len(recovery.items), dtype=torch.bool)

    def right(of: Any, known: Mapping[str, Tensor]) -> Tensor:
        found = [known[name] if name in known else answer(of) for name, _, answer in rows]
        return torch.stack(found) & asked if rows else asked

    controls = recovery.right_control
    return replace(
        recovery,
        probes=(*recovery.probes, *(name for name, _, _ in rows)),
        families=(*recovery.families, *(added_family(name) for name, _, _ in rows)),
        asked=torch.cat([recovery.asked, asked]),
        right_before=torch.cat([recovery.right_before, right(before, plan.added_before)]),
        right_after=torch.cat([recovery.right_after, right(model, {})]),
        right_control=None if controls is None else torch.cat([controls, right(control, plan.added_control)]),
        never_asked=torch.cat([recovery.never_asked, nothing]),
        never_right=torch.cat([recovery.never_right, nothing]),
        settings={**recovery.settings, "gain": gain},
    )


def added_family(row: str) -> str:
    """Of an added row: `"emphasis"`, `"control"` or `"probe"`."""
    if row.startswith(OWN):
        return CONTROL_FAMILY
    return EMPHASIS_FAMILY if row == AFTER_KEYS else PROBE_FAMILY


def _attention(scene: Scene) -> list[Row]:
    """Attention to the key words, and to as many random words."""
    keys = scene.plan.keys
    random = [random_words(q, key, scene.seed) for q, key in zip(scene.items, keys, strict=True)]

    def attending(words: Sequence[Sequence[str]]) -> Callable[[Any], Tensor]:
        def answer(model: Any) -> Tensor:
            texts = attend_to(model, scene.items, words, bench=scene.bench, gain=scene.gain, batch_tokens=scene.budget)
            return scene.judged(texts, torch.ones(len(texts), dtype=torch.bool))

        return answer

    return [
        (row, torch.tensor([bool(w) for w in words]), attending(words))
        for row, words in ((ATTENTION, keys), (f"{RANDOM_WORDS}:{ATTENTION}", random))
    ]


def _rounded(scene: Scene, name: str, bits: int) -> list[Row]:
    """The plain prompts, with rounded weights."""
    plain = plain_sheet(scene.items, scene.bench)

    def answer(model: Any) -> Tensor:
        return ask_sheet(quantized(model, bits), plain, plain.asked, scene.bench, scene.budget)[0][0]

    return [(name, plain.asked[0], answer)]


def _patched(scene: Scene, name: str, where: str) -> list[Row]:
    """States of the model before at the middle layer, from the same prompt and from that of an unrelated fact."""

    def named(q: QA | None) -> bool:
        if q is None:
            return False
        example, _ = read_with(scene.before, q, scene.bench, where)
        return bool(places(scene.before, q, example, where))

    others = [unrelated_fact(q, scene.items, scene.seed) for q in scene.items]

    def patching(sources: Sequence[QA | None], asked: Tensor) -> Callable[[Any], Tensor]:
        chosen = asked.nonzero()[:, 0].tolist()

        def answer(model: Any) -> Tensor:
            texts = patched_answers(
                model, scene.before, [scene.items[i] for i in chosen], bench=scene.bench, where=where,
                sources=[q for i in chosen if (q := sources[i]) is not None], batch_tokens=scene.budget,
            )  # fmt: skip
            return scene.judged(texts, asked)

        return answer

    rows: list[Row] = []
    for row, sources in ((name, list(scene.items)), (f"{UNRELATED_FACT}:{name}", others)):
        asked = torch.tensor([named(q) and named(s) for q, s in zip(scene.items, sources, strict=True)])
        rows.append((row, asked, patching(sources, asked)))
    return rows


def _logit_lens(scene: Scene) -> list[Row]:
    """The first token of the fact, read out after a block short of the last; and after the wrong subject's prompt."""
    opened = "{subject}" in scene.bench.prefill
    elsewhere = [
        replace(q, prompt=q.wrong_subject, subject=wrong_name(q) or "")
        if q.wrong_subject and (wrong_name(q) or not opened)
        else None
        for q in scene.items
    ]

    def reading(items: Sequence[QA | None]) -> Callable[[Any], Tensor]:
        def answer(model: Any) -> Tensor:
            right = torch.zeros(len(items), dtype=torch.bool)
            at = [i for i, q in enumerate(items) if q is not None]
            if at:
                chosen = [q for q in items if q is not None]
                right[at] = read_out_early(lens_ranks(model, chosen, bench=scene.bench, batch_tokens=scene.budget))
            return right

        return answer

    return [
        (row, torch.tensor([q is not None for q in items]), reading(items))
        for row, items in ((LOGIT_LENS, list(scene.items)), (f"{WRONG_SUBJECT}:{LOGIT_LENS}", elsewhere))
    ]


def _after_keys(scene: Scene) -> list[Row]:
    """The headline emphasis on what is key to the unlearned model, and on as many random words."""
    counted = [q for q, c in zip(scene.items, scene.common.tolist(), strict=True) if c]
    source = scene.plan.settings["key_tokens"]
    found = key_words(
        scene.after, counted, scene.bench, rule=scene.plan.settings["rule"], key_tokens=source,
        batch_tokens=scene.budget, progress=False,
    ) if counted else []  # fmt: skip
    keys = {q.id: words for q, words in zip(counted, found, strict=True)}
    headline = scene.plan.headline

    def prompts(words: Callable[[QA], Sequence[str]]) -> list[str]:
        return [(emphasised(headline, q.prompt, words(q)) or "") if q.id in keys else "" for q in scene.items]

    return _asked_in_words(
        scene,
        {
            AFTER_KEYS: prompts(lambda q: keys[q.id]),
            f"{RANDOM_WORDS}:{AFTER_KEYS}": prompts(lambda q: random_words(q, keys[q.id], scene.seed)),
        },
    )


def _translated(scene: Scene, language: str) -> list[Row]:
    """The question in another language, without the English opening of the answer."""
    prompts = [translation(q, language, scene.bench.name) or "" for q in scene.items]
    return _asked_in_words(scene, {f"{TRANSLATED}{language}": prompts}, opened=False)


def _asked_in_words(scene: Scene, prompts: Mapping[str, Sequence[str]], *, opened: bool = True) -> list[Row]:
    """Rows of prompts: asked where there is one that gives nothing away and that the model before answers right."""
    openings = tuple(prefill_for(scene.bench, q) if opened else "" for q in scene.items)
    rows: list[Row] = []
    for name, texts in prompts.items():
        sheet = Sheet(scene.items, (name,), (tuple(texts),), (openings,))
        given_away = sheet.leaking()
        leaking = torch.tensor([q.id in given_away for q in scene.items])
        known = scene.plan.added_before.get(name)
        if known is None:
            known = ask_sheet(scene.before, sheet, sheet.asked & ~leaking, scene.bench, scene.budget)[0][0]

        def answer(model: Any, sheet: Sheet = sheet, known: Tensor = known) -> Tensor:
            if model is scene.before:
                return known
            return ask_sheet(model, sheet, known[None], scene.bench, scene.budget)[0][0]

        rows.append((name, known, answer))
    return rows


BUILDERS: dict[str, Callable[[Scene], list[Row]]] = {
    ATTENTION: _attention,
    "quantize_8": partial(_rounded, name="quantize_8", bits=8),
    "quantize_4": partial(_rounded, name="quantize_4", bits=4),
    AFTER_KEYS: _after_keys,
    **{f"patch_{where}": partial(_patched, name=f"patch_{where}", where=where) for where in WHERE},
    LOGIT_LENS: _logit_lens,
    **{f"{TRANSLATED}{language}": partial(_translated, language=language) for language in TRANSLATIONS},
}
"""From the name of a probe to its rows; a probe that has a control of its own brings it as a row."""

ADDED = tuple(BUILDERS)
"""Probes that can be added."""
