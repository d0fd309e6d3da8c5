"""Compare the main calls on a GPU with the same calls on the CPU, in about a minute and without any download.

Run `python scripts/gpu_check.py` on a machine with a CUDA GPU. Each line names a call, the largest difference between the
two devices and the bound. The exit status is 1 if any call exceeds its bound.
"""

from __future__ import annotations

import sys
import time

import torch

import unpact_lens as ul
from unpact_lens.comparison import patch
from unpact_lens.models.generate import generate_answers

STEPS = 6


def main() -> int:
    """Run all comparisons; return the exit status."""
    if not torch.cuda.is_available():
        print("no CUDA GPU is available; nothing was checked")
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    bench = ul.load_benchmark("builtin")
    fact, failed = bench.forget[0], 0
    for wrap in ("hooked", "bridge"):
        cpu = ul.load_model("builtin", wrap=wrap, device="cpu")
        gpu = ul.load_model("builtin", wrap=wrap, device="cuda")
        control = {d: ul.load_model("builtin-retrain", wrap=wrap, device=d) for d in ("cpu", "cuda")}
        settings = {"method": "npo_gdr", "lr": 3e-4, "steps": STEPS, "alpha": 5.0, "progress": False}

        def trained(model):
            found = ul.unlearn(model, bench.forget[:16], bench.retain[:16], **settings)
            return torch.stack([ul.log_prob(found.model, q.prompt, q.answer).cpu() for q in bench.forget[:4]])

        def answers(model):
            return generate_answers(model, [q.prompt for q in bench.forget[:16]], max_new_tokens=12)

        calls = {
            "log_prob": (lambda m, d: ul.log_prob(m, fact.prompt, fact.answer, per_token=True), 1e-4),
            "attribute": (lambda m, d: ul.attribute(m, fact.prompt, fact.answer).per_answer_token, 2e-4),
            "decompose by source": (lambda m, d: ul.decompose(m, fact.prompt, fact.answer, by="source").values, 1e-3),
            "diff": (lambda m, d: ul.diff(m, control[d], fact.prompt, fact.answer).delta_components, 1e-3),
            "patch": (lambda m, d: patch(m, control[d], fact.prompt, fact.answer).log_prob, 1e-3),
            "unlearn": (lambda m, d: trained(m), 2e-2),
        }
        for name, (call, bound) in calls.items():
            start = time.monotonic()
            ours, theirs = call(gpu, "cuda").cpu().double(), call(cpu, "cpu").cpu().double()
            difference = float((ours - theirs).abs().max())
            wrong = not difference <= bound
            failed += wrong
            seconds = time.monotonic() - start
            print(f"{'FAIL' if wrong else 'ok':4} {wrap:7} {name:20} {difference:.1e} of {bound:.0e}  {seconds:.1f} s")
        same = sum(a == b for a, b in zip(answers(gpu), answers(cpu), strict=True))
        failed += same < 15
        print(f"{'FAIL' if same < 15 else 'ok':4} {wrap:7} {'generate':20} {same} of 16 answers equal")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
