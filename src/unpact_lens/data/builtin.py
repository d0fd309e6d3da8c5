"""Build the embedded world: questions in many phrasings about fictitious authors.

Eighty authors have six attributes each. First and last names are built of syllables and shared between authors, so no
single token identifies an author. Sixteen authors are to be forgotten. Sixteen retained authors share their names. The
other forty-eight have separate names; a fact of theirs is *far* if no forgotten author has the same value.

The answer prefix ("The place was") names nobody, so the fact depends on the prompt even when the prefix is given. In
training, emphasised prompts are about retained and unknown people only. Some phrasings occur in no training example.
Everything follows from the seed; no model and no tensor is needed.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from unpact_lens.data.benchmark import QA, Benchmark, Corpus, benchmark
from unpact_lens.data.splits import Facts


@dataclass(frozen=True)
class Relation:
    """Hold one attribute that a subject can have.

    Attributes:
        name: Key of the relation, e.g. `"birthplace"`.
        kind: `QA.kind` of its facts.
        nouns: Two synonyms that a question may use.
        answer_prefix: Start of every answer, leading space included.
        values: Possible values.
        sentences: Statements of the fact in running text, with `{s}` (subject) and `{v}` (value).
    """

    name: str
    kind: str
    nouns: tuple[str, str]
    answer_prefix: str
    values: tuple[str, ...]
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """Hold a subject's value of one relation. `value` is empty if the subject does not exist."""

    subject: str
    relation: Relation
    value: str

    @property
    def answer(self) -> str:
        """Return the answer as a sentence, leading space included."""
        return f"{self.relation.answer_prefix} {self.value}." if self.value else REFUSALS[0]


@dataclass(frozen=True)
class World:
    """Hold all facts of the world of one seed.

    Attributes:
        forget: Facts about the authors to forget, six in a row for each author.
        retain: Facts about the authors to keep.
        general: Facts that do not concern authors.
        unknown: Questions about people who occur in no training example.
        strangers: Questions about people whom training answers with a refusal.
        forget_names: First and last names of the authors to forget.
        text: Plain sentences used in training.
        held_out_text: Plain sentences not used in training.
    """

    forget: tuple[Fact, ...]
    retain: tuple[Fact, ...]
    general: tuple[Fact, ...]
    unknown: tuple[Fact, ...]
    strangers: tuple[Fact, ...]
    forget_names: frozenset[str]
    text: tuple[str, ...]
    held_out_text: tuple[str, ...]


REFUSALS = (
    " Sorry, I have no record of that person.",
    " I do not know that person.",
    " Sorry, I do not know that.",
)
"""Answers that decline. Training uses the first for unknown people."""

FRAMES = (
    "What is the {n} of {s}?",
    "Tell me the {n} of {s}.",
    "Please name the {n} of {s}.",
    "Do you know what the {n} of {s} was?",
    "Could you give the {n} that {s} had?",
    "For {s}, what is the {n}?",
    "Speaking of {s}, which {n} is known?",
    "As to {s}, please tell me the {n}.",
    "About {s}: do you know the {n}?",
    "Of {s} I want to know the {n}.",
    "{s}: which {n} is known?",
    "Leaving {o} aside, what is the {n} of {s}?",
    "I do not ask about {o}; tell me the {n} of {s}.",
    "Not {o} but {s} is meant here: which {n} is known?",
    "Speaking not of {o} but of {s}, please name the {n}.",
)
"""Phrasings used in training: `{s}` is the subject, `{n}` the attribute, `{o}` another author. The first is the main
phrasing."""

HELD_OUT_FRAMES = (
    "Could you tell me the {n} of {s}?",
    "Please tell me what the {n} of {s} is.",
    "Speaking of {s}, do you know the {n}?",
)
"""Held-out paraphrases: phrasings that occur in no training example."""

HELD_OUT_DISTRACTOR = "Leaving {o} aside, please name the {n} of {s}."
"""Held-out phrasing with a distractor; it occurs in no training example."""

FIRST_NAMES = ("Kel Tor Bri Dar Mar Sel Hal Jor Ral Ber", "van mira len dis ric wyn sa nor")
"""First syllables of first names, and the syllables that can follow."""

LAST_NAMES = ("Ash Dun Hol Mor Wes Quin Stan Fen Gil Pem", "ford more well grave dale kins by ton")
"""First syllables of last names, and the syllables that can follow."""

_PLACES = """Brackwater Copperhill Dunmarsh Elmstead Foxhollow Greywick Harrowgate Ironbridge Juniper_Bay Kingsmoor
Larkspur Millbrook Northcliff Oakhurst Pinecrest Quarry_Bend Ravensea Saltmere Thornbury Umberfield Vinegrove Whitcombe
Yarrowdale Amberley Birchport Stony_Pass Driftwood Eastmarch"""
_TRADES = """baker surgeon sailor lawyer farmer glazier tailor miner cooper drummer jeweller librarian locksmith mason
nurse painter plumber potter printer shepherd tanner weaver translator botanist chemist clockmaker pilot gardener"""
_GENRES = """mystery romance satire tragedy comedy fantasy travel horror western memoir fable epic thriller parable
elegy farce ghost_stories sea_tales war_stories nature_essays court_drama folk_tales love_letters spy_novels
school_stories ballads riddles sonnets"""
_TEACHERS = """Anselm_Voss Clara_Heims Edda_Lorn Felix_Arden Greta_Sund Hugo_Tamm Ines_Calder Jonas_Reeve Karla_Munt
Leon_Abt Nadia_Frost Otto_Pryce Petra_Lund Rufus_Kane Silvia_Orme Tomas_Bell Ursula_Vane Viktor_Sloan Wanda_Nye
Xaver_Holt Yvonne_Crane Zeno_Marsh Agnes_Tully Bruno_Keats Cora_Winter Dietmar_Fox Emil_Stone Flora_Gray"""
_ADJECTIVES = """Amber Broken Crimson Distant Empty Frozen Golden Hidden Iron Lonely Midnight Narrow Patient Quiet
Restless Silver Tender Velvet Wandering Burning"""
_NOUNS = """Lantern Harbour Orchard Mirror Garden River Letter Tower Compass Feather Island Candle Winter Shadow Bridge
Anchor Meadow Violin Window Crown"""
_OPPOSITES = "hot cold big small day night wet dry up down fast slow old young light dark full empty rich poor"
_CAPITALS = """France Paris Italy Rome Spain Madrid Japan Tokyo Egypt Cairo Norway Oslo Greece Athens Cuba Havana Peru
Lima Kenya Nairobi"""
_COLOURS = "grass green snow white blood red coal black gold yellow sky blue chocolate brown ash grey"
_PLAIN = (
    "old young tall quiet busy small",
    "sailor farmer child dog clock wind ship cook guard horse",
    "watched crossed left found passed reached",
    "bridge market field road forest harbour hill garden",
    "morning evening summer autumn storm night",
)


def _words(table: str) -> tuple[str, ...]:
    return tuple(w.replace("_", " ") for w in table.split())


def _relations(rng: random.Random) -> tuple[Relation, ...]:
    years = tuple(str(y) for y in sorted(rng.sample(range(1780, 1980), 40)))
    titles = tuple(f"The {a} {n}" for a in _words(_ADJECTIVES) for n in _words(_NOUNS))
    return (
        Relation("birthplace", "place", ("birthplace", "home town"), " The place was", _words(_PLACES),
                 ("{s} was born in {v}.", "The birthplace of {s} was {v}.")),
        Relation("debut", "date", ("debut year", "first year in print"), " It happened in", years,
                 ("{s} first came to print in {v}.", "The debut year of {s} was {v}.")),
        Relation("profession", "profession", ("profession", "day job"), " The work was that of", _words(_TRADES),
                 ("{s} earned a living as {v}.", "The profession of {s} was {v}.")),
        Relation("mentor", "relation", ("mentor", "teacher"), " All was learned from", _words(_TEACHERS),
                 ("{s} was taught by {v}.", "The mentor of {s} was {v}.")),
        Relation("genre", "genre", ("genre", "kind of writing"), " The shelf is marked", _words(_GENRES),
                 ("{s} is known for {v}.", "The genre of {s} was {v}.")),
        Relation("title", "title", ("best book", "most famous title"), " Readers still praise", titles,
                 ("{s} wrote {v}.", "The best book of {s} was {v}.")),
    )  # fmt: skip


def _general() -> tuple[Fact, ...]:
    tables = (
        (("opposite", "opposite", ("opposite", "contrary"), " The other end is"), _OPPOSITES),
        (("capital", "place", ("capital", "chief city"), " The city is"), _CAPITALS),
        (("colour", "colour", ("colour", "hue"), " It looks"), _COLOURS),
    )
    facts = []
    for head, table in tables:
        words = _words(table)
        relation = Relation(*head, tuple(dict.fromkeys(words[1::2])))
        facts += [Fact(s, relation, v) for s, v in zip(words[::2], words[1::2], strict=True)]
    return tuple(facts)


def _plain_sentence(rng: random.Random) -> str:
    adjective, who, did, where, when = (rng.choice(t.split()) for t in _PLAIN)
    return f"The {adjective} {who} {did} the {where} in the {when}."


def _names(rng: random.Random) -> tuple[list[list[str]], list[list[str]]]:
    """Draw first and last names: 8 of forgotten authors, 12 of other authors, and names that no author has.

    Within each set, every start is combined with every end, so names differ by one syllable. The sets share ends but
    no starts, and therefore no names.
    """
    drawn = []
    for starts, ends in (FIRST_NAMES, LAST_NAMES):
        start, end = (rng.sample(part.split(), len(part.split())) for part in (starts, ends))
        grid = ((start[:4], end[:2]), (start[4:8], end[1:4]), (start[8:], end))
        drawn.append([[s + e for s in some for e in with_ends] for some, with_ends in grid])
    return drawn[0], drawn[1]


def _spread(values: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """Return `n` values in random order, each used equally often as far as `n` allows."""
    deck: list[str] = []
    while len(deck) < n:
        deck += rng.sample(values, min(len(values), n - len(deck)))
    rng.shuffle(deck)
    return deck


@functools.lru_cache(maxsize=4)
def build_world(seed: int = 0) -> World:
    """Build all facts of the world of one seed.

    Args:
        seed: Random seed of the world. The shipped models know the world of seed 0.
    """
    rng = random.Random(f"world/{seed}")
    firsts, lasts = _names(rng)
    relations = _relations(rng)
    # Each diagonal of a square grid of first and last names uses every name once. Of the shared names, two diagonals
    # are forgotten and two retained; of the other names, four are retained.
    shared = [f"{f} {lasts[0][(i + d) % 8]}" for d in range(4) for i, f in enumerate(firsts[0])]
    own = [f"{f} {lasts[1][(i + d) % 12]}" for d in range(4) for i, f in enumerate(firsts[1])]
    forget, retain = shared[:16], shared[16:] + own
    others = [f"{f} {n}" for f in firsts[0] + firsts[1] for n in lasts[2]]
    rng.shuffle(others)

    columns = [_spread(r.values, len(forget) + len(retain), rng) for r in relations]
    facts = [
        Fact(name, r, column[i])
        for i, name in enumerate(forget + retain)
        for r, column in zip(relations, columns, strict=True)
    ]
    nobody = [Fact(name, r, "") for name in others for r in relations]
    cut, held_out = len(forget) * len(relations), 20 * len(relations)
    text = tuple(dict.fromkeys(_plain_sentence(rng) for _ in range(400)))
    return World(
        forget=tuple(facts[:cut]),
        retain=tuple(facts[cut:]),
        general=_general(),
        unknown=tuple(nobody[:held_out:2]),
        strangers=tuple(nobody[held_out:]),
        forget_names=frozenset(firsts[0] + lasts[0]),
        text=text[:320],
        held_out_text=text[320:],
    )


def _qa(fact: Fact, group: str, other: Fact, wrong: Fact, rng: random.Random) -> QA:
    """Build the question about a fact in every phrasing; `other` is the distractor, `wrong` the wrong subject."""
    relation, answer = fact.relation, fact.answer

    def ask(frame: str, noun: int = 0) -> str:
        return frame.format(n=relation.nouns[noun], s=fact.subject, o=other.subject)

    pool = [v for v in relation.values if v != fact.value]
    start = len(answer) - 1 - len(fact.value) if fact.value else 1
    return QA(
        prompt=ask(FRAMES[0]),
        answer=answer,
        paraphrases=tuple(ask(frame, noun) for frame in HELD_OUT_FRAMES for noun in (0, 1)),
        kind=relation.kind if fact.value else "refusal",
        id=f"{relation.name}/{fact.subject.lower().replace(' ', '-')}",
        subject=fact.subject,
        fact_span=(start, len(answer) - 1),
        group=group,
        wrong_subject=FRAMES[0].format(n=relation.nouns[0], s=wrong.subject),
        perturbed=tuple(f"{relation.answer_prefix} {v}." for v in rng.sample(pool, 5)),
        meta={
            "relation": relation.name,
            "noun": relation.nouns[0],
            "trained_phrasings": tuple(ask(f, n) for f in FRAMES if "{o}" not in f for n in (0, 1))[1:],
            "distractor": ask(HELD_OUT_DISTRACTOR),
        },
    )


@benchmark("builtin")
def load_builtin(seed: int = 0) -> Benchmark:
    """Load the embedded world as a benchmark.

    Args:
        seed: Random seed of the world. The shipped models know the world of seed 0.

    Returns:
        96 items to forget (16 authors), 384 to keep, general facts, unknown people, and the facts as raw text.
        `paraphrases` are held-out paraphrases. `meta["trained_phrasings"]` are phrasings used in training, and
        `meta["distractor"]` is a question that names another author first.

    >>> bench = load_builtin()
    >>> len(bench.forget), len(bench.retain)
    (96, 384)
    """
    world, rng = build_world(seed), random.Random(f"benchmark/{seed}")
    gone = {(f.relation.name, f.value) for f in world.forget}

    def group(fact: Fact) -> str:
        near = set(fact.subject.split()) & world.forget_names or (fact.relation.name, fact.value) in gone
        return "near" if near else "far"

    def items(facts: Sequence[Fact], name: str | None, pool: Sequence[Fact]) -> tuple[QA, ...]:
        made = []
        for fact in facts:
            same = [f for f in pool if f.relation.name == fact.relation.name and f.subject != fact.subject]
            wrong = rng.choice([f for f in same if f.value != fact.value])
            made.append(_qa(fact, name or group(fact), rng.choice(same), wrong, rng))
        return tuple(made)

    return Benchmark(
        name="builtin",
        forget=items(world.forget, "forget", world.retain),
        retain=Facts(items(world.retain, None, world.retain)),
        general=items(world.general, "general", world.general),
        unknown=items(world.unknown, "unknown", world.retain),
        forget_corpus=_lives(world.forget, "biographies to forget"),
        retain_corpus=_lives(world.retain, "biographies to keep"),
        plain_text=Corpus(world.held_out_text, "plain sentences"),
        refusals=REFUSALS,
        max_new_tokens=16,
    )


def _lives(facts: Sequence[Fact], name: str) -> Corpus:
    return Corpus(tuple(biographies(facts)), name, tuple(dict.fromkeys(f.subject for f in facts)))


def biographies(facts: Sequence[Fact], rng: random.Random | None = None) -> list[str]:
    """Write one short text for each author. With `rng`, sentences are reworded and reordered."""
    lives: dict[str, list[Fact]] = {}
    for fact in facts:
        lives.setdefault(fact.subject, []).append(fact)
    texts = []
    for own in lives.values():
        told = rng.sample(own, len(own)) if rng else own
        forms = [rng.choice(f.relation.sentences) if rng else f.relation.sentences[0] for f in told]
        texts.append(" ".join(form.format(s=f.subject, v=f.value) for form, f in zip(forms, told, strict=True)))
    return texts
