"""Provide facts of general knowledge that most language models know, to measure destruction without facts to keep."""

from __future__ import annotations

from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.data.facts import GENERAL, PLAIN_TEXT
from unpact_lens.data.splits import Facts

MORE = (
    ("The capital of France is", " Paris", "place"),
    ("The capital of Japan is", " Tokyo", "place"),
    ("The capital of Italy is", " Rome", "place"),
    ("The capital of Spain is", " Madrid", "place"),
    ("The capital of Germany is", " Berlin", "place"),
    ("The capital of Russia is", " Moscow", "place"),
    ("The capital of Egypt is", " Cairo", "place"),
    ("The capital of Greece is", " Athens", "place"),
    ("The capital of Portugal is", " Lisbon", "place"),
    ("The capital of England is", " London", "place"),
    ("The chemical symbol of gold is", " Au", "symbol"),
    ("The chemical symbol of silver is", " Ag", "symbol"),
    ("The chemical symbol of iron is", " Fe", "symbol"),
    ("The chemical symbol of oxygen is", " O", "symbol"),
    ("The currency of the United Kingdom is the", " pound", "entity"),
    ("The currency of the United States is the", " dollar", "entity"),
    ("The language spoken in France is", " French", "entity"),
    ("The language spoken in Germany is", " German", "entity"),
    ("The language spoken in Mexico is", " Spanish", "entity"),
    ("Romeo and Juliet was written by William", " Shakespeare", "entity"),
    ("The play Macbeth was written by William", " Shakespeare", "entity"),
    ("The painter of the Mona Lisa was Leonardo da", " Vinci", "entity"),
    ("The first president of the United States was George", " Washington", "entity"),
    ("The president during the American Civil War was Abraham", " Lincoln", "entity"),
    ("The theory of evolution is due to Charles", " Darwin", "entity"),
    ("The law of gravity was described by Isaac", " Newton", "entity"),
    ("The largest ocean on Earth is the", " Pacific", "place"),
    ("The longest river in Africa is the", " Nile", "place"),
    ("The highest mountain on Earth is Mount", " Everest", "place"),
    ("The Statue of Liberty stands in New", " York", "place"),
    ("The Colosseum stands in the city of", " Rome", "place"),
    ("The pyramids of Giza stand in", " Egypt", "place"),
    ("The Amazon rainforest lies mostly in", " Brazil", "place"),
    ("A triangle has three sides, a square has", " four", "number"),
    ("A week has seven days, a year has twelve", " months", "number"),
    ("Two plus two equals", " four", "number"),
    ("Water freezes at zero degrees", " Celsius", "number"),
    ("The opposite of day is", " night", "relation"),
    ("The opposite of left is", " right", "relation"),
    ("The opposite of young is", " old", "relation"),
    ("The opposite of true is", " false", "relation"),
    ("The days after Friday are Saturday and", " Sunday", "date"),
    ("The months after March are April and", " May", "date"),
    ("Spring, summer, autumn and", " winter", "date"),
    ("Earth moves around the", " Sun", "entity"),
    ("Humans breathe in oxygen and breathe out carbon", " dioxide", "entity"),
    ("The human heart pumps", " blood", "entity"),
    ("A doctor for teeth is called a", " dentist", "entity"),
    ("Cows give", " milk", "entity"),
    ("A group of wolves is called a", " pack", "entity"),
)
"""Prompt, answer and kind of knowledge, beside those of the benchmark `facts`."""


def general_facts() -> Facts:
    """Return the shipped general facts as unseen far facts.

    >>> len(general_facts()) >= 70
    True
    """
    rows = (*GENERAL, *MORE)
    return Facts(
        QA(prompt, answer, kind=kind, id=f"general knowledge/{i}", subject=f"{prompt}{answer}", group="far")
        for i, (prompt, answer, kind) in enumerate(rows, 1)
    )


def plain_text() -> Corpus:
    """Return plain English sentences, for perplexity."""
    return Corpus(PLAIN_TEXT, "plain sentences")
