"""Speed and memory of decompositions against TransformerLens's own helpers, as ratios within one run.

    python benchmarks/decomposition.py                       # GPT-2-small shape, prompt 30, answer 8
    python benchmarks/decomposition.py --prompt 200
    python benchmarks/decomposition.py --prompt 1980 --answer 20 --ours-only    # the long prompt that must fit in 4 GB

All contestants work on the same random weights (norms as initialised, so that the peers' algebra for folded weights is
right too), and their numbers are compared. Times: one process runs them in turns, so that a machine that slows down
slows all of them; the median of the turns counts. Memory: each runs alone in a process of its own, and what counts is
its peak beyond the loaded model.

Two works are compared. *Head × source token*: `stack_head_results` and `logit_attrs` give heads only, less than what we
give; head × source is done with TransformerLens's cache and `apply_ln_to_stack` by a contestant of its own. *Logit
lens*: `accumulated_resid`, normed and unembedded at the answer's positions, against `by="layer"`. The forward pass that
all of them need is a contestant too, in TransformerLens's own form and in ours.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import OUTPUT, keep

SHAPES = {
    "gpt2-small": {"n_layers": 12, "d_model": 768, "n_heads": 12, "d_head": 64, "d_mlp": 3072, "d_vocab": 50257},
    "tiny": {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_head": 16, "d_mlp": 128, "d_vocab": 500},
}
LIMIT_MB = 4096
"""A prompt of 2,000 tokens on GPT-2-small shape must fit in this, the model included."""


def build(shape: str, length: int):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    warnings.filterwarnings("ignore")
    config = {**SHAPES[shape], "n_ctx": max(1024, length), "act_fn": "gelu_new", "normalization_type": "LN", "seed": 0}
    model = HookedTransformer(HookedTransformerConfig(**config, device="cpu", default_prepend_bos=False)).eval()
    return model.requires_grad_(False)


def ours(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    from unpact_lens.decomposition import decompose

    return decompose(model, prompt, answer, by="source").values.sum(2)


def stack_head_results(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The documented way: cache everything, stack head results, project on the answer."""
    tokens = torch.tensor([(prompt + answer)[:-1]])
    _, cache = model.run_with_cache(tokens)
    return _attrs(model, cache, answer, tokens.shape[1])


def stack_head_results_filtered(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The same, caching only what it needs: the peer's fastest correct setting."""
    tokens = torch.tensor([(prompt + answer)[:-1]])
    wanted = ("hook_z", "ln_final.hook_scale", "hook_resid_post", "hook_embed")
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(wanted))
    return _attrs(model, cache, answer, tokens.shape[1])


def _attrs(model, cache, answer: list[int], length: int) -> torch.Tensor:
    where = (length - len(answer), length)
    stack = cache.stack_head_results(layer=-1, pos_slice=where)
    values = cache.logit_attrs(stack, torch.tensor([answer]), pos_slice=where, has_batch_dim=True)
    return values[:, 0].reshape(model.cfg.n_layers, model.cfg.n_heads, len(answer))


def sources_by_cache(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Head × source token with the cache's own tools: every source's vector, normed, times the unembedding."""
    tokens = torch.tensor([(prompt + answer)[:-1]])
    first = tokens.shape[1] - len(answer)
    wanted = ("hook_pattern", "hook_v", "ln_final.hook_scale")
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(wanted))
    directions = model.W_U[:, answer]
    layers = []
    for layer in range(model.cfg.n_layers):
        pattern, v = cache["pattern", layer][0, :, first:], cache["v", layer][0]
        moved = torch.einsum("hts,she,hed->hstd", pattern, v, model.W_O[layer])
        normed = cache.apply_ln_to_stack(moved.flatten(0, 1)[:, None], layer=-1, pos_slice=(first, tokens.shape[1]))
        values = torch.einsum("ntd,dt->nt", normed[:, 0], directions)
        layers.append(values.reshape(model.cfg.n_heads, -1, len(answer)).sum(1))
    return torch.stack(layers)


def lens(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    from unpact_lens.decomposition import decompose

    return decompose(model, prompt, answer, by="layer").log_prob


def accumulated_resid(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The logit lens with the cache's own tool, at the answer's positions: log-probability after each layer."""
    tokens = torch.tensor([(prompt + answer)[:-1]])
    where = (tokens.shape[1] - len(answer), tokens.shape[1])
    wanted = ("hook_resid_pre", "hook_resid_post", "ln_final.hook_scale")
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(wanted))
    stack = cache.accumulated_resid(layer=None, incl_mid=False, pos_slice=where)
    logits = model.unembed(model.ln_final(stack[:, 0]))
    log_probs = logits.log_softmax(-1)
    return log_probs[:, range(len(answer)), answer]


def forward(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """A plain forward pass, unembedding the answer's positions only; it gives no numbers."""
    from unpact_lens.models import surface

    length = len(prompt) + len(answer) - 1
    surface.logits_at(model, torch.tensor([(prompt + answer)[:-1]]), torch.arange(length - len(answer), length)[None])
    return torch.empty(0)


def plain_forward(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The model called as TransformerLens calls it, with no hooks; it gives no numbers."""
    model(torch.tensor([(prompt + answer)[:-1]]))
    return torch.empty(0)


Contestant = Callable[..., torch.Tensor]
WORKS: dict[str, dict[str, Contestant]] = {
    "head x source": {
        "unpact-lens": ours,
        "stack_head_results + logit_attrs": stack_head_results,
        "the same, caching only what it needs": stack_head_results_filtered,
        "head x source from the cache": sources_by_cache,
    },
    "logit lens": {"unpact-lens": lens, "accumulated_resid": accumulated_resid},
    "forward pass alone": {
        "answer's positions unembedded": forward,
        "as TransformerLens does it": plain_forward,
    },
}
"""Ours stands first in each work."""


def prepare(options: argparse.Namespace) -> tuple[Any, list[int], list[int]]:
    """The model and the example; also what is loaded lazily, so that code is not measured as memory."""
    warm = build("tiny", 4)
    with torch.inference_mode():
        for contestants in WORKS.values():
            for work in contestants.values():
                work(warm, [1, 2, 3], [4])
    model = build(options.shape, options.prompt + options.answer)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.cfg.d_vocab, (options.prompt + options.answer,), generator=generator).tolist()
    return model, ids[: options.prompt], ids[options.prompt :]


def chosen(options: argparse.Namespace) -> list[tuple[str, str, Contestant]]:
    """Work, name and function of all contestants that run."""
    every = [(work, name, run) for work, contestants in WORKS.items() for name, run in contestants.items()]
    first = {work: next(iter(contestants)) for work, contestants in WORKS.items()}
    return [c for c in every if not options.ours_only or c[1] == first[c[0]]]


def times(options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of each contestant over turns, and its numbers."""
    model, prompt, answer = prepare(options)
    seconds: dict[str, list[float]] = {}
    values = {}
    with torch.inference_mode():
        for turn in range(options.repeats + 1):
            for work, name, run in chosen(options):
                start = time.perf_counter()
                found = run(model, prompt, answer)
                if turn:  # the first turn warms up
                    seconds.setdefault(f"{work}: {name}", []).append(time.perf_counter() - start)
                values[f"{work}: {name}"] = found
    return {
        key: {"seconds": statistics.median(s), "values": values[key].flatten().tolist()} for key, s in seconds.items()
    }


def memory(options: argparse.Namespace, work: str, name: str) -> dict[str, float]:
    """Peak of one contestant in this process, in all and beyond the loaded model, MB."""
    model, prompt, answer = prepare(options)
    gc.collect()
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if reset.exists():  # Linux: forget the peak of building the model
        reset.write_text("5")
    before = _status_mb(status, "VmRSS")
    with torch.inference_mode():
        WORKS[work][name](model, prompt, answer)
    peak = _status_mb(status, "VmHWM")
    return {"peak_mb": peak, "peak_beyond_model_mb": peak - before}


def _status_mb(status: Path, field: str) -> float:
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def in_own_process(*arguments: str) -> dict[str, Any]:
    """What this script prints when called again with these arguments added."""
    command = [sys.executable, __file__, *sys.argv[1:], *arguments]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main() -> None:
    """Measure all contestants; print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2-small")
    parser.add_argument("--prompt", type=int, default=30)
    parser.add_argument("--answer", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory of the JSON")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part:
        print(json.dumps(times(options) if options.part[0] == "times" else memory(options, *options.part[1:])))
        return
    results = in_own_process("--part", "times")
    for work, name, _ in chosen(options):
        results[f"{work}: {name}"].update(in_own_process("--part", "memory", work, name))
    report(options, results)
    print(f"wrote {keep(f'decomposition-{options.shape}-{options.prompt}', results, options)}")


def report(options: argparse.Namespace, results: dict[str, dict[str, Any]]) -> None:
    """Print a row for each contestant, peers as multiples of ours."""
    shape = f"{options.shape}, prompt {options.prompt}, answer {options.answer}, {options.threads} threads"
    print(f"{shape}, median of {options.repeats}")
    forwards = [found for key, found in results.items() if key.startswith("forward pass alone")]
    for work, contestants in WORKS.items():
        keys = [f"{work}: {name}" for name in contestants if f"{work}: {name}" in results]
        mine = results[keys[0]]
        for key in keys:
            row = results[key]
            line = f"  {key}: {row['seconds']:.3f} s, {row['peak_beyond_model_mb']:.0f} MB beyond the model"
            line += f" ({row['peak_mb']:.0f} MB in all)"
            if row is mine and row not in forwards:
                line += f"; {row['seconds'] / forwards[0]['seconds']:.2f}x the forward pass alone"
            elif row is not mine:
                row["times_ours"] = row["seconds"] / mine["seconds"]
                row["memory_times_ours"] = row["peak_beyond_model_mb"] / mine["peak_beyond_model_mb"]
                line += f"; {row['times_ours']:.2f}x our time, {row['memory_times_ours']:.1f}x our memory"
                if row["values"]:
                    ours_, theirs = torch.tensor(mine["values"]), torch.tensor(row["values"])
                    row["largest_difference"] = float((ours_ - theirs).abs().max())
                    line += f", numbers differ by {row['largest_difference']:.1e} at most"
            print(line)
    for row in results.values():
        del row["values"]
    if options.shape == "gpt2-small" and options.prompt + options.answer >= 2000:
        peak = max(row["peak_mb"] for key, row in results.items() if "unpact-lens" in key)
        verdict = "fits" if peak < LIMIT_MB else "DOES NOT FIT"
        print(f"  peak of ours, model included: {peak:.0f} MB of {LIMIT_MB} MB: {verdict}")


if __name__ == "__main__":
    main()
