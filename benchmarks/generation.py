"""Compare greedy answers to many questions, by `greedy` on the bridge, with Hugging Face's batched `generate`.

    python benchmarks/generation.py                    # GPT-2-small shape, 400 questions of 6 to 30 tokens, 24 new ones
    python benchmarks/generation.py --shape smollm2    # or a directory with a model

All contestants generate the same number of tokens; no text ends early. `generate` is measured with 32 questions in
their order, and in its best form, sorted by length in our batches. Then each answer to the first `--check` questions is
compared, token for token, with what plain transformers generates for that question alone. Where two answers differ and
the two most likely tokens are within 1e-4 logits, the difference is a tie. Any other difference is an error.
"""

from __future__ import annotations

import random
from argparse import Namespace
from typing import Any

import torch
from common import Contest, Work, report
from models import bridge, hf_model, random_ids

TIE = 1e-4
"""Largest difference of logits that fp32 in another order can produce."""


def setup(options: Namespace) -> Namespace:
    vocabulary = {"gpt2-small": 50257, "smollm2": 49152, "tiny": 500}.get(options.shape) or hf_model(
        options.shape
    ).config.vocab_size
    lengths = random.Random(0).choices(range(6, 31), k=options.questions)
    questions = [random_ids(n, vocabulary, seed=i) for i, n in enumerate(lengths)]
    return Namespace(**{**vars(options), "given": questions})


def ours(task: Namespace) -> Work:
    from unpact_lens.models.generate import greedy

    model = bridge(task.shape)
    return lambda: greedy(model, task.given, max_new_tokens=task.new)


def in_order(task: Namespace) -> Work:
    batches = [list(range(i, min(i + 32, len(task.given)))) for i in range(0, len(task.given), 32)]
    return by_generate(task, batches)


def sorted_by_length(task: Namespace) -> Work:
    from unpact_lens.models.batches import DEFAULT_BATCH_TOKENS, length_batches

    return by_generate(task, list(length_batches([len(q) + task.new for q in task.given], DEFAULT_BATCH_TOKENS)))


def by_generate(task: Namespace, batches: list[list[int]]) -> Work:
    model = hf_model(task.shape)

    def work() -> list[list[int]]:
        answers: dict[int, list[int]] = {}
        for batch in batches:
            answers.update(zip(batch, generated(model, [task.given[i] for i in batch], task.new), strict=True))
        return [answers[i] for i in range(len(task.given))]

    return work


@torch.inference_mode()
def generated(model: Any, questions: list[list[int]], new: int) -> list[list[int]]:
    """Generate `new` tokens for a left-padded batch with `generate`."""
    width = max(map(len, questions))
    tokens = torch.tensor([[0] * (width - len(q)) + q for q in questions])
    mask = torch.tensor([[0] * (width - len(q)) + [1] * len(q) for q in questions])
    found = model.generate(
        tokens, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return found[:, width:].tolist()


def check(task: Namespace) -> dict[str, int]:
    """Count the answers that equal those of each question alone, differ at a tie, or are wrong."""
    answers = ours(Namespace(**{**vars(task), "given": task.given[: task.check]}))()
    model = hf_model(task.shape)
    counts = {"equal": 0, "parted at a tie": 0, "wrong": 0}
    for question, answer in zip(task.given, answers, strict=False):
        alone = generated(model, [question], task.new)[0]
        parts = next((k for k, (a, b) in enumerate(zip(answer, alone, strict=True)) if a != b), None)
        if parts is None:
            counts["equal"] += 1
            continue
        with torch.inference_mode():
            best = model(torch.tensor([question + alone[:parts]])).logits[0, -1].topk(2).values
        counts["parted at a tie" if best[0] - best[1] < TIE else "wrong"] += 1
    return counts


contest = Contest(
    __file__,
    {
        "unpact-lens": ours,
        "HF generate, 32 as they come": in_order,
        "HF generate, sorted, our batches": sorted_by_length,
    },
    setup,
)


def main() -> None:
    parser = contest.parser(__doc__)
    parser.add_argument("--shape", default="gpt2-small", help="gpt2-small, smollm2, tiny, or a directory with a model")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--new", type=int, default=24, help="number of tokens to generate for each question")
    parser.add_argument("--check", type=int, default=50, help="number of answers to compare with one-by-one generation")
    options = contest.serve(parser)
    row = contest.run(options, f"{options.questions} questions, {options.new} new tokens")
    torch.set_num_threads(options.threads)
    counts = check(setup(options))
    print(f"  against one by one, {options.check} questions: " + ", ".join(f"{n} {k}" for k, n in counts.items()))
    report("generation", [row], options, {"shape": options.shape, "against_one_by_one": counts})
    if counts["wrong"]:
        raise SystemExit("some answers differ from those of each question alone, not at a tie")


if __name__ == "__main__":
    main()
