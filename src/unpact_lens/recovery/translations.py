"""The questions of the benchmarks that ship here, asked in another language.

Written by hand, one a relation; those of `facts` end in a sentence left open, as its prompts do. Names stay as the
benchmark spells them, and so does what an answer is judged by: a model that says "alemán" where the fact is "German"
is not counted, before or after. Nothing is translated by a machine, and a benchmark with prompts of its own supplies
them in `QA.meta["translations"]`, language code → prompt.
"""

from __future__ import annotations

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError, nearest

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
"""Language code → benchmark → relation → prompt, with `{s}` where the subject stands."""


def translation(qa: QA, language: str, benchmark: str) -> str | None:
    """The question in another language; None where nobody has written it.

    Args:
        qa: the question; a prompt in its `meta["translations"]` goes before the templates of this file.
        language: of `TRANSLATIONS`.
        benchmark: its name, as in `Benchmark.name`.

    Raises:
        InputError: if the language is unknown.

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
