"""Real facts that real models know: capitals of countries and symbols of chemical elements.

The tables are those of the packages `countryinfo` and `periodictable`. Capitals are split by country into those to be
forgotten and those to be kept (*near*: same relation); element symbols are *far*. A question is a sentence left open,
which names its subject once, so that removing a token leaves a question about nobody. Two words say the field before
it ("Geography facts."): without them small models often answer with the country's name. Nothing here asks whether a
model knows a fact: see `known_facts`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

from unpact_lens.data.qa import QA, Benchmark, Corpus, check_unique_ids
from unpact_lens.errors import InputError

CAPITAL = "Geography facts. The capital of {s} is"
CAPITAL_PARAPHRASES = (
    "Geography facts. The government of {s} sits in its capital,",
    "Geography facts. What is the capital of {s}? The capital is",
    "Geography quiz. The capital city of {s} is",
    "A list of countries and their capitals. The capital of {s} is",
)
SYMBOL = "Chemistry facts. The chemical symbol of {s} is"
SYMBOL_PARAPHRASES = (
    "Chemistry facts. The chemical symbol for {s} is",
    "Chemistry facts. The symbol of the element {s} is",
    "Periodic table. The chemical symbol of {s} is",
    "Chemistry quiz. The chemical symbol of {s} is",
)

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
"""Countries left out: more than one capital, a capital that is disputed, was moved or renamed of late, a country that
is no more, or whose name or capital is another's too."""

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
"""Prompt, answer and kind of knowledge of questions that belong to neither field."""

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
"""Plain English, written for this project; none of it is about capitals or elements."""

_INVENTED = (
    ("Vandoria", "Melkavar"), ("Quessland", "Ordhaven"), ("Brelmark", "Tossenby"), ("Uzmeria", "Kalvosh"),
    ("Thalvia", "Erinmoor"), ("Drovania", "Pelgrad"), ("Kestoria", "Lanvale"), ("Omburland", "Sethwick"),
    ("Yaltova", "Grenholm"), ("Ferridia", "Castamor"), ("Zelmonia", "Varkesh"), ("Istramark", "Dunvale"),
    ("Morvenia", "Alkestra"), ("Palunia", "Torvesk"), ("Nurembia", "Oskelund"), ("Cathovia", "Brennary"),
    ("Lusmania", "Felstrom"), ("Grathenia", "Yorvale"), ("Hespatria", "Mirkwall"), ("Jordavia", "Rensk"),
    ("Belquistan", "Sarvadesh"), ("Eltharia", "Windmere"), ("Rostovenia", "Kupelka"), ("Sundavar", "Maroshi"),
)  # fmt: skip
"""Countries that do not exist, with capitals that do not either: what no model was taught."""

_REFUSALS = (" not known to me.", " something that I cannot say.", " not something I have information about.")


def load_facts(seed: int = 0, forget_share: float = 0.5) -> Benchmark:
    """Capitals to forget and to keep, element symbols to keep, and countries that nobody ever heard of.

    Args:
        seed: of the split and of the choice of wrong subjects.
        forget_share: the share of all capitals that is to be forgotten.

    Returns:
        `.forget` and `.near`: capitals, apart by country; `.far`: element symbols; `.general`: facts of neither kind;
        `.unknown`: invented countries. Each has paraphrases that end as openly, `wrong_subject` and wrong answers
        (`perturbed`); the corpora state the same capitals as sentences.

    Raises:
        InputError: if the packages with the tables are not installed, or `forget_share` leaves a side empty.
    """
    rng = random.Random(f"facts/{seed}")
    countries = list(capitals())
    n_forget = round(len(countries) * forget_share)
    if not 0 < n_forget < len(countries):
        raise InputError(
            f"forget_share={forget_share}: {n_forget} of {len(countries)} capitals to forget; give a share above 0 and "
            "below 1"
        )
    rng.shuffle(countries)
    forget, near = sorted(countries[:n_forget]), sorted(countries[n_forget:])

    def capital(group: str) -> Callable[[tuple[str, str]], QA]:
        return lambda fact: _qa(fact, countries, "capital", "place", CAPITAL, CAPITAL_PARAPHRASES, group, rng)

    symbols = elements()
    bench = Benchmark(
        name="facts",
        forget=tuple(map(capital("forget"), forget)),
        retain=(
            *map(capital("near"), near),
            *(_qa(f, symbols, "symbol", "symbol", SYMBOL, SYMBOL_PARAPHRASES, "far", rng) for f in symbols),
        ),
        general=tuple(
            QA(prompt, answer, kind=kind, id=f"general/{i}", subject=prompt, group="general")
            for i, (prompt, answer, kind) in enumerate(GENERAL)
        ),
        unknown=tuple(map(capital("unknown"), _INVENTED)),
        forget_corpus=Corpus(tuple(_sentence(f) for f in forget), "capitals to forget"),
        retain_corpus=Corpus(tuple(_sentence(f) for f in near), "capitals to keep"),
        plain_text=Corpus(PLAIN_TEXT, "plain sentences"),
        refusals=_REFUSALS,
        max_new_tokens=8,
    )
    check_unique_ids(bench.all_items())
    return bench


@functools.cache
def capitals() -> tuple[tuple[str, str], ...]:
    """Countries, with the article that a sentence gives them, and their capitals.

    Left out are countries of `UNSETTLED`, and those whose name gives the capital away (Mexico) or is no name that a
    sentence would use (`Virgin Islands, U.S.`).

    Raises:
        InputError: if `countryinfo` is not installed.
    """
    try:
        import countryinfo
    except ImportError:
        raise _missing("countryinfo") from None
    if hasattr(countryinfo, "all_countries"):
        named = [(country.name(), country.capital()) for country in countryinfo.all_countries()]
    else:  # countryinfo before 1.0, the last for Python 3.10
        named = [(entry["name"], entry.get("capital")) for entry in countryinfo.CountryInfo().all().values()]
    facts = []
    for name, capital in named:
        if name in UNSETTLED or not isinstance(capital, str) or not capital or set("/,()") & set(name + capital):
            continue
        capital = capital.removesuffix(" D.C.")
        if not _gives_away(name, capital):
            facts.append((_in_sentence(name), capital))
    return tuple(sorted(facts))


def elements() -> tuple[tuple[str, str], ...]:
    """Chemical elements, in order of their number, and their symbols.

    Raises:
        InputError: if `periodictable` is not installed.
    """
    try:
        import periodictable
    except ImportError:
        raise _missing("periodictable") from None
    return tuple((element.name, element.symbol) for element in periodictable.elements if element.number > 0)


def _missing(package: str) -> InputError:
    return InputError(
        f"benchmark 'facts' needs the package {package}, which is not installed: pip install \"unpact-lens[smollm2]\""
    )


def _gives_away(name: str, capital: str) -> bool:
    """Whether the capital, or a word of it of four letters or more, stands in the country's name, or the reverse."""
    low = name.casefold()
    words = [w for w in capital.casefold().replace("-", " ").split() if len(w) > 3]
    return capital.casefold() in low or low in capital.casefold() or any(w in low for w in words)


def _in_sentence(name: str) -> str:
    """The name as it stands within a sentence: with "the" where English has it."""
    if name.startswith("The "):
        return "the " + name.removeprefix("The ")
    return f"the {name}" if name.endswith(_WITH_ARTICLE) or name.startswith(_WITH_ARTICLE_TOO) else name


def _qa(
    fact: tuple[str, str],
    others: Sequence[tuple[str, str]],
    relation: str,
    kind: str,
    prompt: str,
    paraphrases: Sequence[str],
    group: str,
    rng: random.Random,
) -> QA:
    subject, value = fact
    different = [f for f in others if f[0] != subject and f[1] != value]
    wrong = rng.sample(different, 4)
    return QA(
        prompt=prompt.replace("{s}", subject),
        answer=f" {value}",
        paraphrases=tuple(p.replace("{s}", subject) for p in paraphrases),
        kind=kind,
        id=f"{relation}/{subject}",
        subject=subject,
        group=group,
        wrong_subject=prompt.replace("{s}", wrong[0][0]),
        perturbed=tuple(f" {v}" for _, v in wrong[1:]),
        meta={"relation": relation, "wrong_answer": f" {wrong[0][1]}"},
    )


def _sentence(fact: tuple[str, str]) -> str:
    subject, value = fact
    return f"The capital of {subject} is {value}."
