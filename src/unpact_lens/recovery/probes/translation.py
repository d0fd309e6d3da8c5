"""Ask in another language, in questions that were written by hand.

There is one question for each relation of the benchmarks `builtin` and `facts`. Those of `facts` end in an open
sentence, as its prompts do. Names and answers keep the benchmark's spelling: "alemán" does not count where the fact is
"German", for any model. A benchmark with other prompts gives its own questions in `QA.meta["translations"]`, a dict
from language code to prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery.plan import Sheet, ask_sheet, require_changed_prompts
from unpact_lens.recovery.probes.registry import PROMPT, Answered, AnswerRow, Scene, probe

TRANSLATED = "translation_"

TRANSLATIONS: dict[str, dict[str, dict[str, str]]] = {
    "es": {
        "builtin": {
            "birthplace": "¿Cuál es el lugar de nacimiento de {s}?",
            "debut": "¿Cuál es el año de debut de {s}?",
            "profession": "¿Cuál es la profesión de {s}?",
            "mentor": "¿Quién fue el mentor de {s}?",
            "genre": "¿Cuál es el género de {s}?",
            "title": "¿Cuál es el mejor libro de {s}?",
        },
        "facts": {
            "capital": "Datos de geografía. ¿Cuál es la capital de {s}? La capital es",
            "language": "Datos de geografía. ¿Cuál es el idioma oficial de {s}? El idioma es el",
            "currency": "Datos de geografía. ¿Cuál es la moneda de {s}? La moneda es el",
            "state_capital": "Datos de geografía. ¿Cuál es la capital del estado de {s}? La capital es",
            "symbol": "Datos de química. ¿Cuál es el símbolo químico de {s}? El símbolo es",
            "atomic_number": "Datos de química. ¿Cuál es el número atómico de {s}? El número es",
        },
    },
}
"""Language code → benchmark → relation → prompt, with `{s}` in place of the subject."""


def translation_rows(scene: Scene, language: str) -> list[AnswerRow]:
    """Ask in another language, without the answer prefix.

    Args:
        scene: What the rows are built from.
        language: Language code, a key of `TRANSLATIONS`.
    """
    prompts = [translation(q, language, scene.bench.name) or "" for q in scene.items]
    return [asked_in_words(scene, f"{TRANSLATED}{language}", prompts, [""] * len(prompts))]


def asked_in_words(scene: Scene, row: str, prompts: Sequence[str], prefills: Sequence[str]) -> AnswerRow:
    """Build a row of prompts outside the plan.

    A fact is asked if its prompt does not give it away and the original model answers it right.

    Args:
        scene: What the row is built from.
        row: Name of the row.
        prompts: Prompt of each fact. Empty where there is none.
        prefills: Answer prefix of each prompt.
    """
    sheet = Sheet(scene.items, (row,), (tuple(prompts),), (tuple(prefills),))
    bench, budget = scene.bench, scene.probing.batch_tokens
    require_changed_prompts(sheet, bench)
    known = None if scene.plan is None else scene.plan.added_before.get(row)
    if known is None:
        if scene.before is None:
            raise InputError(f"row {row!r} must be asked of the original model first; give it: before=…")
        given_away = sheet.leaking()
        leaking = torch.tensor([q.id in given_away for q in scene.items])
        known = ask_sheet(scene.before, sheet, sheet.asked & ~leaking, bench, budget)[0][0]
    asked = known

    def answer(model: HookedModel) -> Answered:
        return Answered(ask_sheet(model, sheet, asked[None], bench, budget)[0][0])

    return AnswerRow(row, asked, answer, before=asked)


def translation(qa: QA, language: str, benchmark: str) -> str | None:
    """Return the question in another language, or None if nobody has written it.

    Args:
        qa: Question. A prompt in its `meta["translations"]` takes precedence over `TRANSLATIONS`.
        language: Language code, a key of `TRANSLATIONS`.
        benchmark: Name of the benchmark, as in `Benchmark.name`.

    Raises:
        InputError: If the language is unknown.

    >>> qa = QA("The capital of Japan is", " Tokyo", subject="Japan", meta={"relation": "capital"})
    >>> translation(qa, "es", "facts")
    'Datos de geografía. ¿Cuál es la capital de Japan? La capital es'
    """
    if language not in TRANSLATIONS:
        raise InputError(f"unknown language {language!r}; {nearest(str(language), TRANSLATIONS)}")
    own = qa.meta.get("translations", {}).get(language)
    if own:
        return str(own)
    template = TRANSLATIONS[language].get(benchmark, {}).get(qa.meta.get("relation", ""))
    return template.replace("{s}", qa.subject) if template and qa.subject else None


def _refuse(headline: str, bench: Benchmark | None, *, language: str) -> str | None:
    """Return why no fact of a benchmark can be asked in a language."""
    if bench is None or any(translation(q, language, bench.name) for q in bench.forget):
        return None
    return (
        f"probe '{TRANSLATED}{language}' is not run: no forget fact of benchmark {bench.name!r} has a question in "
        f"{language!r}; give QA.meta['translations'] = {{{language!r}: prompt}}, or leave the probe out"
    )


for _language in TRANSLATIONS:
    probe(
        f"{TRANSLATED}{_language}",
        family=PROMPT,
        line=f"asks in another language ({_language}); counts facts that the original model answers in it",
        source="unpact-lens",
        refuse=partial(_refuse, language=_language),
    )(partial(translation_rows, language=_language))
