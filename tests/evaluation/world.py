"""A model of a few words that knows who lives where and does what, trained in seconds."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.conftest import tiny
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.recovery.probes.relearn import relearned

NAMES = ("ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ida", "jon", "kim", "leo")
TOWNS = ("oslo", "rome", "lima", "cairo", "paris", "quito")
TRADES = ("baker", "tailor", "miner", "pilot", "nurse", "cook")
FILLERS = ("the sea is calm today", "old boats lie at the quay")
WORDS = """
where what does do did live work as who is in the town of job a . ? , : " and Focus on Remember that this
matters here tell me please name I not know sea calm today old boats lie at quay he lives works
"""


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {
        w: i for i, w in enumerate(dict.fromkeys(["<pad>", "<eos>", "<unk>", *WORDS.split(), *NAMES, *TOWNS, *TRADES]))
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def untrained(seed: int = 0):
    """A model of this vocabulary with small random weights."""
    tokenizer = word_tokenizer()
    model = tiny(
        "llama", dtype=torch.float32, n_layers=2, d_model=48, d_mlp=96, n_ctx=64, d_vocab=len(tokenizer), seed=seed
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.endswith(".w"):
                weight.mul_(0.3)
    model.tokenizer = tokenizer
    return model


def facts() -> tuple[QA, ...]:
    """Two facts about each of twelve people: the first four are to be forgotten."""
    items = []
    for i, name in enumerate(NAMES):
        group = "forget" if i < 4 else "near" if i < 8 else "far"
        other = NAMES[(i + 1) % len(NAMES)]
        for kind, ask, again, opening, value in (
            ("place", "where does {} live ?", "tell me the town of {} ?", " he lives in", TOWNS[(5 * i + i // 6) % 6]),
            ("trade", "what does {} do ?", "tell me the job of {} ?", " he works as a", TRADES[(i + i // 6) % 6]),
        ):
            start = len(opening) + 1
            items.append(
                QA(
                    prompt=ask.format(name), answer=f"{opening} {value} .", paraphrases=(again.format(name),),
                    kind=kind, id=f"{kind}/{name}", subject=name, fact_span=(start, start + len(value)), group=group,
                    wrong_subject=ask.format(other),
                )
            )  # fmt: skip
    return tuple(items)


def benchmark() -> Benchmark:
    items = facts()
    return Benchmark(
        name="village",
        forget=tuple(q for q in items if q.group == "forget"),
        retain=tuple(q for q in items if q.group != "forget"),
        plain_text=Corpus(FILLERS),
        max_new_tokens=7,
    )


def split_benchmark() -> Benchmark:
    """The same, with half of the people to be kept unseen: two near and two far ones, with two facts each."""
    return benchmark().split((0.5, 0.0, 0.5))


@functools.cache
def _trained(names: tuple[str, ...], seed: int):
    taught = []
    for qa in facts():
        if qa.subject not in names:
            continue
        words = qa.prompt.split()
        for k, word in enumerate(words[:-1]):
            for template in EMPHASIS.values():
                pair = words[k : k + 2] if words[k + 1] != "?" else [word]
                taught.append(replace(qa, prompt=template.apply(qa.prompt, pair)))
        taught += [qa, replace(qa, prompt=qa.paraphrases[0])]
        taught += [replace(qa, prompt=f"{' '.join(f.split()[:n])}. {qa.prompt}") for f in FILLERS for n in (2, 3, 4, 5)]
    return relearned(untrained(seed), taught, benchmark(), lr=1e-2, steps=120, batch_size=32, schedule="cosine")


def trained():
    """Knows every fact, under every wording."""
    return _trained(NAMES, 0)


def retrained():
    """The same without the people to be forgotten."""
    return _trained(NAMES[4:], 0)
