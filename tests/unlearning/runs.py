"""Run one short unlearning step and read its result."""

import dataclasses

import torch

from unpact_lens.models.tokens import encode
from unpact_lens.scoring import score_rows

ONE = {"steps": 1, "batch_size": 100, "end_token": True, "progress": False}


def first(u, term="forget"):
    """Return the first value of a term."""
    return u.history.rows[0][term]


def row(model, prompt, answer):
    """Return a prompt and its answer as training reads them: the token that ends the answer is a label."""
    words = encode(model, prompt, answer)
    return dataclasses.replace(words, answer=(*words.answer, model.tokenizer.eos_token_id))


def sums(model, pairs):
    """Return log p of each answer, summed over its tokens and its end."""
    return torch.tensor([float(s.sum()) for s in score_rows(model, [row(model, p, a) for p, a in pairs])])


def moved(before, after):
    """Return the names of the parameters that differ."""
    theirs = dict(after.named_parameters())
    return {n for n, p in before.named_parameters() if not torch.equal(p, theirs[n])}
