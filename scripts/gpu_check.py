"""Compare the main calls on a GPU with the same calls on the CPU, in about a minute and without any download.

Run `python scripts/gpu_check.py` on a machine with a CUDA GPU. Each line names a call, the largest difference between
the two devices and the bound. The exit status is 1 if any call exceeds its bound.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import unpact_lens as ul
from unpact_lens.comparison import patch
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel

BENCH = ul.load_benchmark("builtin")
FACT = BENCH.forget[0].prompt, BENCH.forget[0].answer


@dataclass(frozen=True)
class Pair:
    """Hold the embedded original model and retrained model on one device."""

    original: HookedModel
    retrained: HookedModel


def unlearned_log_probs(pair: Pair) -> Tensor:
    """Train six NPO steps, and return the mean log-probabilities of four forget answers."""
    u = ul.unlearn(
        pair.original, BENCH.forget[:16], BENCH.retain[:16], method="npo_gdr", lr=3e-4, steps=6, progress=False
    )
    return torch.stack([ul.log_prob(u.model, q.prompt, q.answer).cpu() for q in BENCH.forget[:4]])


CALLS: dict[str, tuple[Callable[[Pair], Tensor], float]] = {
    "log_prob": (lambda pair: ul.log_prob(pair.original, *FACT, per_token=True), 1e-4),
    "attribute": (lambda pair: ul.attribute(pair.original, *FACT).per_answer_token, 2e-4),
    "decompose by source": (lambda pair: ul.decompose(pair.original, *FACT, by="source").values, 1e-3),
    "diff": (lambda pair: ul.diff(pair.original, pair.retrained, *FACT).delta_components, 1e-3),
    "patch": (lambda pair: patch(pair.original, pair.retrained, *FACT).log_prob, 1e-3),
    "unlearn": (unlearned_log_probs, 2e-2),
}
"""Calls that are compared, each with the largest difference that rounding may make."""


def main() -> int:
    """Run all comparisons; return the exit status."""
    if not torch.cuda.is_available():
        print("no CUDA GPU is available; nothing was checked")
        return 2
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    prompts, failed = [q.prompt for q in BENCH.forget[:16]], 0
    for wrap in ("hooked", "bridge"):
        pairs = {
            device: Pair(*(ul.load_model(n, wrap=wrap, device=device) for n in ("builtin", "builtin-retrain")))
            for device in ("cuda", "cpu")
        }
        for name, (call, bound) in CALLS.items():
            start = time.monotonic()
            found = {device: call(pair).cpu().double() for device, pair in pairs.items()}
            difference = float((found["cuda"] - found["cpu"]).abs().max())
            wrong = not difference <= bound
            failed += wrong
            seconds = time.monotonic() - start
            print(f"{'FAIL' if wrong else 'ok':4} {wrap:7} {name:20} {difference:.1e} of {bound:.0e}  {seconds:.1f} s")
        ours, theirs = (generate_answers(pairs[d].original, prompts, max_new_tokens=12) for d in ("cuda", "cpu"))
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        failed += same < len(prompts) - 1
        print(f"{'FAIL' if same < len(prompts) - 1 else 'ok':4} {wrap:7} {'generate':20} {same} of 16 answers equal")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
