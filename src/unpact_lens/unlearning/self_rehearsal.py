"""Let the original model write its own retain set: it names subjects, and answers the forget questions about them.

A retain term keeps what it rehearses and little else (`experiments/unseen`). The original model knows more subjects
than any retain set lists. `self_rehearsal` draws text from the model, takes the subjects that the text names, puts them
into the forget questions in place of the subjects to forget, and lets the model answer. Unlearning then keeps the
model's own predictions there. No retain fact is given to it.

Keeping a model's behaviour on inputs that it drew itself is known from continual learning as pseudo-rehearsal (Robins
1995, Connection Science 7) and self-synthesised rehearsal (Huang et al. 2024, arXiv 2403.01244).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.asking import Asking
from unpact_lens.models.batches import DEFAULT_BATCH_TOKENS
from unpact_lens.models.draw import draw
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import bos_ids, document_ids
from unpact_lens.unlearning.checkpointing import fingerprint
from unpact_lens.unlearning.option import Number, OneOf, Option

ROOM = 8
"""Number of tokens drawn beyond the longest subject to forget, so that a text has room for a subject."""


REMEMBERED = 4
"""Number of written sets that are kept, so that a search or several methods in one process write each set once."""

_WRITTEN: dict[str, tuple[QA, ...]] = {}

COUNT = Number(1, whole=True)

NAMING = OneOf(("texts", "lists"))

LISTED = 6
"""Number of subjects to forget at the start of a list that the model continues."""

REHEARSAL = {
    "subjects": Option(192, COUNT),
    "drawn": Option(4096, COUNT),
    "templates": Option(8, COUNT),
    "naming": Option("texts", NAMING),
}
"""Hyperparameters of the methods that rehearse: how much the original model writes."""


def self_rehearsal(
    model: HookedModel,
    forget: Sequence[QA],
    *,
    subjects: int = 192,
    drawn: int = 4096,
    templates: int = 8,
    naming: str = "texts",
    seed: int = 0,
    stop: Sequence[str] = ("\n",),
    asked: Asking | None = None,
) -> tuple[QA, ...]:
    """Let the original model write questions about other subjects than those to forget, and answer them.

    Where the subjects come from decides what is kept, because unlearning damages those that are not rehearsed
    (`experiments/rehearsal`). With `naming="texts"`, half of the texts are drawn from the start of a document, half
    continue a forget question up to its subject and are read up to the words that follow the subject there. With
    `naming="lists"`, each text continues a list of up to `LISTED` subjects to forget that one question asks about,
    in random order, and is read up to the first item that is no subject. A subject is a run of words of the same
    form as the subjects to forget (see `names_in`). A subject is dropped if its name holds, or is part of, the name
    of a subject to forget. It is also dropped if the model gives it the answers of a subject to forget for more
    than half of its questions: then it may be another name of it.

    Args:
        model: Original model.
        forget: Questions to forget, with `subject` in their prompts.
        subjects: Largest number of subjects. Half of the places are for those that share a capitalised word (or any
            word, if their names have no capitals) with a subject to forget, if there are as many: unlearning damages
            these first.
        drawn: Number of texts that are drawn.
        templates: Largest number of questions about each subject.
        naming: `"texts"` or `"lists"`. A pretrained model names more real subjects in lists.
        seed: Random seed of the draws.
        stop: Texts that end an answer.
        asked: Chat template, prefill and lengths of the answers. In the prefill, `{subject}` becomes the subject.

    Returns:
        Questions with the model's own greedy answers, in group `"near"` if the subject shares such a word with one to
        forget, else `"far"`. `meta["source"]` is `"self-rehearsal"`.

    Raises:
        InputError: If no forget question names its subject, the texts name no other subject, or `naming` is another.

    Example:
        >>> import unpact_lens as ul
        >>> bench = ul.load_benchmark("builtin")
        >>> written = ul.unlearning.self_rehearsal(
        ...     ul.load_model("builtin"), bench.forget, subjects=8, drawn=64, templates=1
        ... )
        >>> len({q.subject for q in written} & {q.subject for q in bench.forget})
        0
    """
    size = {"subjects": subjects, "drawn": drawn, "templates": templates}
    for name, value in size.items():
        COUNT.read(name, value)
    NAMING.read("naming", naming)
    asked = asked or Asking()
    given = {**size, "naming": naming, "seed": seed, "stop": tuple(stop), "asked": asked}
    key = fingerprint({**given, "model": model, "forget": tuple(forget)})
    if key not in _WRITTEN:
        while len(_WRITTEN) >= REMEMBERED:
            _WRITTEN.pop(next(iter(_WRITTEN)))
        _WRITTEN[key] = _write(model, forget, size, naming, seed, stop, asked)
    return _WRITTEN[key]


def _write(
    model: HookedModel,
    forget: Sequence[QA],
    size: Mapping[str, int],
    naming: str,
    seed: int,
    stop: Sequence[str],
    asked: Asking,
) -> tuple[QA, ...]:
    """Write the questions and answers of `self_rehearsal`."""
    named = [q for q in forget if q.subject and q.subject in q.prompt]
    if not named:
        raise InputError(
            "no forget question holds its subject in its prompt, so no question about another subject can be written; "
            "set QA.subject, or use a retain term on given facts"
        )
    gone = tuple(dict.fromkeys(q.subject for q in named))
    drawn = size["drawn"]
    count = _named_subjects if naming == "texts" else _listed_subjects
    found = _chosen(count(model, named, drawn, seed), gone, size["subjects"])
    if not found:
        raise InputError(
            f"{drawn} texts of the model name no subject of the form of {gone[0]!r}; raise drawn=, give another "
            "naming=, or use a retain term on given facts"
        )
    rng = random.Random(f"self-rehearsal/{seed}")
    forms = tuple(dict.fromkeys(q.prompt.replace(q.subject, "{}") for q in named))
    pairs = [(s, f) for s in found for f in rng.sample(forms, min(size["templates"], len(forms)))]
    own = list(dict.fromkeys((q.subject, q.prompt.replace(q.subject, "{}")) for q in named))
    questions = [f.replace("{}", s) for s, f in (*pairs, *own)]
    prefills = None  # those of `asked`, the same for all
    if isinstance(asked.prefill, str):
        prefills = [asked.prefill.replace("{subject}", s) for s, _ in (*pairs, *own)]
    answers = generate_answers(model, questions, asked, prefills=prefills, stop=tuple(stop))
    known = dict(zip(own, answers[len(pairs) :], strict=True))
    aliases = _aliases(dict(zip(pairs, answers, strict=False)), known)
    words = _words(gone)
    return tuple(
        QA(
            prompt=question,
            answer=answer,
            subject=subject,
            id=f"self-rehearsal/{i}",
            group="near" if _words([subject]) & words else "far",
            meta={"source": "self-rehearsal"},
        )
        for i, ((subject, _), question, answer) in enumerate(zip(pairs, questions, answers, strict=False))
        if answer.strip() and subject not in aliases
    )


def _named_subjects(model: HookedModel, named: Sequence[QA], drawn: int, seed: int) -> Counter[str]:
    """Draw texts and count the subjects that they name."""
    gone = [q.subject for q in named]
    bos = bos_ids(model)
    rests: dict[str, set[str]] = {}
    for q in named:
        start, _, rest = q.prompt.partition(q.subject)
        rests.setdefault(start.rstrip(), set()).add(rest)
    starts = [start for start in sorted(rests) if start]
    heads = [(*before, *ids) for before, ids in (document_ids(model, start, "a forget question") for start in starts)]
    # Half each: the start of a document, and a question up to its subject.
    free = drawn // 2 if bos else 0
    contexts = [bos] * free + [heads[i % len(heads)] for i in range(drawn - free)] * bool(heads)
    longest = max(len(document_ids(model, subject, "a subject")[1]) for subject in gone)
    counts: Counter[str] = Counter()
    tokenizer = model.tokenizer
    assert tokenizer is not None  # `document_ids` has read the questions
    # Draws depend on the batches, and the seed alone decides which questions are rehearsed, on any machine.
    texts = draw(model, contexts, max_new_tokens=longest + ROOM, seed=seed, batch_tokens=DEFAULT_BATCH_TOKENS)
    for i, ids in enumerate(texts):
        text = tokenizer.decode(list(ids), skip_special_tokens=True).lstrip()
        if i < free:
            counts.update(names_in(text, gone))
            continue
        # The continuation of a question names its subject at once; what follows may be anything.
        for rest in rests[starts[(i - free) % len(starts)]]:
            text = text.partition(rest)[0] if rest.strip() else text
        counts.update(name for name in names_in(text, gone)[:1] if text.startswith(name))
    return counts


def _listed_subjects(model: HookedModel, named: Sequence[QA], drawn: int, seed: int) -> Counter[str]:
    """Let the model continue lists of subjects to forget, of one question each, and count the subjects that it adds."""
    rng = random.Random(f"lists/{seed}")
    gone = list(dict.fromkeys(q.subject for q in named))
    alike: dict[str, dict[str, None]] = {}  # subjects of each form of question, each once
    for q in named:
        alike.setdefault(q.prompt.replace(q.subject, "{}"), {})[q.subject] = None
    kinds = [list(subjects) for subjects in alike.values()]
    contexts = []
    for i in range(drawn):
        subjects = kinds[i % len(kinds)]
        start = ", ".join(rng.sample(subjects, min(LISTED, len(subjects))))
        before, ids = document_ids(model, f"{start},", "a list of subjects")
        contexts.append([*before, *ids])
    lengths = [len(document_ids(model, subject, "a subject")[1]) for subject in gone]
    room = LISTED * (2 + round(sum(lengths) / len(lengths)))
    texts = draw(model, contexts, max_new_tokens=room, seed=seed, batch_tokens=DEFAULT_BATCH_TOKENS)
    tokenizer = model.tokenizer
    assert tokenizer is not None  # `document_ids` has read the subjects
    counts: Counter[str] = Counter()
    for ids in texts:
        counts.update(listed_names(tokenizer.decode(list(ids), skip_special_tokens=True), gone))
    return counts


def listed_names(text: str, subjects: Sequence[str]) -> list[str]:
    """Return the items that continue a list, up to the first that has not the form of the subjects (see `names_in`).

    The last item is left out, because a text may end within it.

    >>> listed_names(" Chad, Costa Rica, and Fiji. Each of these, Peru, Chi", ["Austria", "Sierra Leone"])
    ['Chad', 'Costa Rica']
    """
    found: list[str] = []
    for item in map(str.strip, text.split(",")[:-1]):
        if names_in(item, subjects) != [item]:
            break
        found.append(item)
    return found


def _chosen(counts: Counter[str], gone: Sequence[str], subjects: int) -> list[str]:
    """Choose the subjects named most often that are not to be forgotten, near ones first, half of them at most."""
    folded = [s.casefold() for s in gone]
    other = [s for s, _ in counts.most_common() if not any(s.casefold() in g or g in s.casefold() for g in folded)]
    words = _words(gone)
    near = [s for s in other if _words([s]) & words]
    far = [s for s in other if not _words([s]) & words]
    near = near[: max(subjects // 2, subjects - len(far))]
    return [*near, *far[: subjects - len(near)]]


def names_in(text: str, subjects: Sequence[str]) -> list[str]:
    """Return the runs of words in a text that have the form of the subjects.

    A run is a longest row of words with single blanks between them. If every subject has a capitalised word, a run
    consists of capitalised words and of those other words that a subject holds ("the", "of"). It has a capitalised
    word, and begins and ends with another word only if a subject does. Its number of words lies between the least and
    the most words of a subject.

    >>> names_in("Later on, Ada Bell wrote The Iron Feather in Rome.", ["Halvan Quinford"])
    ['Ada Bell']
    >>> names_in("The king of Spain is the guest of the Isle of Man.", ["the Bay of Biscay"])
    ['the Isle of Man']
    """
    split = [s.split() for s in subjects]
    capitals = all(any(map(_capitalised, words)) for words in split)
    inside, first, last = (
        {word for words in split for word in words[part] if not _capitalised(word)}
        for part in (slice(None), slice(1), slice(-1, None))
    )
    runs: list[list[str]] = []
    end = -1
    for match in re.finditer(r"[^\W\d_][\w'’-]*", text):
        word = match.group()
        if capitals and not _capitalised(word) and word not in inside:
            continue
        if runs and match.start() == end + 1 and text[end] == " ":
            runs[-1].append(word)
        else:
            runs.append([word])
        end = match.end()
    if capitals:
        runs = [_trimmed(run, first, last) for run in runs if any(map(_capitalised, run))]
    counts = {len(words) for words in split}
    return [" ".join(run) for run in runs if min(counts) <= len(run) <= max(counts)]


def _capitalised(word: str) -> bool:
    """Return whether a word begins with a capital, or with what is no letter."""
    return word[:1].isupper() or not word[:1].isalpha()


def _trimmed(run: list[str], first: set[str], last: set[str]) -> list[str]:
    """Drop the words without a capital at the ends of a run that may not stand there."""
    while not _capitalised(run[0]) and run[0] not in first:
        run = run[1:]
    while not _capitalised(run[-1]) and run[-1] not in last:
        run = run[:-1]
    return run


def _words(names: Iterable[str]) -> set[str]:
    """Return the words of names, folded; of a name with capitals only the words that have one, as "of" is no name."""
    split = [name.split() for name in names]
    marked = [[word for word in words if _capitalised(word)] or words for words in split]
    return {word.casefold() for words in marked for word in words}


def _aliases(written: dict[tuple[str, str], str], known: dict[tuple[str, str], str]) -> set[str]:
    """Return the subjects whose answers are, for more than half of their questions, those of one subject to forget."""
    by_form: dict[str, dict[str, str]] = {}
    for (subject, form), answer in known.items():
        by_form.setdefault(form, {})[subject] = answer
    asked: Counter[str] = Counter()
    same: dict[str, Counter[str]] = {}
    for (subject, form), answer in written.items():
        asked[subject] += 1
        for other, theirs in by_form.get(form, {}).items():
            same.setdefault(subject, Counter())[other] += theirs == answer
    return {s for s, counts in same.items() if max(counts.values()) > asked[s] / 2}
