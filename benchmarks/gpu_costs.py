"""Measure what a 7B model costs on a GPU: a training step, generated and scored tokens; see docs/how-to/clusters.md.

    python benchmarks/gpu_costs.py [OUT.json]

The model has the shape of LLaMA-2-7B and random weights, which cost as much as trained ones. It is the Hugging Face
model that a bridge runs, with fp32 weights, adapters of rank 16 by PEFT, bf16 autocast and recomputed activations, as
`experiments/paper` trains. Needs torch with CUDA, transformers, peft and 40 GB of GPU memory.
"""

import json
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, MICRO = 32, 4
"""Examples in one step, and in one forward pass, of experiments/paper."""


def timed(run, repeat=3):
    """Return the seconds of the fastest of several runs, after one that warms up."""
    run()
    found = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


def half_step(model, tokens):
    """Return a function that computes the gradient of one half of a step (forget or retain), micro-batch by batch."""
    ids = torch.randint(100, 30000, (MICRO, tokens), device="cuda")

    def run():
        for _ in range(BATCH // MICRO):
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(ids, labels=ids).loss
            loss.backward()

    return run


@torch.no_grad()
def greedy(model, rows, prompt, new):
    """Return a function that generates `new` tokens for each of `rows` prompts."""
    ids = torch.randint(100, 30000, (rows, prompt), device="cuda")

    def run():
        with torch.no_grad():
            model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)

    return run


def scored(model, rows, tokens):
    """Return a function that computes the log-probabilities of a batch."""
    ids = torch.randint(100, 30000, (rows, tokens), device="cuda")

    def run():
        with torch.no_grad():
            model(ids).logits.log_softmax(-1)

    return run


def main():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    model.config._attn_implementation = "eager"
    found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    found["parameters"] = sum(p.numel() for p in model.parameters())
    model.eval()
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        found[f"generate 64 x 32 tokens after 60, fp32 {precision}"] = timed(greedy(model, 64, 60, 32), 2)
        found[f"score 64 x 64 tokens, fp32 {precision}"] = timed(scored(model, 64, 64))
        found[f"score 2 x 2048 tokens, fp32 {precision}"] = timed(scored(model, 2, 2048))
        print(json.dumps(found, indent=1), flush=True)
    torch.set_float32_matmul_precision("highest")
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    model.train()
    for tokens in (80, 256, 1024, 2048):
        found[f"half step of {BATCH} x {tokens} tokens"] = timed(half_step(model, tokens), 2)
        found[f"memory of it, GB, {tokens}"] = torch.cuda.max_memory_allocated() / 1e9
        print(json.dumps(found, indent=1), flush=True)
    if sys.argv[1:]:
        with open(sys.argv[1], "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
