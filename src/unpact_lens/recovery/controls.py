"""Write control prompts: other causes that could bring a fact back than emphasis on the right words.

Every draw depends on the run's seed and the fact's id only. It differs between facts, and does not depend on the other
facts in the run.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS, unrelated_prefix
from unpact_lens.evaluation.answers import holds_fact
from unpact_lens.recovery.probes.emphasis import emphasised
from unpact_lens.words import WORD


def generator(seed: int, qa: QA, what: str) -> random.Random:
    """Return the random generator of one draw for one fact."""
    return random.Random(f"{seed}/{what}/{qa.id or qa.prompt}")


def random_words(qa: QA, key: Sequence[str], seed: int = 0) -> tuple[str, ...]:
    """Draw as many words of the prompt as there are key words, none of them a key word or a name.

    Words of the subject, and words with a capital inside a sentence, count as names. Fewer words are drawn if fewer are
    left.

    Args:
        qa: Question.
        key: Its key words.
        seed: Random seed for the draw.

    Returns:
        The drawn words, in the prompt's order.

    >>> random_words(QA("What is the birthplace of Ann Lee?", " Oslo", subject="Ann Lee"), ["Ann", "birthplace", "of"])
    ('What', 'is', 'the')
    """
    barred = {w.casefold() for w in (*key, *WORD.findall(qa.subject))}
    matches = list(WORD.finditer(qa.prompt))
    free = dict.fromkeys(
        m.group() for m in matches if m.group().casefold() not in barred and not _looks_like_a_name(qa.prompt, m)
    )
    drawn = generator(seed, qa, "random words").sample(list(free), min(len(key), len(free)))
    return tuple(w for w in free if w in drawn)


def unrelated(qa: QA, words_added: int, fillers: Sequence[str], seed: int = 0) -> str | None:
    """Write the plain prompt after unrelated text of a given length. None if no filler is unrelated.

    Args:
        qa: Question.
        words_added: Number of words that the headline emphasis adds.
        fillers: Texts to draw from. Texts that hold the fact or a word of the subject are skipped.
        seed: Random seed for the draw.
    """
    names = WORD.findall(qa.subject)
    fit = [
        f for f in fillers if not holds_fact(f, qa.fact, qa.aliases) and not any(holds_fact(f, name) for name in names)
    ]
    if not fit:
        return None
    return unrelated_prefix(qa.prompt, generator(seed, qa, "unrelated").choice(fit), max(1, words_added))


def fillers_of(bench: Benchmark) -> tuple[str, ...]:
    """Return texts that are unrelated to the forget facts: plain text, or else questions of general and far facts."""
    if bench.plain_text is not None:
        return bench.plain_text.texts
    return tuple(q.prompt for q in (*bench.general, *bench.far))


def paraphrase(qa: QA, seed: int = 0) -> str | None:
    """Draw a paraphrase of the question, without emphasis. None if there is none."""
    return generator(seed, qa, "paraphrase").choice(qa.paraphrases) if qa.paraphrases else None


def wrong_subject(qa: QA, key: Sequence[str], template: str) -> str | None:
    """Write the emphasised question about another subject, which must not give the answer. None if there is none.

    The same words are emphasised, with the other subject's words in place of this subject's.

    Args:
        qa: Question.
        key: Its key words.
        template: Name of the emphasis template.
    """
    if qa.wrong_subject is None:
        return None
    own, other = set(WORD.findall(qa.prompt)), list(dict.fromkeys(WORD.findall(qa.wrong_subject)))
    lost = any(w not in other for w in key)
    words = [w for w in other if w in key or (lost and w not in own)]
    return emphasised(template, qa.wrong_subject, words)


def wrong_name(qa: QA) -> str | None:
    """Return the subject that `wrong_subject` asks about, from the position of the prompt's own. None if unclear.

    >>> wrong_name(QA("The capital of Japan is", " Tokyo", subject="Japan", wrong_subject="The capital of Peru is"))
    'Peru'
    """
    if not qa.wrong_subject or not qa.subject or qa.prompt.count(qa.subject) != 1:
        return None
    head, tail = qa.prompt.split(qa.subject)
    found = re.fullmatch(re.escape(head) + "(.+)" + re.escape(tail), qa.wrong_subject, flags=re.DOTALL)
    return found.group(1) if found else None


def words_added(template: str, prompt: str, key: Sequence[str]) -> int:
    """Count the words that an emphasis adds to the prompt. If it adds none, count the key words."""
    if EMPHASIS[template].needs_words and not key:
        return 0
    longer = len(EMPHASIS[template].apply(prompt, key).split()) - len(prompt.split())
    return longer or len(key)


def _looks_like_a_name(prompt: str, word: re.Match[str]) -> bool:
    """Return whether a word has a capital letter inside a sentence."""
    before = prompt[: word.start()].rstrip()
    return word.group()[0].isupper() and bool(before) and before[-1] not in ".?!:"
