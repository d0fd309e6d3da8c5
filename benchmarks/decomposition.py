"""Compare speed and memory of decompositions with TransformerLens's own helpers, as ratios within one run.

    python benchmarks/decomposition.py                       # GPT-2-small shape, prompt 30, answer 8
    python benchmarks/decomposition.py --prompt 200
    python benchmarks/decomposition.py --prompt 1980 --answer 20 --ours-only    # the long prompt that must fit in 4 GB

All contestants use the same random weights, and their numbers are compared. Norms are as initialised, so the peers'
algebra for folded weights is correct, too.

- *Head × source token*: `stack_head_results` and `logit_attrs` give heads only. Another contestant computes head ×
  source with TransformerLens's cache and `apply_ln_to_stack`.
- *Logit lens*: `accumulated_resid`, normed and unembedded at the answer's positions, compared with `by="layer"`.
- *Forward pass alone*, which all of them need, as TransformerLens runs it and as we run it.
"""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from common import Contest, Row, Work, report

SHAPES = {
    "gpt2-small": {"n_layers": 12, "d_model": 768, "n_heads": 12, "d_head": 64, "d_mlp": 3072, "d_vocab": 50257},
    "tiny": {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_head": 16, "d_mlp": 128, "d_vocab": 500},
}
LIMIT_MB = 4096
"""Memory in which a prompt of 2,000 tokens on GPT-2-small shape must fit, with the model."""


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
    """Run the documented form: cache everything, stack head results, project on the answer."""
    tokens = torch.tensor([(prompt + answer)[:-1]])
    _, cache = model.run_with_cache(tokens)
    return _attrs(model, cache, answer, tokens.shape[1])


def stack_head_results_filtered(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Run the same with only the needed cache, which is the peer's fastest correct setting."""
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
    """Compute head × source token with the cache's own tools: each source's vector, normed, times the unembedding."""
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
    """Compute the logit lens with the cache's own tool, at the answer's positions: log-probability after each layer."""
    tokens = torch.tensor([(prompt + answer)[:-1]])
    where = (tokens.shape[1] - len(answer), tokens.shape[1])
    wanted = ("hook_resid_pre", "hook_resid_post", "ln_final.hook_scale")
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(wanted))
    stack = cache.accumulated_resid(layer=None, incl_mid=False, pos_slice=where)
    logits = model.unembed(model.ln_final(stack[:, 0]))
    log_probs = logits.log_softmax(-1)
    return log_probs[:, range(len(answer)), answer]


def forward(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Run a forward pass that unembeds only the answer's positions; it returns no numbers."""
    from unpact_lens.models import hooked

    length = len(prompt) + len(answer) - 1
    hooked.logits_at(model, torch.tensor([(prompt + answer)[:-1]]), torch.arange(length - len(answer), length)[None])
    return torch.empty(0)


def plain_forward(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Call the model as TransformerLens does, without hooks; it returns no numbers."""
    model(torch.tensor([(prompt + answer)[:-1]]))
    return torch.empty(0)


Decompose = Callable[[Any, list[int], list[int]], torch.Tensor]
WORKS: dict[str, dict[str, Decompose]] = {
    "head x source": {
        "unpact-lens, head x source": ours,
        "stack_head_results + logit_attrs": stack_head_results,
        "the same, caching only what it needs": stack_head_results_filtered,
        "head x source from the cache": sources_by_cache,
    },
    "logit lens": {"unpact-lens, logit lens": lens, "accumulated_resid": accumulated_resid},
    "forward pass alone": {
        "answer's positions unembedded": forward,
        "as TransformerLens does it": plain_forward,
    },
}
"""Contestants by work, ours first."""


def setup(options: Namespace) -> tuple[Any, list[int], list[int]]:
    """Return the model, the prompt and the answer."""
    model = build(options.shape, options.prompt + options.answer)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.cfg.d_vocab, (options.prompt + options.answer,), generator=generator).tolist()
    return model, ids[: options.prompt], ids[options.prompt :]


def contestant(run: Decompose) -> Callable[[tuple[Any, list[int], list[int]]], Work]:
    """Warm up on a tiny model, so that lazily loaded code does not count as memory."""

    def prepare(example: tuple[Any, list[int], list[int]]) -> Work:
        with torch.inference_mode():
            run(build("tiny", 4), [1, 2, 3], [4])

        @torch.inference_mode()
        def work() -> torch.Tensor:
            return run(*example)

        return work

    return prepare


contest = Contest(__file__, {name: contestant(run) for runs in WORKS.values() for name, run in runs.items()}, setup)


def main() -> None:
    """Measure all contestants, print the results, and write them as JSON and a figure."""
    parser = contest.parser(__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2-small")
    parser.add_argument("--prompt", type=int, default=30)
    parser.add_argument("--answer", type=int, default=8)
    parser.add_argument("--ours-only", action="store_true")
    options = contest.serve(parser)
    size = f"prompt {options.prompt}, answer {options.answer}"
    rows = [
        contest.run(options, f"{work}, {size}", list(runs)[:1] if options.ours_only else list(runs))
        for work, runs in WORKS.items()
    ]
    alone = rows[-1].found[rows[-1].ours]["seconds"]
    over = {row.name: row.found[row.ours]["seconds"] / alone for row in rows[:-1]}
    print("  ours over the forward pass alone: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in over.items()))
    if options.shape == "gpt2-small" and options.prompt + options.answer >= 2000:
        say_whether_it_fits(rows[:-1])
    name = f"decomposition-{options.shape}-{options.prompt}"
    report(name, rows, options, {"ours_over_the_forward_pass_alone": over})


def say_whether_it_fits(rows: list[Row]) -> None:
    """Compare our largest peak, with the model, with the limit."""
    peak = max(row.found[row.ours]["peak_mb"] for row in rows)
    verdict = "fits" if peak < LIMIT_MB else "DOES NOT FIT"
    print(f"  peak of ours, model included: {peak:.0f} MB of {LIMIT_MB} MB: {verdict}")


if __name__ == "__main__":
    main()
