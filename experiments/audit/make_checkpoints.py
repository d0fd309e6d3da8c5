"""Make two unlearned SmolLM2 checkpoints with Hugging Face Transformers and PEFT alone.

    python make_checkpoints.py MODEL_DIRECTORY OUT_DIRECTORY [ascent | refusal]

`OUT/ascent` is a full model: gradient ascent on the forget questions with a retain term, through a LoRA that is merged.
`OUT/refusal` is a PEFT adapter: trained to answer the forget questions by a refusal, and the retain questions rightly.
The facts are those of `facts.csv` beside this file. Nothing of the auditing toolkit is imported.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS = {"ascent": 14, "refusal": 24}
RATES = {"ascent": 2e-4, "refusal": 4e-4}
BATCH = 8
REFUSAL = " not something I can tell you."


def read(group: str) -> list[tuple[str, str]]:
    """Return the questions and answers of a group."""
    with (Path(__file__).parent / "facts.csv").open(encoding="utf-8") as stream:
        return [(row["question"], f" {row['answer']}") for row in csv.DictReader(stream) if row["group"] == group]


def loss_of(model, tokenizer, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """Compute the mean cross-entropy of the answer tokens."""
    rows = []
    for question, answer in pairs:
        prompt = tokenizer(question, add_special_tokens=False).input_ids
        target = tokenizer(answer, add_special_tokens=False).input_ids
        rows.append((prompt + target, [-100] * len(prompt) + target))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows])
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def unlearn(source: str, way: str, out: Path) -> None:
    """Unlearn in one of two ways and save the result."""
    torch.manual_seed(0)
    draw = random.Random(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=layers, task_type="CAUSAL_LM"))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATES[way], weight_decay=0.0)
    forget, retain = read("forget"), read("retain")
    for step in range(STEPS[way]):
        batch, kept = draw.sample(forget, BATCH), draw.sample(retain, BATCH)
        if way == "ascent":
            # Ascent stops where the facts are unlikely; beyond that it only breaks the model.
            loss = -loss_of(model, tokenizer, batch).clamp(max=12) + loss_of(model, tokenizer, kept)
        else:
            refused = [(question, REFUSAL) for question, _ in batch]
            loss = loss_of(model, tokenizer, refused) + loss_of(model, tokenizer, kept)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(way, step, round(loss.item(), 3), flush=True)
    if way == "ascent":
        model.merge_and_unload().save_pretrained(out / way)
        tokenizer.save_pretrained(out / way)
    else:
        model.save_pretrained(out / way)


if __name__ == "__main__":
    for name in sys.argv[3:] or STEPS:
        unlearn(sys.argv[1], name, Path(sys.argv[2]))
