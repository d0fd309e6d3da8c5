"""Define what `scale.py` measures: models of Llama's shape with random weights, our work on them, and the peers'."""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from attribution import limit_on
from common import give_back, peak_mb
from models import random_ids, tokenizer, word

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4},
    "narrow": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 32, "num_attention_heads": 4},
    "0.1": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
    "0.5": {"hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 22, "num_attention_heads": 20},
    "1": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "7": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
}  # fmt: skip
"""Shapes by their size in billions of parameters. 1 is TinyLlama's and 7 is LLaMA-2-7B's. `narrow` has the layers of 7
and next to no arithmetic: what its steps take, on few tokens, is the time of the calls."""

RANK, BATCH = 8, 4
"""Rank of the adapters, and examples in the NPO step."""

PROMPT, ANSWER = 30, 8
"""Tokens of prompt and answer in leave-one-out, decomposition and diff."""

SLOW = 4.0
"""Work that takes longer than this, seconds, is timed on its first run and not repeated."""

GIB = 2**30

LEAST = "leave-one-out, the limit"
"""Work whose seconds bound those of any leave-one-out that shares what can be shared."""


class Memory:
    """Measure memory: bytes that torch allocated on a GPU, or the resident set of the process."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.libraries = 0 if self.cuda else self.now()

    def reset(self) -> None:
        """Start a new peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            peak_mb(anew=True)

    def now(self) -> int:
        """Return the bytes in use, on a CPU without what the allocator has kept."""
        if self.cuda:
            return torch.cuda.memory_allocated()
        give_back()
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def peak(self) -> int:
        """Return the peak since `reset`, without the imported libraries."""
        return torch.cuda.max_memory_allocated() if self.cuda else int(peak_mb() * 2**20) - self.libraries

    def sync(self) -> None:
        """Wait for the GPU."""
        if self.cuda:
            torch.cuda.synchronize()


class Bed:
    """Hold the models of one size; each is made when it is first asked for."""

    def __init__(self, size: str, options: argparse.Namespace) -> None:
        self.size, self.options = size, options
        self.vocabulary = 1000 if size in ("tiny", "narrow") else 32000
        self.memory = Memory(options.device)

    def hf(self, attention: str) -> Any:
        """Make the Hugging Face model, on its device and in its dtype from the start."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=self.vocabulary, max_position_embeddings=2048, attn_implementation=attention,
            **SHAPES[self.size],
        )  # fmt: skip
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, self.options.dtype))
        try:
            with torch.device(self.options.device):
                model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(default)
        model.set_attn_implementation(attention)
        return model.eval()

    @cached_property
    def before(self) -> Any:
        """Make the original model, a bridge."""
        from unpact_lens.models.convert import to_bridge

        words = tokenizer(self.vocabulary)
        return to_bridge(self.hf("eager"), words, dtype=getattr(torch, self.options.dtype), own=True)

    @cached_property
    def after(self) -> Any:
        """Make an unlearned model on the same weights: random adapters."""
        from unpact_lens.models.shared_weights import share
        from unpact_lens.unlearning.adapters import Adapters

        after = share(self.before)
        adapters = Adapters(after, None, RANK, 16.0, seed=0)
        generator = torch.Generator(self.options.device).manual_seed(1)
        with torch.no_grad():
            for adapter in adapters.by_name().values():
                adapter.B.normal_(std=0.02, generator=generator)
        adapters.keep()
        return after

    @cached_property
    def peer(self) -> Any:
        """Make the Hugging Face model of the peers."""
        return self.hf("sdpa").requires_grad_(False)

    def drop(self, *names: str) -> None:
        """Free models; they are made again when they are asked for."""
        for name in names:
            self.__dict__.pop(name, None)
        gc.collect()
        if self.memory.cuda:
            torch.cuda.empty_cache()

    def ids(self, count: int, seed: int) -> list[int]:
        """Draw ids that are not special tokens."""
        return random_ids(count, self.vocabulary, seed)


Work = Callable[[Bed, dict[str, Any]], Callable[[], Any] | None]
"""Function that prepares one piece of work and returns what is timed, or None if it wrote its own `seconds`."""


def load(bed: Bed, found: dict[str, Any]) -> None:
    """Build the random model and wrap it as a bridge."""
    start = time.perf_counter()
    weights = bed.before
    bed.memory.sync()
    found["seconds"] = time.perf_counter() - start
    found["parameters"] = sum(p.numel() for p in weights.parameters())


def npo(bed: Bed, found: dict[str, Any]) -> None:
    """Train adapters by NPO, as `unlearn(method="lora_npo", recompute=True)` does after its data are tokenised."""
    from unpact_lens.models.shared_weights import share
    from unpact_lens.models.tokens import Encoded
    from unpact_lens.unlearning.adapters import trained_adapters
    from unpact_lens.unlearning.batch import Examples
    from unpact_lens.unlearning.registry import default_settings, find
    from unpact_lens.unlearning.settings import split
    from unpact_lens.unlearning.trainer import Term, train

    steps, method = bed.options.steps, find("lora_npo")
    given = {"rank": RANK, "recompute": True, "steps": steps, "batch_size": BATCH}
    settings, options = split(given, default_settings(method, bed.before, given), method.options)
    half = bed.options.tokens // 2
    rows = [Encoded((), tuple(ids[:half]), (), tuple(ids[half:])) for ids in examples(bed)]
    data = Examples(rows, bed.before)
    start = time.perf_counter()
    _ = data.log_probs
    bed.memory.sync()
    found["seconds of the reference, once"] = time.perf_counter() - start
    order = torch.arange(BATCH).repeat(steps, 1)
    term = Term("forget", method.forget, method.per, settings.gamma / half, data, order, options)
    after, marks, resident = share(bed.before), [], []

    def on_step(_: int) -> None:
        bed.memory.sync()
        marks.append(time.perf_counter())
        resident.append(bed.memory.now() - bed.memory.libraries)

    with trained_adapters(after, settings, 0) as trained:
        train(after, [term], trained, on_step=on_step)
    found["seconds"] = statistics.median(b - a for a, b in itertools.pairwise(marks))
    found["resident"] = max(resident)


def examples(bed: Bed) -> list[list[int]]:
    return [bed.ids(bed.options.tokens, seed) for seed in range(BATCH)]


def plain_npo(bed: Bed, found: dict[str, Any], once: bool = False) -> None:
    """Train the same with transformers and PEFT; the reference runs at each step, or once."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(bed.peer, config)
    model.enable_input_require_grads()
    bed.peer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    ids = torch.tensor(examples(bed), device=bed.options.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)
    marks, resident, kept, beta, half = [], [], None, 0.1, bed.options.tokens // 2

    def log_p() -> torch.Tensor:
        logits = model(ids[:, :-1], use_cache=False).logits[:, half - 1 :].float()
        return logits.log_softmax(-1).gather(-1, ids[:, half:, None])[..., 0].sum(1)

    for _ in range(bed.options.steps):
        if kept is None or not once:
            with torch.no_grad(), model.disable_adapter():
                kept = log_p()
        loss = -2 / beta * torch.nn.functional.logsigmoid(-beta * (log_p() - kept)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        bed.memory.sync()
        marks.append(time.perf_counter())
        resident.append(bed.memory.now() - bed.memory.libraries)
    found["seconds"] = statistics.median(b - a for a, b in itertools.pairwise(marks))
    found["resident"] = max(resident)
    bed.drop("peer")  # PEFT has changed it


def leave_one_out(bed: Bed, found: dict[str, Any]) -> Callable[[], Any]:
    from unpact_lens.attribution import attribute

    model, x, y = bed.before, bed.ids(PROMPT, 5), bed.ids(ANSWER, 6)
    return lambda: attribute(model, x, y).scores


def plain_leave_one_out(bed: Bed, found: dict[str, Any]) -> Callable[[], Any]:
    """Run one forward pass for the prompt and for each deletion."""
    model, x, y = bed.peer, bed.ids(PROMPT, 5), bed.ids(ANSWER, 6)
    labels = torch.tensor(y, device=bed.options.device)

    @torch.inference_mode()
    def work() -> torch.Tensor:
        means = []
        for row in (x, *(x[:i] + x[i + 1 :] for i in range(PROMPT))):
            logits = model(torch.tensor([(row + y)[:-1]], device=labels.device)).logits[0, -ANSWER:].float()
            means.append(logits.log_softmax(-1).gather(-1, labels[:, None]).mean())
        return (means[0] - torch.stack(means[1:])).cpu()

    return work


def least_leave_one_out(bed: Bed, found: dict[str, Any]) -> Callable[[], Any]:
    """Run one forward pass over the tokens that no method can share, as `limit.py` does; it gives no numbers."""
    task = argparse.Namespace(prefix=0, prompt=PROMPT, answer=ANSWER, every=1, vocabulary=bed.vocabulary)
    return limit_on(bed.peer, task)


def captum_leave_one_out(bed: Bed, found: dict[str, Any]) -> Callable[[], Any]:
    """Run captum's `LLMAttribution` in its fastest correct setting; replacing a token by nothing deletes it."""
    try:
        from captum.attr import FeatureAblation, LLMAttribution, TextTemplateInput
    except ImportError:
        raise RuntimeError("captum not installed") from None
    words = tokenizer(bed.vocabulary)
    attribution = LLMAttribution(FeatureAblation(bed.peer), words)
    values = [f"{word(i)} " for i in bed.ids(PROMPT, 5)]
    inputs = TextTemplateInput("{}" * PROMPT, values, baselines=[""] * PROMPT)
    target = " ".join(word(i) for i in bed.ids(ANSWER, 6))

    @torch.inference_mode()
    def work() -> torch.Tensor:
        return attribution.attribute(inputs, target=target, forward_in_tokens=False).token_attr.mean(0).float().cpu()

    return work


def decompose(bed: Bed, found: dict[str, Any]) -> Callable[[], Any]:
    import unpact_lens as ul

    model, x, y = bed.before, bed.ids(PROMPT, 5), bed.ids(ANSWER, 6)
    return lambda: ul.decompose(model, x, y, by="head").values


def diff(bed: Bed, found: dict[str, Any]) -> Callable[[], Any]:
    import unpact_lens as ul

    models, x, y = (bed.before, bed.after), bed.ids(PROMPT, 5), bed.ids(ANSWER, 6)
    return lambda: ul.diff(*models, x, y).delta_heads


def cell(bed: Bed, found: dict[str, Any]) -> None:
    """Run the parts of a study's cell; the seconds of each part are kept."""
    import unpact_lens as ul

    bench, parts = facts_of(bed), {}
    start = time.perf_counter()
    settings = {"rank": RANK, "steps": 3, "batch_size": BATCH, "lr": 1e-3, "progress": False}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        bed.memory.sync()
        parts[name] = time.perf_counter() - begin
        return result

    after = timed("unlearn", lambda: ul.unlearn(bed.before, bench, method="lora_npo_gdr", **settings)).model
    timed("evaluate", lambda: ul.evaluate(after, bench, before=bed.before))
    timed("attribute", lambda: ul.attribute_many(after, list(bench.forget), progress=False))
    timed("diff", lambda: ul.diff(bed.before, after, bench.forget[0], weights=False))
    again = {"rank": RANK, "steps": 2}
    timed(
        "recover",
        lambda: ul.recover(
            after, bench, before=bed.before, templates=["focus_list"], probes=["relearn"], relearn=again, progress=False
        ),
    )
    found["seconds"], found["seconds of its parts"] = time.perf_counter() - start, parts


def facts_of(bed: Bed, count: int = 6) -> Any:
    """Make a benchmark whose answers are the model's own greedy ones, so that it knows them."""
    from unpact_lens.data.benchmark import QA, Benchmark

    def fact(seed: int, group: str) -> QA:
        ids = bed.ids(8, seed)
        answer: list[int] = []
        for _ in range(3):
            tokens = torch.tensor([ids + answer], device=bed.options.device)
            with torch.no_grad():
                answer.append(int(bed.before(tokens, return_type="logits")[0, -1].argmax()))
        text, said = (" ".join(map(word, part)) for part in (ids, answer))
        return QA(text, f" {said}", subject=f"s{seed}", id=f"{group}{seed}", group=group)

    forget = tuple(fact(100 + i, "forget") for i in range(count))
    near = tuple(fact(200 + i, "near") for i in range(count))
    return Benchmark(name="random", forget=forget, retain=near, max_new_tokens=4)


WORK: dict[str, tuple[str, Work]] = {
    "load": ("unpact-lens", load),
    "NPO step": ("unpact-lens", npo),
    "leave-one-out": ("unpact-lens", leave_one_out),
    "decompose by head": ("unpact-lens", decompose),
    "diff": ("unpact-lens", diff),
    "cell": ("unpact-lens", cell),
    "NPO step, HF + PEFT": ("peer", plain_npo),
    "NPO step, HF + PEFT, reference once": ("peer", lambda bed, found: plain_npo(bed, found, once=True)),
    "leave-one-out, plain loop": ("peer", plain_leave_one_out),
    "leave-one-out, captum": ("peer", captum_leave_one_out),
    LEAST: ("peer", least_leave_one_out),
}
"""Pieces of work with whose model they run on, in the order in which they are measured."""

OURS = {name: name.split(",")[0] for name, (who, _) in WORK.items() if who == "peer"}
"""Our work that each peer's is divided by."""


def measure(bed: Bed, name: str) -> dict[str, Any]:
    """Measure one piece of work; an error is kept as text."""
    who, prepare = WORK[name]
    found: dict[str, Any] = {"size": bed.size, "work": name}
    memory = bed.memory
    try:
        memory.reset()
        if name != "load":
            model = bed.before if who == "unpact-lens" else bed.peer
            if name == "diff":
                _ = bed.after
            found["model bytes"] = sum(p.nbytes for p in model.parameters())
        memory.reset()
        timed = prepare(bed, found)
        if timed is not None:
            found["seconds"], values = repeated(timed, memory, bed.options.repeats)
            if values is not None:
                found["values"] = values.flatten().float().tolist()
        found["peak bytes"] = memory.peak()
        found.setdefault("model bytes", sum(p.nbytes for p in bed.before.parameters()))
        found["peak over model"] = found["peak bytes"] / found["model bytes"]
        if "resident" in found:
            found["resident over model"] = found["resident"] / found["model bytes"]
            found["activations, GiB"] = (found["peak bytes"] - found["resident"]) / GIB
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        if not isinstance(error, RuntimeError) or "captum" not in str(error):
            traceback.print_exc()
    return found


def repeated(work: Callable[[], Any], memory: Memory, repeats: int) -> tuple[float, Any]:
    """Return the median seconds of several runs after a first one, and the result; slow work runs once."""
    seconds = []
    for turn in range(repeats + 1):
        memory.sync()
        start = time.perf_counter()
        values = work()
        memory.sync()
        seconds.append(time.perf_counter() - start)
        if turn == 0 and seconds[0] > SLOW:
            return seconds[0], values
    return statistics.median(seconds[1:]), values
