"""Measure how long the explorer takes for each view, computed and kept, without the browser.

    python benchmarks/explorer.py                     # the embedded model against its retrained model
    python benchmarks/explorer.py --model smollm2     # SmolLM2-135M against a copy with noise on its weights

Each view is asked for a new question (computed) and again (kept). The median over the questions is printed, in seconds.
A first question is asked before, so that imports are not timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

import torch

import unpact_lens as ul
from unpact_lens.explorer import ExplorerSession

VIEWS = {
    "answer": {},
    "tokens": {},
    "heads": {},
    "head": {"layer": 1, "head": 1},
    "split": {"layer": 1, "head": 1},
    "patch": {"layer": 1, "head": 1},
    "try": {"emphasis": "repeat_question"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", choices=["builtin", "smollm2"])
    parser.add_argument("--questions", type=int, default=5)
    options = parser.parse_args()
    session = make(options.model)
    questions = list(session.facts())[: options.questions + 1]
    times: dict[str, dict[str, list[float]]] = {view: {"computed": [], "kept": []} for view in VIEWS}
    for i, qa in enumerate(questions):
        for view, fields in VIEWS.items():
            for kind in ("computed", "kept"):
                start = time.perf_counter()
                reply = session.reply({"view": view, "prompt": qa.prompt, "answer": qa.answer, **fields})
                json.dumps(reply["data"])
                if i:
                    times[view][kind].append(time.perf_counter() - start)
    print(f"{options.model}, {len(questions) - 1} questions, {torch.get_num_threads()} threads, {platform.processor()}")
    for view, kinds in times.items():
        print(view, {kind: round(statistics.median(seconds), 3) for kind, seconds in kinds.items()})


def make(name: str) -> ExplorerSession:
    """Load two models and a control."""
    if name == "builtin":
        control = ul.load_model("builtin-retrain", wrap="auto")
        return ExplorerSession(ul.load_model(name, wrap="auto"), control, control, ul.load_benchmark(name))
    before, after = (ul.load_model(name, wrap="auto") for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in after.parameters():
            weight.add_(0.01 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator))
    return ExplorerSession(before, after, before, ul.load_benchmark("facts"))


if __name__ == "__main__":
    main()
