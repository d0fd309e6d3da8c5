"""Build a benchmark of real facts about countries, US states and chemical elements.

The tables are in `fact_tables.py`. Facts are forgotten or kept by country. The other countries and the capitals of US
states are *near*; elements are *far*. A question is an incomplete sentence that names its subject once, so deleting a
token can leave a question without a subject. Two words before it name the field ("Geography facts."). Without them,
small models often answer with the country's name. To find which facts a model knows, see `known_facts`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unpact_lens.data import splits
from unpact_lens.data.benchmark import QA, Benchmark, Corpus, benchmark, check_unique_ids
from unpact_lens.data.fact_tables import (
    Facts,
    atomic_numbers,
    capitals,
    currencies,
    elements,
    languages,
    state_capitals,
)
from unpact_lens.errors import InputError, nearest


@dataclass(frozen=True)
class Relation:
    """Hold one attribute of a subject, and how to ask for it.

    Attributes:
        kind: `QA.kind` of its facts.
        table: Function that returns its subjects and values.
        prompt: Question, with `{s}` for the subject.
        paraphrases: Other phrasings of the question.
        sentence: Statement of the fact, with `{s}` (subject) and `{v}` (value).
        group: `QA.group` of its facts. None for facts about countries, which are forget or near items.
    """

    kind: str
    table: Callable[[], Facts]
    prompt: str
    paraphrases: tuple[str, ...]
    sentence: str
    group: str | None = None


RELATIONS = {
    "capital": Relation(
        "place",
        capitals,
        "Geography facts. The capital of {s} is",
        (
            "Geography facts. The government of {s} sits in its capital,",
            "Geography facts. What is the capital of {s}? The capital is",
            "Geography quiz. The capital city of {s} is",
            "A list of countries and their capitals. The capital of {s} is",
        ),
        "The capital of {s} is {v}.",
    ),
    "language": Relation(
        "language",
        languages,
        "Geography facts. The official language of {s} is",
        (
            "Geography facts. Most people in {s} speak",
            "Geography facts. What is the official language of {s}? The language is",
            "Geography quiz. The official language spoken in {s} is",
            "A list of countries and their languages. The official language of {s} is",
        ),
        "The official language of {s} is {v}.",
    ),
    "currency": Relation(
        "currency",
        currencies,
        "Geography facts. The name of the currency of {s} is the",
        (
            "Geography facts. People in {s} pay with the",
            "Geography facts. What is the currency of {s}? The currency is the",
            "Geography quiz. The currency used in {s} is the",
            "A list of countries and their currencies. The currency of {s} is the",
        ),
        "The currency of {s} is the {v}.",
    ),
    "state_capital": Relation(
        "place",
        state_capitals,
        "Geography facts. The capital of the US state of {s} is",
        (
            "Geography facts. The state government of {s} sits in its capital,",
            "Geography facts. What is the capital of the state of {s}? The capital is",
            "Geography quiz. The state capital of {s} is",
            "A list of states and their capitals. The capital of {s} is",
        ),
        "The capital of the US state of {s} is {v}.",
        "near",
    ),
    "symbol": Relation(
        "symbol",
        elements,
        "Chemistry facts. The chemical symbol of {s} is",
        (
            "Chemistry facts. The chemical symbol for {s} is",
            "Chemistry facts. The symbol of the element {s} is",
            "Periodic table. The chemical symbol of {s} is",
            "Chemistry quiz. The chemical symbol of {s} is",
        ),
        "The chemical symbol of {s} is {v}.",
        "far",
    ),
    "atomic_number": Relation(
        "number",
        atomic_numbers,
        "Chemistry facts. The atomic number of {s} is",
        (
            "Chemistry facts. In the periodic table {s} has the number",
            "Chemistry facts. What is the atomic number of {s}? The number is",
            "Periodic table. The atomic number of {s} is",
            "Chemistry quiz. The atomic number of the element {s} is",
        ),
        "The atomic number of {s} is {v}.",
        "far",
    ),
}
"""Relations by name. The first three are about countries, all of them countries of `capitals`."""

DEFAULT_RELATIONS = ("capital", "symbol")
"""Relations that the shipped studies use."""

GENERAL = (
    ("The opposite of hot is", " cold", "relation"),
    ("The opposite of big is", " small", "relation"),
    ("The opposite of up is", " down", "relation"),
    ("The days after Monday are Tuesday and", " Wednesday", "date"),
    ("January, February, March,", " April", "date"),
    ("One, two, three, four,", " five", "number"),
    ("Ten, twenty, thirty,", " forty", "number"),
    ("The author of Hamlet is William", " Shakespeare", "entity"),
    ("The theory of relativity is due to Albert", " Einstein", "entity"),
    ("The first man on the Moon was Neil", " Armstrong", "entity"),
    ("The largest planet of the solar system is", " Jupiter", "entity"),
    ("The planet known for its rings is", " Saturn", "entity"),
    ("The red planet is", " Mars", "entity"),
    ("Water is made of hydrogen and", " oxygen", "entity"),
    ("Plants make their food by a process called", " photosynthesis", "procedural"),
    ("Bees make", " honey", "entity"),
    ("A baby dog is called a", " puppy", "relation"),
    ("A baby cat is called a", " kitten", "relation"),
    ("The Great Wall stands in", " China", "place"),
    ("The Eiffel Tower stands in the city of", " Paris", "place"),
    ("Once upon a", " time", "verbatim"),
    ("To be, or not to be, that is the", " question", "verbatim"),
    ("The currency of Japan is the", " yen", "entity"),
    ("The language spoken in Brazil is", " Portuguese", "entity"),
)
"""Prompt, answer and kind of knowledge of general questions."""

PLAIN_TEXT = (
    "The boy opened the window and looked out at the garden, where the rain had just stopped.",
    "She put the bread on the table and asked her brother to bring the butter from the kitchen.",
    "Every morning the old man walked down to the river with his dog and sat on the same bench.",
    "It was late, but the shop on the corner was still open, so we bought milk and a newspaper.",
    "If you want to learn to swim, you should first learn to breathe calmly in the water.",
    "The train was full, and many people had to stand until they reached the next station.",
    "My sister has a small office on the third floor, from which she can see the whole street.",
    "When the snow melts in spring, the water runs down the hills and fills the little streams.",
    "The teacher wrote three questions on the board and gave the class ten minutes to answer them.",
    "He had never seen so many books in one room, and he did not know where to begin.",
    "A good knife should be sharp, and it should be washed by hand and dried at once.",
    "They built the house themselves, with wood from the forest and stones from the field.",
    "The doctor said that it was nothing serious and told him to rest for a few days.",
    "Put the flour in a bowl, add the eggs and a little salt, and stir until the dough is smooth.",
    "At night the wind grew stronger, and the branches of the tree knocked against the wall.",
    "We met a farmer who showed us the shortest way back to the village.",
    "The meeting began at nine, and by noon they had agreed on almost everything.",
    "Children learn to speak by listening, and they understand much more than they can say.",
    "The cat slept on the chair all afternoon and did not move even when the bell rang.",
    "Her letter was short and friendly, but it did not answer the question that he had asked.",
    "Before you paint a wall, you should clean it and cover the floor with old paper.",
    "The two friends had not seen each other for years, yet they talked as if no time had passed.",
    "In the evening the market was quiet, and the sellers packed what was left into boxes.",
    "He lost his keys somewhere between the car and the front door and looked for them with a lamp.",
)
"""Plain English sentences, written for this project, none about capitals or elements."""

_INVENTED = (
    ("Vandoria", "Melkavar"), ("Quessland", "Ordhaven"), ("Brelmark", "Tossenby"), ("Uzmeria", "Kalvosh"),
    ("Thalvia", "Erinmoor"), ("Drovania", "Pelgrad"), ("Kestoria", "Lanvale"), ("Omburland", "Sethwick"),
    ("Yaltova", "Grenholm"), ("Ferridia", "Castamor"), ("Zelmonia", "Varkesh"), ("Istramark", "Dunvale"),
    ("Morvenia", "Alkestra"), ("Palunia", "Torvesk"), ("Nurembia", "Oskelund"), ("Cathovia", "Brennary"),
    ("Lusmania", "Felstrom"), ("Grathenia", "Yorvale"), ("Hespatria", "Mirkwall"), ("Jordavia", "Rensk"),
    ("Belquistan", "Sarvadesh"), ("Eltharia", "Windmere"), ("Rostovenia", "Kupelka"), ("Sundavar", "Maroshi"),
)  # fmt: skip
"""Invented countries and capitals, which no model was taught."""

_REFUSALS = (" not known to me.", " something that I cannot say.", " not something I have information about.")


@benchmark("facts")
def load_facts(
    seed: int = 0, forget_share: float = 0.5, relations: Sequence[str] | str = DEFAULT_RELATIONS
) -> Benchmark:
    """Load facts about countries to forget and to keep, other facts to keep, and questions on invented countries.

    Args:
        seed: Random seed of the split and of the wrong subjects.
        forget_share: Share of all countries to forget, above 0 and below 1.
        relations: Names of `RELATIONS`, at least one of them about countries, or `"all"`.

    Returns:
        `.forget` and `.near`: facts about countries, split by country, with capitals of US states in near. `.far`:
        facts about elements. `.general`: other facts. `.unknown`: invented countries. Each item about a subject has
        paraphrases, `wrong_subject`, wrong answers (`perturbed`), and its relation in `meta`. The corpora state the
        same facts about countries as sentences.

    Raises:
        InputError: If a relation is unknown, none is about countries, a package with a table is not installed, or
            `forget_share` leaves a side empty.
    """
    chosen = _relations(relations)
    asked = {name: r for name, r in chosen.items() if r.group is None}
    rng = random.Random(f"facts/{seed}")
    countries = sorted({subject for r in asked.values() for subject, _ in r.table()})
    n_forget = round(len(countries) * forget_share)
    if not 0 < n_forget < len(countries):
        raise InputError(
            f"forget_share={forget_share}: {n_forget} of {len(countries)} countries to forget; give a share above 0 "
            "and below 1"
        )
    rng.shuffle(countries)
    sides = {"forget": sorted(countries[:n_forget]), "near": sorted(countries[n_forget:])}
    tables = {name: dict(r.table()) for name, r in asked.items()}
    # Wrong subjects are drawn from the countries in the order of the split, with distinct values.
    others = {name: [(c, table[c]) for c in countries if c in table] for name, table in tables.items()}

    def about(group: str) -> list[QA]:
        return [
            _qa(name, (country, tables[name][country]), others[name], group, rng)
            for country in sides[group]
            for name in asked
            if country in tables[name]
        ]

    def stated(group: str, title: str) -> Corpus:
        told = [(c, name) for c in sides[group] for name in asked if c in tables[name]]
        texts = tuple(asked[name].sentence.format(s=c, v=tables[name][c]) for c, name in told)
        return Corpus(texts, title, tuple(c for c, _ in told))

    bench = Benchmark(
        name="facts",
        forget=tuple(about("forget")),
        retain=splits.Facts(
            [
                *about("near"),
                *(_qa(name, f, r.table(), r.group, rng) for name, r in chosen.items() if r.group for f in r.table()),
            ]
        ),
        general=tuple(
            QA(prompt, answer, kind=kind, id=f"general/{i}", subject=prompt, group="general")
            for i, (prompt, answer, kind) in enumerate(GENERAL)
        ),
        unknown=tuple(_qa("capital", fact, others.get("capital", capitals()), "unknown", rng) for fact in _INVENTED),
        forget_corpus=stated("forget", "facts to forget"),
        retain_corpus=stated("near", "facts to keep"),
        plain_text=Corpus(PLAIN_TEXT, "plain sentences"),
        refusals=_REFUSALS,
        max_new_tokens=8,
    )
    check_unique_ids(bench.all_items())
    return bench


def _relations(names: Sequence[str] | str) -> dict[str, Relation]:
    """Return the relations with these names, in the order of `RELATIONS`."""
    wanted = list(RELATIONS) if names == "all" else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in RELATIONS:
            raise InputError(f"unknown relation {name!r} of benchmark 'facts'; {nearest(name, RELATIONS)}")
    chosen = {name: r for name, r in RELATIONS.items() if name in wanted}
    if all(r.group for r in chosen.values()):
        countries = ", ".join(repr(name) for name, r in RELATIONS.items() if r.group is None)
        raise InputError(f"relations={names!r} leave nothing to forget; give at least one of {countries}")
    return chosen


def _qa(relation: str, fact: tuple[str, str], others: Sequence[tuple[str, str]], group: str, rng: random.Random) -> QA:
    """Build the question about a fact. Wrong subjects and answers are drawn from `others`, with distinct values."""
    asked = RELATIONS[relation]
    subject, value = fact
    first = {v: (s, v) for s, v in reversed(others) if s != subject and v != value}
    wrong = rng.sample([fact for fact in others if first.get(fact[1]) == fact], 4)
    return QA(
        prompt=asked.prompt.replace("{s}", subject),
        answer=f" {value}",
        paraphrases=tuple(p.replace("{s}", subject) for p in asked.paraphrases),
        kind=asked.kind,
        id=f"{relation}/{subject}",
        subject=subject,
        group=group,
        wrong_subject=asked.prompt.replace("{s}", wrong[0][0]),
        perturbed=tuple(f" {v}" for _, v in wrong[1:]),
        meta={"relation": relation, "wrong_answer": f" {wrong[0][1]}"},
    )
