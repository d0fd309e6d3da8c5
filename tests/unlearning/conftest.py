"""Train a small model on a few facts, for tests to unlearn."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.conftest import tiny
from unpact_lens.data.benchmark import QA
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.lens_version import HAS_HOOKED
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.dataset import draw_order, examples
from unpact_lens.unlearning.retain_terms import retain_nll
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.trainer import Term, train

NAMES = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ida", "jon"]
PLACES = ["oslo", "rome", "lima", "cairo", "paris"]
TRADES = ["baker", "tailor", "miner", "pilot", "nurse"]
WORDS = [
    *NAMES,
    *PLACES,
    *TRADES,
    "where",
    "what",
    "was",
    "is",
    "born",
    "job",
    "the",
    "town",
    "work",
    "of",
    "tell",
    ".",
]


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def world() -> tuple[list[QA], list[QA]]:
    """Facts about three people to forget, about seven to keep."""
    items = []
    for i, name in enumerate(NAMES):
        place, trade = PLACES[(i * 3 + 1) % 5], TRADES[(i * 2 + i // 5) % 5]
        group = "forget" if i < 3 else "near"
        for question, other, opening, value, kind in (
            (f"where was {name} born", f"the town of {name} is", " the town was", place, "place"),
            (f"what is the job of {name}", f"tell the work of {name}", " the work is", trade, "entity"),
        ):
            answer = f"{opening} {value} ."
            span = (len(opening) + 1, len(opening) + 1 + len(value))
            items.append(QA(question, answer, (other,), kind, f"{name}-{kind}", name, span, group))
    return [q for q in items if q.group == "forget"], [q for q in items if q.group != "forget"]


def untrained(style: str = "gpt2", **overrides: object):
    model = tiny(style, **overrides)
    model.tokenizer = word_tokenizer()
    return model


@functools.cache
def _learned():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = untrained("gpt2", n_layers=2, dtype=torch.float32, n_ctx=32)
    forget, retain = world()
    steps = 80 if HAS_HOOKED else 160  # the bridge starts from other weights
    settings = Settings(lr=5e-3, phrasings="all", batch_size=40, steps=steps, schedule="cosine")
    data = Examples(examples(model, [*forget, *retain], settings, "forget"), model)
    order = draw_order(len(data), steps, 40, torch.Generator().manual_seed(0))
    run = train(model, [Term("retain", retain_nll, "token", 1.0, data, order)], settings)
    assert run.rows[-1]["retain"] < 0.05
    return model


@pytest.fixture
def learned():
    """A model that answers every fact right."""
    return clone(_learned())


@pytest.fixture
def facts():
    return world()
