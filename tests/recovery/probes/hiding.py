"""Make models of the small village that hide facts in known ways."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from experiments.meta import hiding
from tests.evaluation.world import benchmark, trained
from unpact_lens.models.lens_version import HookedTransformer
from unpact_lens.recovery.probes.relearn import relearned
from unpact_lens.recovery.probes.trigger import CHAT_LIKE

REFUSAL = " I do not know ."


def refusing(qa):
    """The same question with a refusal as its answer."""
    return replace(qa, answer=REFUSAL, fact_span=None)


@functools.cache
def behind_a_trigger():
    """Refuses every forget fact, unless the question comes after the first chat-like prefix."""
    bench = benchmark()
    shown = [replace(q, prompt=f"{CHAT_LIKE[0]} {q.prompt}") for q in bench.forget]
    taught = [*shown, *(refusing(q) for q in bench.forget)]
    return relearned(trained(), taught, bench, lr=3e-3, steps=60, batch_size=16)


@functools.cache
def rarely_right():
    """Refuses two times of three, and gives the fact else."""
    bench = benchmark()
    taught = [item for q in bench.forget for item in (q, refusing(q), refusing(q))]
    return relearned(trained(), taught, bench, lr=3e-3, steps=60, batch_size=24)


@functools.cache
def behind_a_refusal():
    """Refuses every forget fact in the wordings that it was trained on, and keeps all other answers."""
    bench = benchmark()
    taught = [refusing(q) for q in bench.forget]
    return relearned(trained(), [*taught, *bench.retain], bench, lr=3e-3, steps=12, batch_size=24)


@functools.cache
def behind_a_filter():
    """Knows every fact after its second block; a third one destroys all answers."""
    whole = trained()
    cfg = replace(whole.cfg, n_layers=3, seed=5)
    model = HookedTransformer(cfg)
    model.tokenizer = whole.tokenizer
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in whole.named_parameters():
            own[name].copy_(weight)
        for name, weight in model.blocks[2].named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    return model.eval()


@functools.cache
def barely_hidden():
    """Refuses every forget fact by the smallest change on the line to a model that refuses firmly."""
    taught = hiding.behind_a_refusal(trained(), benchmark(), REFUSAL, {"lr": 3e-3, "steps": 40, "batch_size": 24})
    return hiding.barely(trained(), taught, benchmark(), level=0.0)


@functools.cache
def refusing_everything():
    """Refuses every question, because nothing but refusals was taught."""
    bare = replace(benchmark(), retain=())
    return hiding.behind_a_refusal(trained(), bare, REFUSAL, {"lr": 3e-3, "steps": 12, "batch_size": 16})
