"""Speed and memory of decompositions against TransformerLens's own helpers, as ratios within one run.

    python benchmarks/decomposition.py                    # GPT-2-small shape, prompt 30, answer 8
    python benchmarks/decomposition.py --prompt 1980 --answer 20 --ours-only    # the long prompt that must fit in 4 GB

Each contestant runs in a process of its own, on the same random weights (norms as initialised, so that the peers'
algebra for folded weights is right too), and reports its time, its peak memory beyond the loaded model, and its
numbers, which are compared. The forward pass that all of them need is a contestant too: time beyond it is what the
decomposition itself costs. `stack_head_results` gives heads only; the same work, head × source token, is done with
TransformerLens's cache and `apply_ln_to_stack` by the last contestant.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

SHAPES = {
    "gpt2-small": {"n_layers": 12, "d_model": 768, "n_heads": 12, "d_head": 64, "d_mlp": 3072, "d_vocab": 50257},
    "tiny": {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_head": 16, "d_mlp": 128, "d_vocab": 500},
}


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


def forward(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """A plain forward pass, unembedding the answer's positions only; it gives no numbers."""
    from unpact_lens.models import surface

    length = len(prompt) + len(answer) - 1
    surface.logits_at(model, torch.tensor([(prompt + answer)[:-1]]), torch.arange(length - len(answer), length)[None])
    return torch.empty(0)


CONTESTANTS: dict[str, Callable[..., torch.Tensor]] = {
    "unpact-lens, head × source": ours,
    "the forward pass alone": forward,
    "stack_head_results + logit_attrs": stack_head_results,
    "the same, caching only what it needs": stack_head_results_filtered,
    "head × source from the cache": sources_by_cache,
}


def contest(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time and peak memory of one contestant, in this process."""
    # Imported before memory is measured: code is not what is compared.
    import unpact_lens.decomposition
    import unpact_lens.models.surface  # noqa: F401

    torch.set_num_threads(options.threads)
    model = build(options.shape, options.prompt + options.answer)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.cfg.d_vocab, (options.prompt + options.answer,), generator=generator).tolist()
    prompt, answer = ids[: options.prompt], ids[options.prompt :]
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        values = CONTESTANTS[name](model, prompt, answer)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            CONTESTANTS[name](model, prompt, answer)
            seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "peak_beyond_model_mb": (peak - before) / 1024,
        "peak_mb": peak / 1024,
        "values": values.flatten().tolist(),
    }


def main() -> None:
    """Run each contestant in its own process; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2-small")
    parser.add_argument("--prompt", type=int, default=30)
    parser.add_argument("--answer", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        print(json.dumps(contest(options.contestant, options)))
        return
    results = {}
    for name in list(CONTESTANTS)[: 2 if options.ours_only else None]:
        command = [sys.executable, __file__, *sys.argv[1:], "--contestant", name]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        results[name] = json.loads(output.strip().splitlines()[-1])
    mine, plain = (results[name] for name in list(results)[:2])
    reference = torch.tensor(mine["values"])
    print(f"{options.shape}, prompt {options.prompt}, answer {options.answer}, {options.threads} threads")
    for name, found in results.items():
        values = torch.tensor(found.pop("values"))
        found["seconds_beyond_forward"] = found["seconds"] - plain["seconds"]
        if found is not mine and found is not plain:
            found["largest_difference"] = float((values - reference).abs().max())
            found["times_ours"] = found["seconds"] / mine["seconds"]
            found["times_ours_beyond_forward"] = found["seconds_beyond_forward"] / mine["seconds_beyond_forward"]
            found["memory_times_ours"] = found["peak_beyond_model_mb"] / mine["peak_beyond_model_mb"]
        print(f"  {name}: " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
