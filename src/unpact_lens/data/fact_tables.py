"""Read tables of real facts about countries, US states and chemical elements, from packages with open licences.

`countryinfo` (MIT) has the countries and their capitals, Babel (BSD) the languages and currencies of Unicode's CLDR,
`us` (BSD) the states, `periodictable` (public domain) the elements. Each table is a tuple of pairs of subject and
value. Facts that are disputed, changed recently or not unique are excluded, and so are values that the subject's name
reveals.
"""

from __future__ import annotations

import datetime
import functools
import importlib
from collections.abc import Iterable
from typing import Any

from unpact_lens.errors import InputError

Facts = tuple[tuple[str, str], ...]

_WITH_ARTICLE = ("Islands", "Republic", "States", "Kingdom", "Emirates", "Netherlands", "Philippines", "Maldives")
_WITH_ARTICLE_TOO = ("Republic of", "Democratic Republic of", "Isle of", "Federated States of", "Comoros", "Seychelles")

UNSETTLED = frozenset(
    {
        "South Africa", "Bolivia", "Sri Lanka", "Netherlands", "Benin", "Ivory Coast", "Malaysia", "Tanzania",
        "Swaziland", "Chile", "Burundi", "Equatorial Guinea", "Nauru", "Montserrat", "Yemen", "Indonesia",
        "Israel", "Palestine", "Western Sahara", "Kazakhstan", "Hong Kong", "Burma", "Serbia and Montenegro",
        "Norfolk Island", "Antilles néerlandaises", "Georgia",
    }
)  # fmt: skip
"""Excluded countries: those with more than one capital; with a disputed, recently moved or renamed capital; countries
that no longer exist; and countries that share their name or capital with another."""

SETTLED = (datetime.date(2010, 1, 1), datetime.date(2025, 12, 31))
"""Period in which a country must have used only one currency, by CLDR, to be included."""

_NEW_CURRENCY = frozenset({"Bulgaria", "Zimbabwe", "Curaçao", "Sint Maarten", "El Salvador"})
"""Excluded countries: their currency changed after the CLDR releases in use, or they have a second currency."""

_NEW_LANGUAGE = frozenset({"Burkina Faso", "Mali", "Niger"})
"""Excluded countries: they changed their official language since 2023."""

_AMBIGUOUS_STATES = frozenset({"Georgia", "New York", "Washington"})
"""Excluded states: a country or a better-known city has the same name."""


@functools.cache
def capitals() -> Facts:
    """Return countries, with "the" where English uses it, and their capitals.

    Excluded are the countries of `UNSETTLED`, countries whose name reveals the capital (Mexico), and names that no
    sentence would use (`Virgin Islands, U.S.`).

    Raises:
        InputError: If `countryinfo` is not installed.
    """
    return tuple((subject, capital) for subject, _, capital in _countries())


@functools.cache
def languages() -> Facts:
    """Return countries of `capitals` with one official (or de facto official) language, and that language.

    Excluded are languages that share a stem with the country (Sweden: Swedish), and names of more than one word.

    Raises:
        InputError: If `babel` or `countryinfo` is not installed.
    """
    names = _package("babel").Locale("en").languages
    official = _package("babel.languages").get_official_languages
    facts = []
    for subject, code, _ in _countries():
        spoken = list(official(code, regional=False, de_facto=True)) if code else []
        language = names.get(spoken[0], "") if len(spoken) == 1 and subject not in _NEW_LANGUAGE else ""
        if language.isalpha() and not _same_stem(subject, language):
            facts.append((subject, language))
    return tuple(facts)


@functools.cache
def currencies() -> Facts:
    """Return countries of `capitals` with one currency, unchanged during `SETTLED`, and its unit (`"yen"`).

    The unit is the last word of CLDR's English name, in lower case, because "Japanese Yen" would reveal the country.

    Raises:
        InputError: If `babel` or `countryinfo` is not installed.
    """
    numbers = _package("babel.numbers")
    facts = []
    for subject, code, _ in _countries():
        used = numbers.get_territory_currencies(code, *SETTLED) if code else []
        if len(used) == 1 and subject not in _NEW_CURRENCY:
            unit = numbers.get_currency_name(used[0], locale="en").split()[-1].lower()
            if not _same_stem(subject, unit):
                facts.append((subject, unit))
    return tuple(facts)


@functools.cache
def state_capitals() -> Facts:
    """Return the states of the USA and their capitals, except states that share their name with a country or city.

    Raises:
        InputError: If `us` is not installed.
    """
    states = _package("us").states.STATES
    pairs = ((state.name, state.capital) for state in states if state.name not in _AMBIGUOUS_STATES)
    return tuple((name, capital) for name, capital in pairs if not _gives_away(name, capital))


def elements() -> Facts:
    """Return the chemical elements, in order of their atomic number, and their symbols.

    Raises:
        InputError: If `periodictable` is not installed.
    """
    return tuple((element.name, element.symbol) for element in _elements())


def atomic_numbers() -> Facts:
    """Return the chemical elements and their atomic numbers.

    Raises:
        InputError: If `periodictable` is not installed.
    """
    return tuple((element.name, str(element.number)) for element in _elements())


def _elements() -> Iterable[Any]:
    return (element for element in _package("periodictable").elements if element.number > 0)


@functools.cache
def _countries() -> tuple[tuple[str, str, str], ...]:
    """Return subject, ISO 3166 code of two letters, and capital of each country."""
    countryinfo = _package("countryinfo")
    if hasattr(countryinfo, "all_countries"):
        named = [(c.name(), c.iso(), c.capital()) for c in countryinfo.all_countries()]
    else:  # countryinfo before 1.0, the last for Python 3.10
        named = [(e["name"], e.get("ISO"), e.get("capital")) for e in countryinfo.CountryInfo().all().values()]
    found = []
    for name, iso, capital in named:
        if name in UNSETTLED or not isinstance(capital, str) or not capital or set("/,()") & set(name + capital):
            continue
        capital = capital.removesuffix(" D.C.")
        if not _gives_away(name, capital):
            found.append((_in_sentence(name), (iso or {}).get("alpha2") or "", capital))
    return tuple(sorted(found, key=lambda row: (row[0], row[2])))


def _package(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise InputError(
            f"benchmark 'facts' needs the package {package}, which is not installed: pip install \"unpact-lens[facts]\""
        ) from None


def _same_stem(subject: str, value: str) -> bool:
    """Return whether value and subject share the first three letters of a word, or one contains the other."""
    starts = {word.casefold()[:3] for word in subject.replace("-", " ").split()}
    return _gives_away(subject, value) or value.casefold()[:3] in starts


def _gives_away(name: str, capital: str) -> bool:
    """Return whether one name contains the other, or the country's name has a word of the capital (4+ letters)."""
    low = name.casefold()
    words = [w for w in capital.casefold().replace("-", " ").split() if len(w) > 3]
    return capital.casefold() in low or low in capital.casefold() or any(w in low for w in words)


def _in_sentence(name: str) -> str:
    """Return the name as used inside a sentence, with "the" where English uses it."""
    if name.startswith("The "):
        return "the " + name.removeprefix("The ")
    return f"the {name}" if name.endswith(_WITH_ARTICLE) or name.startswith(_WITH_ARTICLE_TOO) else name
