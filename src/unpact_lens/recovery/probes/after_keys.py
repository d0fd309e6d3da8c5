"""Emphasise what is key to the unlearned model. No plan can fix these prompts, as each unlearned model has its own."""

from __future__ import annotations

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import prefill_for
from unpact_lens.recovery.controls import random_words
from unpact_lens.recovery.probes.emphasis import emphasised, key_words
from unpact_lens.recovery.probes.registry import AFTER, BEFORE, PROMPT, AnswerRow, Scene, probe
from unpact_lens.recovery.probes.translation import asked_in_words
from unpact_lens.recovery.result import AFTER_KEYS, RANDOM_WORDS


def _refuse(headline: str, bench: Benchmark | None) -> str | None:
    """Return why a headline cannot emphasise key words."""
    if EMPHASIS[headline].needs_words:
        return None
    takers = ", ".join(repr(t) for t in EMPHASIS if EMPHASIS[t].needs_words)
    return f"probe {AFTER_KEYS!r} emphasises words, but the headline {headline!r} takes none; use {takers}"


@probe(
    AFTER_KEYS,
    family=PROMPT,
    line="the headline template on the KeyTokens of the unlearned model",
    source="unpact-lens",
    needs=(BEFORE, AFTER),
    refuse=_refuse,
)
def after_keys(scene: Scene) -> list[AnswerRow]:
    """Emphasise the unlearned model's key words by the headline template, and as a control as many random words."""
    if scene.after is None or scene.counted is None:
        raise InputError(f"probe {AFTER_KEYS!r} needs the unlearned model")
    probing = scene.probing
    counted = [q for q, c in zip(scene.items, scene.counted.tolist(), strict=True) if c]
    found = key_words(
        scene.after, counted, scene.bench, rule=probing.rule, key_tokens=probing.key_tokens,
        batch_tokens=probing.batch_tokens, progress=False,
    ) if counted else []  # fmt: skip
    keys = {q.id: words for q, words in zip(counted, found, strict=True)}
    rows = {AFTER_KEYS: keys}
    rows[f"{RANDOM_WORDS}:{AFTER_KEYS}"] = {q.id: random_words(q, keys[q.id], probing.seed) for q in counted}
    prefills = [prefill_for(scene.bench, q) for q in scene.items]

    def prompts(words: dict[str, tuple[str, ...]]) -> list[str]:
        return [
            (emphasised(probing.headline, q.prompt, words[q.id]) or "") if q.id in words else "" for q in scene.items
        ]

    return [asked_in_words(scene, row, prompts(words), prefills) for row, words in rows.items()]
