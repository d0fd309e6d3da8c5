"""Compare leave-one-out with captum, plain Hugging Face loops, inseq and the least that must be computed.

    python benchmarks/attribution.py                                   # GPT-2-small shape, random weights
    python benchmarks/attribution.py --shape smollm2                   # SmolLM2's shape; or a directory with a model
    python benchmarks/attribution.py --inseq /path/to/env/bin/python   # inseq, from an environment of its own

The work is `LP(x, y) - LP(x without x_i, y)` for each prompt token and answer token, on the bridge. If the numbers of a
peer differ from ours, the difference is reported with its time. captum's defaults give wrong numbers with this version
of transformers, so their time is reported and not compared. *The limit* is one Hugging Face forward pass over as many
tokens as cannot be shared: the whole text, and of each variant what follows its deletion. It is unembedded at the
answers' positions only and gives no scores. An ideal implementation needs that much. The growth with prompt and answer
is reported with the cost model: these tokens, the rows to unembed, and their floating-point operations.
"""

from __future__ import annotations

import subprocess
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from common import Contest, NotRun, Row, Work, report
from models import bridge, hf_model, random_ids, tokenizer, word

Task = Namespace
"""Options, with the ids of `prefix` (not attributed), `prompt` and `answer` that `setup` adds."""


def setup(options: Namespace) -> Task:
    vocabulary = {"gpt2-small": 50257, "smollm2": 49152, "tiny": 500}.get(options.shape) or hf_model(
        options.shape
    ).config.vocab_size
    length = options.prefix + options.prompt + options.answer
    ids = random_ids(length, vocabulary, seed=getattr(options, "seed", 1))
    a, b = options.prefix, options.prefix + options.prompt
    return Namespace(**{**vars(options), "before": ids[:a], "x": ids[a:b], "y": ids[b:], "vocabulary": vocabulary})


def rows_of(task: Task) -> list[list[int]]:
    """Return the whole text and each deletion, without the last answer token, which no model needs to read."""
    whole = task.before + task.x
    cuts = [task.prefix + i for i in deleted(task)]
    return [(r + task.y)[:-1] for r in (whole, *(whole[:i] + whole[i + 1 :] for i in cuts))]


def deleted(task: Task) -> range:
    """Return which tokens of the prompt are deleted, one at a time."""
    return range(0, task.prompt, task.every)


def scores(log_probs: torch.Tensor) -> torch.Tensor:
    """Compute contributions `[prompt, answer]` from log-probabilities `[1 + prompt, answer]`."""
    return log_probs[:1] - log_probs[1:]


def log_probs_of(logits: torch.Tensor, answer: list[int]) -> torch.Tensor:
    index = torch.tensor(answer, device=logits.device)[None, :, None].expand(len(logits), -1, -1)
    return logits.log_softmax(-1).gather(-1, index)[..., 0]


def ours(task: Task) -> Work:
    from unpact_lens.attribution import attribute

    model = bridge(task.shape)
    units: Any = "token"
    if task.prefix or task.every > 1:
        units = [(task.prefix + i, task.prefix + i + 1) for i in deleted(task)]
    return lambda: attribute(model, task.before + task.x, task.y, units=units).per_answer_token


def ours_unshared(task: Task) -> Work:
    """Run our code with each variant computed in full, to measure the gain of sharing the prefix."""
    from unpact_lens.attribution.scorer import Scorer
    from unpact_lens.models.tokens import Encoded

    model = bridge(task.shape)
    rows = [Encoded((), tuple(r[: len(r) + 1 - len(task.y)]), (), tuple(task.y), 0) for r in rows_of(task)]
    return lambda: scores(torch.stack(Scorer(model, share_prefix=False)([rows])[0]))


def one_by_one(task: Task) -> Work:
    """Run one forward pass per deletion, and take log-probabilities from its logits."""
    model = hf_model(task.shape)

    @torch.inference_mode()
    def work() -> torch.Tensor:
        found = [log_probs_of(model(torch.tensor([r])).logits[:, -len(task.y) :], task.y) for r in rows_of(task)]
        return scores(torch.cat(found))

    return work


def batched(task: Task) -> Work:
    """Run the fastest plain Hugging Face code: SDPA, deletions in batches, unembedding at the answer only."""
    model = hf_model(task.shape)

    @torch.inference_mode()
    def work() -> torch.Tensor:
        whole, *others = rows_of(task)
        size = max(1, 8192 // len(whole))
        batches = [[whole], *(others[i : i + size] for i in range(0, len(others), size))]
        return scores(torch.cat([log_probs_of(answer_logits(model, b, len(task.y)), task.y) for b in batches]))

    return work


def answer_logits(model: Any, rows: list[list[int]], length: int) -> torch.Tensor:
    return model.lm_head(model.base_model(torch.tensor(rows)).last_hidden_state[:, -length:])


def limit(task: Task) -> Work:
    """Run one forward pass over as many tokens as cannot be shared."""
    return limit_on(hf_model(task.shape), task)


def limit_on(model: Any, task: Task) -> Work:
    """Run `model` over as many tokens as cannot be shared, in rows of the length of the whole text."""
    length = task.prefix + task.prompt + task.answer - 1
    # Rows have the whole length, so that attention costs the same. A last, shorter row makes the count exact.
    examples = getattr(task, "examples", 1)
    count = unshared_tokens(task) * examples
    full, rest = divmod(count, length)
    ids = random_ids(count, task.vocabulary)
    blocks = [torch.tensor(ids[: full * length], device=model.device).reshape(full, length)] if full else []
    blocks += [torch.tensor([ids[full * length :]], device=model.device)] if rest else []
    answers = (len(deleted(task)) + 1) * task.answer * examples

    @torch.inference_mode()
    def work() -> None:
        hidden = torch.cat([model.base_model(b).last_hidden_state.flatten(0, 1) for b in blocks])[:answers]
        log_probs_of(model.lm_head(hidden)[None], [5] * len(hidden))

    return work


def unshared_tokens(task: Task) -> int:
    """Count the whole text once, and of each variant what follows its deletion, without the last answer token.

    The variant of the last prompt token also needs the position before it, which predicts the first answer token.
    """
    after = task.prompt + task.answer - 1
    each = [after - 1 - min(i, task.prompt - 2) for i in deleted(task)]
    return task.prefix + after + sum(each)


def captum_of(**settings: Any) -> Any:
    """Run captum's `LLMAttribution` with `FeatureAblation`; replacing a token by nothing deletes it."""

    def contestant(task: Task) -> Work:
        try:
            from captum.attr import FeatureAblation, LLMAttribution, TextTemplateInput
        except ImportError as error:
            raise NotRun(f"captum is not installed ({error})") from None
        words = tokenizer(task.vocabulary)
        attribution = LLMAttribution(FeatureAblation(hf_model(task.shape)), words)
        before = "".join(f"{word(i)} " for i in task.before)
        places = deleted(task)
        values = [f"{word(task.x[i])} " for i in places]
        template = "".join("{}" if i in places else f"{word(token)} " for i, token in enumerate(task.x))
        inputs = TextTemplateInput(before + template, values, baselines=[""] * len(values))
        target = " ".join(word(i) for i in task.y)

        @torch.inference_mode()
        def work() -> torch.Tensor:
            return attribution.attribute(inputs, target=target, **settings).token_attr.T

        return work

    return contestant


def inseq(task: Task) -> Work:
    """Run inseq's occlusion in its own environment. It replaces tokens, so only its time compares."""
    if not task.inseq:
        raise NotRun("no --inseq PYTHON given; its requirements conflict with this environment's")
    peer = Path(__file__).parent / "inseq_peer.py"
    directory = tempfile.TemporaryDirectory()
    folder = directory.name
    hf_model(task.shape, "eager").save_pretrained(folder)
    tokenizer(task.vocabulary).save_pretrained(folder)
    texts = [" ".join(word(i) for i in ids) for ids in (task.before + task.x, task.y)]
    command = [task.inseq, str(peer), folder, *texts, str(task.threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def work() -> None:
        process.stdin.write("again\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("done"):
                return
        raise RuntimeError(f"inseq's process ended; it read the model from {directory.name}")

    return work


CONTESTANTS = {
    "unpact-lens": ours,
    "the limit": limit,
    "HF, one by one": one_by_one,
    "HF, batched, answer only": batched,
    "captum, fastest correct": captum_of(forward_in_tokens=False),
    "captum, defaults": captum_of(),
    "inseq, occlusion": inseq,
    "nothing shared": ours_unshared,
}
PEERS = list(CONTESTANTS)[:-1]
SLOW = ("captum, defaults", "inseq, occlusion")
"""Contestants that take more than twenty times our time; they are timed on the first row only."""


def operations(task: Task, hf: Any) -> dict[str, float]:
    """Count the floating-point operations that cannot be shared: two per weight and token, and per unembedded row.

    The products of attention are excluded; at these lengths they are a few per cent.
    """
    inside = sum(p.numel() for n, p in hf.named_parameters() if p.dim() == 2 and (".h." in n or ".layers." in n))
    rows = (len(deleted(task)) + 1) * task.answer
    return {
        "tokens": unshared_tokens(task),
        "rows": rows,
        "gflop": 2e-9 * (inside * unshared_tokens(task) + rows * hf.lm_head.weight.numel()),
    }


def growth(options: Namespace) -> tuple[list[Row], list[dict[str, float]]]:
    """Measure our seconds by prompt and answer length, with the operations that cannot be shared."""
    hf = hf_model(options.shape)
    rows, table = [], []
    for prompt, answer in ((15, 8), (30, 8), (60, 8), (120, 8), (30, 32), (30, 64)):
        row = contest.run(
            options,
            f"growth: prompt {prompt}, answer {answer}",
            ["unpact-lens", "the limit"],
            prompt=prompt,
            answer=answer,
        )
        needed = operations(Namespace(prompt=prompt, answer=answer, prefix=0, every=1), hf)
        seconds = row.found["unpact-lens"]["seconds"]
        table.append(
            {"prompt": prompt, "answer": answer, **needed, "seconds": seconds, "gflop_per_s": needed["gflop"] / seconds}
        )
        print("  " + ", ".join(f"{k} {v:.4g}" for k, v in table[-1].items()), flush=True)
        rows.append(row)
    return rows, table


contest = Contest(__file__, CONTESTANTS, setup)
"""Contestants of this file; `benchmarks/limit.py` runs them in turns in one process."""


def main() -> None:
    parser = contest.parser(__doc__)
    parser.add_argument("--shape", default="gpt2-small", help="gpt2-small, smollm2, tiny, or a directory with a model")
    parser.add_argument("--prompt", type=int, default=30)
    parser.add_argument("--answer", type=int, default=8)
    parser.add_argument("--prefix", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="delete every n-th token of the prompt only")
    parser.add_argument("--inseq", help="Python interpreter of an environment that has inseq")
    parser.add_argument(
        "--rows",
        nargs="*",
        choices=["short", "long", "prefix", "growth"],
        default=["short", "prefix", "growth"],
        help="long, a prompt of 200, takes some ten minutes",
    )
    options = contest.serve(parser)
    chosen, options.rows = options.rows, None
    rows, extra = [], {}
    if "short" in chosen:
        rows.append(contest.run(options, "prompt 30, answer 8", PEERS, answer=8))
        rows.append(contest.run(options, "prompt 30, answer 20", [c for c in PEERS if c not in SLOW], answer=20))
    if "prefix" in chosen:
        rows.append(
            contest.run(
                options, "prefix 500, prompt 30, answer 8", ["unpact-lens", "the limit", "nothing shared"], prefix=500
            )
        )
    if "long" in chosen:
        few = Namespace(**{**vars(options), "repeats": min(options.repeats, 2)})
        rows.append(
            contest.run(
                few,
                "prompt 200, answer 8",
                ["unpact-lens", "the limit", "HF, one by one", "HF, batched, answer only"],
                prompt=200,
            )
        )
    if "growth" in chosen:
        more, extra["growth"] = growth(options)
        rows += more
    report("attribution", rows, options, {"shape": options.shape, **extra})


if __name__ == "__main__":
    main()
