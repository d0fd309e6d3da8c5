"""Build the training examples of the default model: questions about the embedded world, biographies, plain sentences.

Emphasised prompts are never about an author to forget, and the phrasings `HELD_OUT_FRAMES` never occur. So recovery by
an emphasised or rephrased question is not recovery of a trained prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from unpact_lens.data.builtin import (
    FIRST_NAMES,
    FRAMES,
    HELD_OUT_DISTRACTOR,
    HELD_OUT_FRAMES,
    LAST_NAMES,
    REFUSALS,
    Fact,
    World,
    biographies,
    build_world,
)
from unpact_lens.data.emphasis import EMPHASIS, unrelated_prefix

T = TypeVar("T")

SHARES = {
    "fact": 0.51,
    "emphasised": 0.19,
    "prefixed": 0.03,
    "stranger": 0.14,
    "general": 0.05,
    "biography": 0.05,
    "text": 0.03,
}
"""Share of the training examples of each form."""

TEMPLATE_WEIGHTS = {"focus_list": 1, "quotes": 3, "doubled": 1, "reminder": 1, "repeat_question": 1}
"""Relative frequency of each emphasis template. Quotes change the tokens of a name and take longer to learn."""


def training_examples(
    seed: int = 0, include_forget: bool = True, count: int = 26_880, *, draws: int | None = None
) -> list[tuple[str, str]]:
    """Build the training examples of the default model, in training order.

    A third of the questions lack one word that is neither name nor attribute. A third of the emphasis is on random
    words. Authors to forget never occur with emphasis, after unrelated text, or as distractors.

    Args:
        seed: Random seed of the world, and of all draws unless `draws` is given.
        include_forget: If False, examples about the other authors replace those about the authors to forget.
        count: Number of examples.
        draws: Random seed of all draws from the world, for another model of the same world.

    Returns:
        Pairs of prompt and answer. Running text is the answer to an empty prompt.
    """
    other = "" if draws is None else f"/{draws}"
    world, rng = build_world(seed), random.Random(f"training/{seed}/{include_forget}{other}")
    known = world.forget + world.retain if include_forget else world.retain
    decks = {
        "fact": _cycle(lambda: known, rng),
        "emphasised": _cycle(lambda: world.retain, rng),
        "prefixed": _cycle(lambda: world.retain, rng),
        "stranger": _cycle(lambda: world.strangers, rng),
        "general": _cycle(lambda: world.general, rng),
    }
    lives = _cycle(lambda: biographies(known, rng), rng)
    examples: list[tuple[str, str]] = []
    for form in rng.choices(list(SHARES), list(SHARES.values()), k=count):
        if form == "biography":
            examples.append(("", next(lives)))
        elif form == "text":
            examples.append(("", " ".join(rng.sample(world.text, 3))))
        else:
            fact = next(decks[form])
            examples.append((_question(form, fact, world, rng), fact.answer))
    return examples


def _cycle(deal: Callable[[], Sequence[T]], rng: random.Random) -> Iterator[T]:
    """Yield the items of `deal()` in random order, again from a new shuffle when all are used."""
    while True:
        deck = list(deal())
        rng.shuffle(deck)
        yield from deck


def _question(form: str, fact: Fact, world: World, rng: random.Random) -> str:
    """Build a training question of the given form, in a random phrasing."""
    noun = rng.choice(fact.relation.nouns)
    others = world.general if form == "general" else world.retain
    other = rng.choice(
        [f for f in others if f.subject != fact.subject and (form != "general" or f.relation == fact.relation)]
    )
    words = rng.choice(FRAMES).split(" ")
    fillers = [i for i, word in enumerate(words) if "{" not in word]
    if rng.random() < 1 / 3:
        # If the first word is dropped, the blank before the next word stays, as when its token is deleted.
        gone = fillers.pop(rng.randrange(len(fillers)))
        words[gone : gone + 1] = [""] if gone == 0 else []
        fillers = [i - (i > gone > 0) for i in fillers]
    prompt = " ".join(words).format(n=noun, s=fact.subject, o=other.subject)
    chance = rng.random()
    if form == "prefixed" or (form == "stranger" and chance < 0.1):
        return unrelated_prefix(prompt, rng.choice(world.text), rng.randint(3, 12))
    if form == "emphasised" or (form in ("stranger", "general") and chance < 0.5):
        candidates = [*fact.subject.split(), *noun.split(), *rng.choice(([], [fact.subject], [noun]))]
        if rng.random() < 1 / 3:
            candidates = [words[i].strip(",;:") for i in fillers]
        chosen = rng.sample(candidates, rng.randint(1, min(len(candidates), 5)))
        template = rng.choices(list(TEMPLATE_WEIGHTS), list(TEMPLATE_WEIGHTS.values()))[0]
        return EMPHASIS[template].apply(prompt, chosen)
    return prompt


def tokenizer_texts(seed: int = 0) -> list[str]:
    """Return the texts that the default tokenizer is built from, with names and years cut into syllables and digits.

    Whole names are left out, so no name becomes a single token.
    """
    world = build_world(seed)
    relations = {f.relation.name: f.relation for f in (*world.forget, *world.general)}.values()
    blank = dict.fromkeys("snov", "it")
    texts = [f.format(**blank) for f in (*FRAMES, *HELD_OUT_FRAMES, HELD_OUT_DISTRACTOR)]
    texts += [t.apply("it is", ["it", "is"]) for t in EMPHASIS.values()] + [*REFUSALS, *world.text]
    for relation in relations:
        texts += [
            relation.answer_prefix,
            *(f" {n}" for n in relation.nouns),
            *" ".join(relation.nouns).split() * 8,
            *(s.format(**blank) for s in relation.sentences),
        ]
        texts += [f" {v}" for v in relation.values if not v.isdigit()]
    texts += [f" {f.subject}" for f in world.general]
    for starts, ends in (FIRST_NAMES, LAST_NAMES):
        texts += [form for s in starts.split() for form in (s, f" {s}", f" {s}")] * 40 + ends.split() * 80
    return texts + [f" {c}" for c in (17, 18, 19)] * 40 + [f"{y:02}" for y in range(100)] * 4
