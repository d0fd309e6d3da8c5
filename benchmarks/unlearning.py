"""Compare speed and memory of unlearning steps with a plain Hugging Face loop, and measure every method.

    python benchmarks/unlearning.py                       # GA and NPO, SmolLM2-135M shape, and a plain loop
    python benchmarks/unlearning.py --methods             # steps/s and peak memory of every family, a small shape
    python benchmarks/unlearning.py --shape small --steps 6

Each contestant runs in its own process on the same random weights and the same questions in the same order, with AdamW
and clipping. The plain loop is the usual one with transformers: whole sequences, SDPA attention, the reference model
run at each step. The library computes references once and makes five passes over the data (its default). The time of a
step is that of the whole run divided by its number of steps, with the reference, the copy of the model and its hash.
`steady` is the step without them. The trained weights are compared in the same run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from common import OUTPUT, keep

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
                "intermediate_size": 1536, "vocab_size": 49152},
    "small": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4,
              "intermediate_size": 512, "vocab_size": 4096},
}  # fmt: skip
FAMILIES = (
    "ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "simnpo", "idk_ft", "idk_dpo", "dpo", "altpo", "task_vector",
    "whp", "whp_inference", "rmu", "undial", "wga", "satimp", "ce_u", "offset", "sparsity_aware", "o3", "lora_npo",
    "unpact_select", "unpact_blind",
)  # fmt: skip
BETA, CLIP = 0.1, 1.0
UNSATURATED = {"simnpo": {"beta": 0.1}, "satimp": {"beta1_weight": 0.1}}
"""Options that differ from the defaults, at which answers as unlikely as a random model's leave no gradient."""
WRAPS = ("bridge", "hooked")


def plain_model(shape: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=512, tie_word_embeddings=True)
    return LlamaForCausalLM(config).eval()


def word_tokenizer(shape: str) -> Any:
    """Make a tokenizer with one word per id."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(2, SHAPES[shape]["vocab_size"])}
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, **words}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")


def questions(options: argparse.Namespace, seed: int) -> list[tuple[list[int], list[int]]]:
    """Draw prompts and answers of various lengths, around those of the options."""
    generator = torch.Generator().manual_seed(seed)

    def ids(around: int) -> list[int]:
        length = int(torch.randint(max(1, around * 3 // 4), around * 5 // 4 + 1, (1,), generator=generator))
        return torch.randint(2, SHAPES[options.shape]["vocab_size"], (length,), generator=generator).tolist()

    return [(ids(options.prompt), ids(options.answer)) for _ in range(options.examples)]


def text_of(ids: list[int]) -> str:
    """Return the text of ids, as `word_tokenizer` reads it."""
    return " ".join(f"w{i}" for i in ids)


class Clock:
    """Record when each optimiser step ended."""

    def __init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.ends: list[float] = []
        register_optimizer_step_post_hook(lambda *_: self.ends.append(time.perf_counter()))


def plain_loop(hf: Any, method: str, pairs: list[Any], order: torch.Tensor, lr: float, weight: float) -> None:
    """Unlearn with a plain transformers loop; `weight` is 1 over the mean answer length, as in the library."""
    reference = copy.deepcopy(hf).requires_grad_(False) if method == "npo" else None
    optimiser = torch.optim.AdamW(hf.parameters(), lr=lr, weight_decay=0.0)
    for index in order.tolist():
        rows = [pairs[i] for i in index]
        width = max(len(p) + len(a) for p, a in rows)
        ids = torch.tensor([p + a + [0] * (width - len(p) - len(a)) for p, a in rows])
        seen = torch.tensor([[t < len(p) + len(a) for t in range(width)] for p, a in rows]).long()
        on = torch.tensor([[len(p) <= t < len(p) + len(a) for t in range(width)] for p, a in rows])
        labels = ids.masked_fill(~on, -100)[:, 1:]

        def log_probs(model: Any, ids: Any = ids, seen: Any = seen, labels: Any = labels) -> torch.Tensor:
            logits = model(ids, attention_mask=seen, use_cache=False).logits[:, :-1]
            flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            return -flat.view_as(labels)

        values = log_probs(hf)
        if reference is None:
            loss = values.sum() / on.sum()
        else:
            with torch.no_grad():
                before = log_probs(reference)
            ratio = values.sum(-1) - before.sum(-1)
            loss = weight * (2 / BETA) * torch.nn.functional.softplus(BETA * ratio).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), CLIP)
        optimiser.step()


def contest(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one contestant in this process: seconds, peak memory beyond the loaded model, and its weights."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    # Imported before memory is measured, because code is not compared.
    from unpact_lens.data.benchmark import QA
    from unpact_lens.models.checkpoint import named_weights
    from unpact_lens.models.load import load_model
    from unpact_lens.unlearning import unlearn
    from unpact_lens.unlearning.dataset import draw_order

    who, method = options.contestant.split("/")
    pairs = questions(options, 1)
    hf, tokenizer = plain_model(options.shape), word_tokenizer(options.shape)
    order = draw_order(len(pairs), options.steps, options.batch, torch.Generator().manual_seed(0))
    clock = Clock()
    if who == "loop":
        before, start = peak_mb(), time.perf_counter()
        mean_length = sum(len(a) for _, a in pairs) / len(pairs)
        plain_loop(hf, method, pairs, order, options.lr, 1 / mean_length)
        found = timing(clock, start, options.steps, before)
        hf.save_pretrained(options.folder / method)
        tokenizer.save_pretrained(options.folder / method)
        return found

    model = load_model(hf, wrap=who, tokenizer=tokenizer)
    del hf
    forget, retain = (
        [QA(text_of(p), f" {text_of(a)}", kind="entity") for p, a in drawn] for drawn in (pairs, questions(options, 2))
    )
    extra: dict[str, Any] = dict(UNSATURATED.get(method, {}))
    if method == "offset":
        extra["small"] = model
    if method.startswith("idk"):
        extra["refusals"] = ("w7 w8 w9",)
    before, start = peak_mb(), time.perf_counter()
    u = unlearn(
        model, forget, retain if options.methods else None, method=method, lr=options.lr, steps=options.steps,
        batch_size=options.batch, clip=CLIP, progress=False, **extra,
    )  # fmt: skip
    found = timing(clock, start, options.steps, before)
    assert u.history.forget_order is not None
    if (options.folder / method).is_dir():
        assert torch.equal(u.history.forget_order, order)
        theirs = named_weights(load_model(options.folder / method, wrap=who))
        start_weights = named_weights(model)
        ours = named_weights(u.model)
        found["largest_difference"] = max(float((w - theirs[n]).abs().max()) for n, w in ours.items())
        found["largest_change"] = max(float((w - start_weights[n]).abs().max()) for n, w in ours.items())
        if found["largest_difference"] > found["largest_change"] / 10:
            raise SystemExit(f"trained weights are not those of the loop, so speeds do not compare: {shown(found)}")
    return found


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timing(clock: Clock, start: float, steps: int, before: float) -> dict[str, Any]:
    """Compute seconds per step, over the whole run and between steps, and peak memory beyond the loaded model."""
    whole = time.perf_counter() - start
    gaps = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    return {
        "step_seconds": whole / steps,
        "steady_step_seconds": statistics.median(gaps) if gaps else None,
        "peak_beyond_model_mb": peak_mb() - before,
    }


def run(name: str, folder: Path) -> dict[str, Any] | None:
    """Measure a contestant in its own process; None, and its error on stderr, if it failed."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contestant", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def shown(found: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" for k, v in found.items() if v is not None)


def main() -> None:
    """Run each contestant in its own process, print the results, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", action="store_true", help="every family of methods, no plain loop")
    parser.add_argument("--shape", choices=list(SHAPES), help="default: smollm2; small with --methods")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--answer", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory of the JSON")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--losses", nargs="+", choices=["ga", "npo"], default=["ga", "npo"])
    parser.add_argument("--only", help="only contestants whose name starts with this")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shape = options.shape or ("small" if options.methods else "smollm2")
    if options.contestant:
        print(json.dumps(contest(options)))
        return
    names = [f"{w}/{m}" for m in (FAMILIES if options.methods else options.losses)
             for w in (WRAPS if options.methods else ("loop", *WRAPS))]  # fmt: skip
    print(f"{options.shape}, {options.examples} questions of about {options.prompt} + {options.answer} tokens, "
          f"batch {options.batch}, {options.steps} steps, {options.threads} threads")  # fmt: skip
    results: dict[str, Any] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if options.only and not name.startswith(options.only):
                continue
            found = run(name, Path(folder))
            if found is None:
                failed.append(name)
                continue
            results[name] = found
            loop = results.get(f"loop/{name.partition('/')[2]}")
            if loop and loop is not found:
                found["times_as_fast_as_the_loop"] = loop["step_seconds"] / found["step_seconds"]
                found["steady_times_as_fast"] = loop["steady_step_seconds"] / found["steady_step_seconds"]
                found["memory_over_the_loop"] = found["peak_beyond_model_mb"] / loop["peak_beyond_model_mb"]
            found["steps_per_second"] = 1 / found["step_seconds"]
            print(f"  {name}: {shown(found)}", flush=True)
            path = keep(f"unlearning-{options.shape}" + "-methods" * options.methods, results, options)
    if results:
        print(f"wrote {path}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
