"""Write docs/architectures.md: what works on which architecture, found by the self-test and by the calls themselves.

Run `make architectures`. Each architecture is a tiny random model of `tests/models/zoo.py`, loaded in both wraps. A
test compares some rows of the page with what is found anew.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedModel  # noqa: E402

from tests.models.families import tokenizer  # noqa: E402
from tests.models.zoo import ZOO, zoo_model  # noqa: E402
from unpact_lens.attribution import attribute  # noqa: E402
from unpact_lens.comparison.diff import diff  # noqa: E402
from unpact_lens.decomposition.decompose import decompose  # noqa: E402
from unpact_lens.decomposition.path_effects import path_effects  # noqa: E402
from unpact_lens.errors import InputError  # noqa: E402
from unpact_lens.models.checkpoint import clone, load_checkpoint, model_hash, save_model  # noqa: E402
from unpact_lens.models.export import export_hf  # noqa: E402
from unpact_lens.models.generate import greedy  # noqa: E402
from unpact_lens.models.hooked import HookedModel  # noqa: E402
from unpact_lens.models.load import load_model  # noqa: E402
from unpact_lens.models.self_test import CHECKS, FAILED, PASSED, require, self_test  # noqa: E402
from unpact_lens.models.tied_embedding import TiedEmbedding  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
YES, NO, NONE = "✓", "✗", "–"
IDS = torch.randint(2, 320, (1, 12), generator=torch.Generator().manual_seed(3))
PROMPT, ANSWER = IDS[0, :9].tolist(), IDS[0, 9:].tolist()
TOLERANCE = 1e-4
"""Largest difference from the outside truth; the models' logits are of order 5."""


@dataclass(frozen=True)
class Cell:
    """Hold one cell: a mark, and the refusal or the difference behind a ✗."""

    mark: str
    why: str = ""


Truth = Callable[[HookedModel, PreTrainedModel], float | None]
"""A call and its comparison with the source model: the largest difference, or None if there is nothing to compare."""


def leave_one_out(model: HookedModel, source: PreTrainedModel) -> float:
    """Compare contributions with one forward pass of the source model for each deletion."""
    found = attribute(model, PROMPT, ANSWER).scores

    def truth(prompt: list[int]) -> float:
        logits = source(torch.tensor([[*prompt, *ANSWER]])).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        return float(logits.gather(-1, torch.tensor(ANSWER)[:, None]).mean())

    whole = truth(PROMPT)
    expected = [whole - truth(PROMPT[:i] + PROMPT[i + 1 :]) for i in range(len(PROMPT))]
    return float((found - torch.tensor(expected)).abs().max())


def decomposed(by: str) -> Truth:
    """Return the comparison of a decomposition's sum with the source model's logits."""

    def run(model: HookedModel, source: PreTrainedModel) -> float:
        found = decompose(model, PROMPT, ANSWER, by=by)
        logits = source(IDS).logits[0, len(PROMPT) - 1 : -1].gather(-1, torch.tensor(ANSWER)[:, None])[:, 0]
        cap = getattr(source.config.get_text_config(), "final_logit_softcapping", None)
        if cap:
            logits = cap * torch.atanh(logits / cap)
        parts = found.values.flatten(0, -2).sum(0) + found.remainder.flatten(0, -2).sum(0)
        return float((parts - logits).abs().max())

    return run


def generation(model: HookedModel, source: PreTrainedModel) -> float:
    """Compare greedy answers of a batch with the source model, one token at a time."""
    contexts = [PROMPT, PROMPT[:4], PROMPT[2:]]
    wrong = 0
    for context, answer in zip(contexts, greedy(model, contexts, max_new_tokens=5), strict=True):
        ids = list(context)
        for _ in range(5):
            ids.append(int(source(torch.tensor([ids])).logits[0, -1].argmax()))
        wrong += tuple(ids[len(context) :]) != answer
    return float(wrong)


def paths(model: HookedModel, source: PreTrainedModel) -> None:
    """Run path effects, which need patterns that act."""
    path_effects(model, PROMPT, ANSWER)


def knockout(model: HookedModel, source: PreTrainedModel) -> None:
    """Run knockout, which needs attention scores that act."""
    attribute(model, PROMPT, ANSWER, method="knockout")


def difference(model: HookedModel, source: PreTrainedModel) -> float:
    """Compare Δ log-probability of a diff with the source models."""
    after, moved = _trained(model, source)
    found = diff(model, after, PROMPT, ANSWER)
    logits = moved(IDS).logits.log_softmax(-1) - source(IDS).logits.log_softmax(-1)
    truth = logits[0, len(PROMPT) - 1 : -1].gather(-1, torch.tensor(ANSWER)[:, None])[:, 0]
    return float((found.delta_log_prob - truth).abs().max())


def training(model: HookedModel, source: PreTrainedModel) -> float:
    """Compare the logits after three SGD steps on a copy with the same loop in transformers."""
    after, moved = _trained(model, source)
    return float((after(IDS, return_type="logits") - moved(IDS).logits).abs().max())


def saving(model: HookedModel, source: PreTrainedModel) -> float:
    """Save a trained copy, load it, and compare logits and hashes."""
    after, moved = _trained(model, source)
    with tempfile.TemporaryDirectory() as folder:
        read = load_checkpoint(save_model(after, Path(folder) / "m"))
    same = model_hash(read) == model_hash(after)
    return float((read(IDS, return_type="logits") - moved(IDS).logits).abs().max()) if same else float("inf")


def exporting(model: HookedModel, source: PreTrainedModel) -> float:
    """Export a trained copy and compare the logits of transformers."""
    after, moved = _trained(model, source)
    with tempfile.TemporaryDirectory() as folder:
        hf = AutoModelForCausalLM.from_pretrained(
            export_hf(after, Path(folder) / "m"), trust_remote_code=False, attn_implementation="eager"
        )
    return float((hf(IDS).logits - moved(IDS).logits).abs().max())


def _trained(model: HookedModel, source: PreTrainedModel) -> tuple[HookedModel, PreTrainedModel]:
    """Train copies of both models in the same way."""
    ours = clone(model)
    theirs = type(source)(source.config).eval()
    theirs.load_state_dict(source.state_dict())
    theirs.config._attn_implementation = "eager"
    params = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    tied = TiedEmbedding(ours, params)
    optimisers = [torch.optim.SGD(p, lr=0.02) for p in (tied.distinct(params), list(theirs.parameters()))]
    with torch.enable_grad():
        for _ in range(3):
            for logits in (ours(IDS, return_type="logits"), theirs(IDS).logits):
                torch.nn.functional.cross_entropy(logits[0, :-1], IDS[0, 1:]).backward()
            tied.fold_gradient()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
            tied.copy_weight()
    return ours, theirs


CALLS: dict[str, Truth] = {
    "leave-one-out": leave_one_out,
    "generate": generation,
    "by component": decomposed("component"),
    "by source": decomposed("source"),
    "knockout": knockout,
    "path effects": paths,
    "diff": difference,
    "train": training,
    "save": saving,
    "export": exporting,
}
"""Calls of the library that the page reports beside the checks."""

HEAD = """# Architectures

Generated by `make architectures`; never edit it by hand. Each row is a tiny random model, loaded with
`load_model(..., wrap="hooked")` and `wrap="bridge"`. ✓: works. ✗: refused, with the message below the table. –: the
architecture has no such part. A row of – in one wrap means that the model loads in the other only.

The first table holds the checks of the self-test that runs at load (`unpact_lens.models.self_test`). The second one
holds calls of the library. Each number is compared with the source model in transformers: contributions with one
forward pass for each deletion, sums of decompositions with its logits, answers with its greedy answers, training with
the same steps there.

"""


def rows(name: str) -> dict[str, dict[str, Cell] | str]:
    """Return the cells of one architecture for each wrap, or the message with which loading refuses it."""
    found: dict[str, dict[str, Cell] | str] = {}
    for wrap in ("hooked", "bridge"):
        source = zoo_model(name)
        try:
            model = load_model(source, wrap=wrap, tokenizer=tokenizer(), check=False)
            test = self_test(model, source, keep=False)
            for check in ("logits", "padding"):
                require(model, check, feature="loading it")
        except InputError as error:
            found[wrap] = str(error)
            continue
        cells = {}
        for check in CHECKS:
            outcome = test.outcome(check)
            mark = {PASSED: YES, FAILED: NO}.get(outcome.status, NONE)
            cells[check] = Cell(mark, _refusal(model, check) if mark == NO else "")
        for call, run in CALLS.items():
            cells[call] = _called(model, source, run)
        found[wrap] = cells
    return found


def _refusal(model: HookedModel, check: str) -> str:
    try:
        require(model, check, feature=f"check {check}")
    except InputError as error:
        return str(error)
    return "passes"


def _called(model: HookedModel, source: PreTrainedModel, run: Truth) -> Cell:
    try:
        with torch.no_grad():
            off = run(model, source)
    except InputError as error:
        return Cell(NO, str(error))
    except Exception as error:  # a fault: the page shows it, and the check of the page fails
        return Cell("!", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    if off is None or off <= TOLERANCE:
        return Cell(YES)
    return Cell("!", f"differs from the truth by {off:.2g}")


def page(names: list[str]) -> str:
    """Return the whole page."""
    found = {name: rows(name) for name in names}
    refused = {}
    lines = [HEAD + summary(found)]
    for title, columns in (("Self-test at load", list(CHECKS)), ("Calls", list(CALLS))):
        lines += [f"\n## {title}\n", "| architecture | wrap | " + " | ".join(columns) + " |"]
        lines.append("|---|---|" + "---|" * len(columns))
        for name, wraps in found.items():
            for wrap, cells in wraps.items():
                if isinstance(cells, str):
                    refused.setdefault(cells, []).append(f"{name} ({wrap})")
                    marks = [NONE] * len(columns)
                else:
                    marks = [cells[c].mark for c in columns]
                    for c in columns:
                        if cells[c].why:
                            refused.setdefault(cells[c].why, []).append(f"{name} ({wrap}, {c})")
                lines.append(f"| {name} | {wrap} | " + " | ".join(marks) + " |")
    lines += ["\n## Refusals\n", "Each message, and where it is raised.\n"]
    for message, where in refused.items():
        lines.append(f"- `{message}`\n  {'; '.join(dict.fromkeys(where))}")
    return "\n".join(lines) + "\n"


def summary(found: dict[str, dict[str, dict[str, Cell] | str]]) -> str:
    """Count what works."""
    lines = ["| wrap | loaded | refused at load | ✓ | ✗ (refused by name) | – | faults |", "|---|" + "---|" * 6]
    for wrap in ("hooked", "bridge"):
        loaded = [w[wrap] for w in found.values() if not isinstance(w[wrap], str)]
        marks = [cell.mark for cells in loaded for cell in cells.values()]
        counts = [marks.count(mark) for mark in (YES, NO, NONE, "!")]
        lines.append(f"| {wrap} | {len(loaded)} | {len(found) - len(loaded)} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page, or print the rows of the named architectures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures to print; all are written to the page if none is named")
    names = parser.parse_args().names
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    text = page(names or list(ZOO))
    if names:
        print(text)
    else:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
