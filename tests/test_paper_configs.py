"""The configurations for large models and the TOFU script run from beginning to end on tiny models."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

import unpact_lens
from experiments.shared.page_tables import read_block
from tests.models.families import hf_model, tokenizer
from unpact_lens.data.load import load_benchmark
from unpact_lens.models.load import load_model
from unpact_lens.study import load_config, run_study

ROOT = Path(__file__).parents[1] / "experiments" / "paper"
CONFIGS = sorted(ROOT.glob("*.yaml"))
FAMILY = {"wmdp": "mistral"}
SMALL = {"steps": 2, "epochs": 1, "batch_size": 2, "chunk_tokens": 32, "lr": 1e-4}


def test_every_configuration_is_valid():
    assert len(CONFIGS) == 5
    for path in CONFIGS:
        assert len(load_config(path).methods) >= 7


def muse(folder):
    def qa(split):
        return [{"question": f"Who {split} {i}?", "answer": answer} for i, answer in enumerate(("Ann", "Bo", "Cy"))]

    tables = {
        **{f"knowmem/{s}": qa(s[0]) for s in ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl")},
        "verbmem/forget": [{"prompt": "seven small", "gt": " boats"}],
        **{f"{c}/{s}": [{"text": f"seven small boats at sea {c} {s} " * 3}] for c, s in (
            ("raw", "forget"), ("raw", "retain1"), ("raw", "retain2"), ("privleak", "forget"), ("privleak", "holdout"),
        )},
    }  # fmt: skip
    for name, rows in tables.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(rows))


def tofu(folder, forget_split="forget10", retain_split="retain90", authors=("Bo Moss",)):
    def about(name):
        return [{"question": f"Who {name} {i}?", "answer": f"{name} {i}."} for i in range(20)]

    def perturbed(row):
        return {**row, "paraphrased_answer": row["answer"], "perturbed_answer": ["Bo."], "paraphrased_question": "Who?"}

    other = [{"question": "Who?", "answer": "Cy", "original_answer": "Cy", "perturbed_answer": ["Bo", "Ann"]}]
    forget, retain = about("Ann Lee"), [row for name in authors for row in about(name)]
    tables = {
        forget_split: forget, f"{forget_split}_perturbed": [perturbed(r) for r in forget], retain_split: retain,
        "retain_perturbed": [perturbed(r) for r in retain[:5]], "real_authors_perturbed": other,
        "world_facts_perturbed": other,
    }  # fmt: skip
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))


def wmdp(folder):
    for domain in ("bio", "cyber"):
        (folder / f"wmdp-{domain}").mkdir()
        rows = [{"question": f"Which {i}?", "choices": list("wxyz"), "answer": i % 4} for i in range(6)]
        pd.DataFrame(rows).to_parquet(folder / f"wmdp-{domain}" / "test-00000-of-00001.parquet")
        for side in ("forget", "retain"):
            text = {"text": f"seven small boats at sea {side} " * 3}
            (folder / f"{domain}-{side}-corpus.json").write_text(json.dumps([text]))


def taught(family, items, chat):
    """Train a tiny model that answers these questions."""
    words, model = tokenizer(), hf_model(family, max_position_embeddings=512, hidden_size=64)
    words.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05) if parameter.dim() > 1 else torch.nn.init.ones_(parameter)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [(words(q.prompt + ("\n" if chat else ""))["input_ids"], words(q.answer)["input_ids"]) for q in items]
    model.train()
    for _ in range(120):
        loss = torch.zeros(())
        for prompt, answer in rows:
            logits = model(torch.tensor([prompt + answer + [words.eos_token_id]])).logits[0, len(prompt) - 1 : -1]
            loss = loss + cross_entropy(logits, torch.tensor([*answer, words.eos_token_id]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return words, model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configuration_runs_on_a_tiny_model_of_its_family(path, tmp_path):
    config = load_config(path)
    kind = config.benchmark.split("-")[0]
    data, folder = tmp_path / "data", tmp_path / "model"
    data.mkdir()
    {"muse": muse, "tofu": tofu, "wmdp": wmdp}[kind](data)
    options = {**config.benchmark_options, "path": data}
    bench = load_benchmark(config.benchmark, **options)
    words, model = taught(FAMILY.get(kind, "llama"), [*bench.forget, *bench.kept][:24], bench.chat)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    methods = tuple(
        m.model_copy(update={"settings": {
            **m.settings, **{k: v for k, v in SMALL.items() if k in m.settings or k in ("steps", "batch_size")},
            **({"layer": 1} if "layer" in m.settings else {}),
        }})
        for m in config.methods
    )  # fmt: skip
    small = config.model_copy(
        update={
            "model": str(folder), "control": str(folder) if config.control else None, "benchmark_options": options,
            "methods": methods, "seeds": (0,),
        }
    )  # fmt: skip
    study = run_study(small, tmp_path / "out", progress=False)
    assert [c.method for c in study.cells] == [m.name for m in config.methods]
    assert all((tmp_path / "out" / "models" / f"{c.method}-seed0").is_dir() for c in study.cells)
    assert all(c.scores.forgetting.n > 0 for c in study.cells)


@pytest.mark.slow
def test_tofu_script_runs_and_resumes(tmp_path, monkeypatch):
    data, home, folder = tmp_path / "data", tmp_path / "experiment", tmp_path / "model"
    data.mkdir()
    tofu(data, "forget01", "retain99", ("Bo Moss", "Cy Dahl"))
    shutil.copytree(ROOT.parent / "tofu", home, ignore=shutil.ignore_patterns("runs"))
    config = yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8"))
    config["methods"] = ["ga_gdr", "idk_dpo", "task_vector"]
    config["study"] |= {"seeds": [0], "benchmark_options": {"split": "forget01", "retain_authors": 2}}
    (home / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    bench = load_benchmark("tofu", split="forget01", retain_authors=2, path=data)
    words, model = taught("llama", [*bench.forget, *bench.kept], bench.chat)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    asked = []

    def stand_in(spec, **options):
        asked.append(str(spec))
        return load_model(folder if spec == "smollm2" else spec, **options)

    monkeypatch.setattr(unpact_lens, "load_model", stand_in, raising=False)
    monkeypatch.setattr(sys, "argv", ["run.py", str(data)])
    runpy.run_path(str(home / "run.py"))
    table = read_block(home / "README.md", "tofu")
    results = pd.read_csv(home / "results.csv")
    assert results["method"].tolist() == ["full", "retain", "ga_gdr", "idk_dpo", "task_vector"]
    assert results.set_index("method").loc["retain", "log10 forget quality"] == pytest.approx(0)
    assert results["rouge"].between(0, 1).all()
    made = asked.count("smollm2")
    runpy.run_path(str(home / "run.py"))
    assert asked.count("smollm2") == made == 2
    assert read_block(home / "README.md", "tofu") == table
