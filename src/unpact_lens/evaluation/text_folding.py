"""Make texts comparable in any script: fold what writers vary, and find words by Unicode's classes."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Chinese, Japanese, Thai, Lao, Khmer and Burmese write no blanks between words.
_UNSPACED_RANGES = (
    r"\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\u0e01-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
)
UNSPACED = re.compile(f"[{_UNSPACED_RANGES}]")
"""One character of a script that writes no blanks between words."""

# Letters that Unicode does not decompose, as writers replace them.
_LETTERS = str.maketrans(
    {"ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ß": "ss", "ẞ": "SS", "ł": "l", "Ł": "L",
     "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i", "ħ": "h", "\u0640": ""}
)  # fmt: skip
_TWO_LETTERS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "Å": "Aa", "Ø": "Oe"}
)
_SIGNS = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "−": "-", "‐": "-", "‑": "-"})
_SEPARATED = re.compile(r"(?<=\d)[,'’\u00a0\u2009\u202f\u066c](?=\d{3}(?!\d))")
_DOTTED = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:\.\d{3})+(?![\w]|[.,]\d)")
_INITIALS = re.compile(r"(?<![\w.])(?:[^\W\d_]\. ?){2,}")


@lru_cache(maxsize=8192)
def fold(text: str, *, keep_case: bool = False, two_letters: bool = False) -> str:
    """Return a text with all that writers vary made alike: forms, case, accents, digits, separators in numbers.

    Dropped are the accents of Latin and Greek letters, the vowel marks of Arabic and Hebrew, and stress marks of
    Cyrillic. Marks of other scripts make other letters and stay: か is not が. Punctuation stays.

    Args:
        text: Any text.
        keep_case: If True, letters keep their case.
        two_letters: If True, ä, ö, ü, å, ø become ae, oe, ue, aa, oe as in "Mueller"; else a, o, u, a, o.

    >>> fold("São Tomé, pop. 1,000"), fold("J. R. R. Tolkien"), fold("१९५६"), fold("Müller", two_letters=True)
    ('sao tome, pop. 1000', 'jrr. tolkien', '1956', 'mueller')
    """
    plain = "".join(str(unicodedata.digit(c)) if unicodedata.category(c) == "Nd" else c for c in text)
    plain = _DOTTED.sub(lambda number: number[0].replace(".", ""), _SEPARATED.sub("", plain))
    plain = _INITIALS.sub(_joined_initials, fold_letters(plain, two_letters=two_letters))
    return plain if keep_case else plain.casefold()


def fold_letters(text: str, *, two_letters: bool = False) -> str:
    """Return a text with compatibility forms, accents and signs made alike; case and numbers stay.

    >>> fold_letters("ﾉﾙｳｪｰ"), fold_letters("Ærø"), fold_letters("مِصْر")
    ('ノルウェー', 'AEro', 'مصر')
    """
    if text.isascii():
        return text
    if two_letters:
        text = unicodedata.normalize("NFC", text).translate(_TWO_LETTERS)
    kept: list[str] = []
    base = ""
    for character in unicodedata.normalize("NFKD", text):
        if not unicodedata.combining(character):
            base = character
        elif _drops(character, base):
            continue
        kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept)).translate(_LETTERS).translate(_SIGNS)


def is_word_character(character: str) -> bool:
    """Return whether a character belongs to a word: a letter, a digit or a combining mark."""
    return unicodedata.category(character)[0] in "LMN"


def shape(text: str) -> str:
    """Return a text with a blank for each character between words; the signs of names like `C++` stay.

    The length stays the same.

    >>> shape("It's C++, C#.")
    'It s C++  C# '
    """
    kept: list[str] = []
    for character in text:
        signs = character in "+#" and bool(kept) and kept[-1] != " "
        kept.append(character if signs or is_word_character(character) else " ")
    return "".join(kept)


def tokens(text: str) -> list[str]:
    """Cut a text into lower-case words for metrics that count common words.

    A character of a script without blanks is a word, together with its marks. Pure ASCII gives what rouge-score's own
    tokenizer gives.

    >>> tokens("Столица — Осло."), tokens("挪威的首都"), tokens("O'Brien, 1,000")
    (['столица', 'осло'], ['挪', '威', '的', '首', '都'], ['o', 'brien', '1', '000'])
    """
    words: list[str] = []
    open_word = False
    for character in fold_letters(text).casefold():
        mark = unicodedata.category(character)[0] == "M"
        alone = bool(UNSPACED.match(character)) and not mark
        if not is_word_character(character):
            open_word = False
        elif words and (mark or (open_word and not alone)):
            words[-1] += character
        else:
            words.append(character)
            open_word = not alone
    return words


def _joined_initials(found: re.Match[str]) -> str:
    """Join initials, "J. R. R. " to "JRR. "; the last point stays, because a sentence may end there."""
    blank = " " if found[0].endswith(" ") else ""
    return "".join(c for c in found[0] if c not in ". ") + "." + blank


def _drops(mark: str, base: str) -> bool:
    """Return whether writers leave a mark out on this letter."""
    name = unicodedata.name(base, "") if base else ""
    if name.startswith(("LATIN", "GREEK", "ARABIC", "HEBREW")):
        return True
    return name.startswith("CYRILLIC") and (mark in "\u0300\u0301" or (mark == "\u0308" and base in "еЕ"))
