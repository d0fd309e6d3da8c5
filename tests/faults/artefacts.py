"""Every kind of thing that the library keeps on disk: how to write one of two of them, and how to read it again."""

import dataclasses
import functools
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import word_tokenizer
from unpact_lens.models.builtin import ASSETS, MODELS, load_builtin_model
from unpact_lens.models.checkpoint import load_checkpoint, model_hash, save_model
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.export import export_hf
from unpact_lens.models.load import load_model
from unpact_lens.results import Result, load, save
from unpact_lens.unlearning.checkpointing import Checkpoints
from unpact_lens.unlearning.reference_cache import OnDisk, Store
from unpact_lens.unlearning.tune import Search


@dataclass(frozen=True, eq=False)
class Kept(Result):
    tensor: torch.Tensor
    number: float
    text: str
    nested: dict[str, object]
    items: tuple[int, ...]
    model: object = None


@functools.cache
def hooked(which):
    model = tiny("gpt2", seed=which, dtype=torch.float32, n_layers=1, d_model=16, d_head=4, n_ctx=32)
    model.unembed.b_U.data.zero_()  # GPT-2 has no such bias
    model.tokenizer = word_tokenizer()
    return model


@functools.cache
def bridged(which):
    torch.manual_seed(which)
    return to_bridge(hf_model("gpt2"), tokenizer(prepends_bos=True))


def result(which, model=None):
    torch.manual_seed(which)
    return Kept(torch.randn(5), 0.1 + which, "text", {"a": [1, None, True], "b": (2.5, torch.ones(which + 1))}, (1, 2),
                model)  # fmt: skip


def told(value):
    """Return what can be compared of what was read."""
    if isinstance(value, Kept):
        return [value.tensor.tolist(), value.number, value.text, str(value.nested), value.items, told(value.model)]
    return value if value is None else model_hash(value)


def trained(which):
    """A weight and its optimiser after a step."""
    torch.manual_seed(which)
    weight = torch.nn.Parameter(torch.randn(8))
    optimiser = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.randn(8)
    optimiser.step()
    return weight, optimiser


def write_state(folder, which):
    weight, optimiser = trained(which)
    Checkpoints(folder, 1, "key").save(which + 1, [{"step": which + 1, "loss": 0.5}], {"w": weight},
                                       [weight.detach().clone()], optimiser)  # fmt: skip


def read_state(folder):
    weight, optimiser = torch.nn.Parameter(torch.zeros(8)), None
    optimiser = torch.optim.AdamW([weight], lr=0.1)
    good = [torch.zeros(8)]
    step, rows = Checkpoints(folder, 1, "key").load({"w": weight}, good, optimiser)
    state = {k: v.tolist() for k, v in optimiser.state[weight].items()} if optimiser.state else {}
    return [step, rows, weight.tolist(), good[0].tolist(), str(state)]


ROWS = [[torch.full((n, 4), float(n + which)) for n in (3, 1, 5)] for which in (0, 1)]


def write_references(folder, which):
    OnDisk.write(folder, enumerate(ROWS[which]))


def read_references(folder):
    """A store that finds damage computes the rows again, here those of number 0."""
    rows = Store(0, folder.parent).keep(enumerate(ROWS[0]), 3, 1, lambda: folder.name)
    return [row.tolist() for row in rows]


def search(folder):
    return Search(None, None, 0.1, None, {"lr": (1e-5, 1e-3)}, {}, folder / "trials.json", "key")


def write_trials(folder, which):
    from unpact_lens.results import write_record

    folder.mkdir(exist_ok=True)
    trials = [{"lr": 1e-4 * (n + 1), "value": 0.5 * n, "reached": True} for n in range(which + 2)]
    write_record(folder / "trials.json", {"key": "key", "trials": trials})


def read_trials(folder):
    return search(folder).finished


def write_builtin(folder, which):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ASSETS, folder)
    if which:
        from tests.models.test_builtin import QUICK
        from unpact_lens.models.builtin import rebuild

        rebuild(None, dataclasses.replace(QUICK, seed=which), folder)


def read_builtin(folder):
    return [model_hash(load_builtin_model(name, folder)) for name in MODELS]


@dataclass(frozen=True)
class Kind:
    """How one kind of thing is written and read.

    Attributes:
        write: Writes thing number 0 or 1 into a directory.
        read: Reads the thing and returns what can be compared.
    """

    write: object
    read: object
    anew: object = None
    """Value that `read` returns where nothing is kept, so that the work starts anew."""


KINDS = {
    "result": Kind(lambda f, w: save(result(w), f), lambda f: told(load(f))),
    "result-of-models": Kind(lambda f, w: save(result(w, hooked(w)), f), lambda f: told(load(f))),
    "result-of-one-model": Kind(lambda f, w: save(result(w, hooked(0)), f), lambda f: told(load(f))),
    "hooked-model": Kind(lambda f, w: save_model(hooked(w), f), lambda f: told(load_checkpoint(f))),
    "bridged-model": Kind(lambda f, w: save_model(bridged(w), f), lambda f: told(load_checkpoint(f))),
    "export": Kind(lambda f, w: export_hf(hooked(w), f), lambda f: told(load_model(f, check=False))),
    "training-state": Kind(write_state, read_state, [0, [], [0.0] * 8, [0.0] * 8, "{}"]),
    "references": Kind(write_references, read_references),
    "trials": Kind(write_trials, read_trials, []),
}
"""Every kind but the shipped models and studies, which have tests of their own."""


def snapshot(folder: Path):
    """Return every file below a directory, by its path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
