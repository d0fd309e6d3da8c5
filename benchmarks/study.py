"""Run a whole study of a model with random weights, and measure its memory and time.

    python benchmarks/study.py --size 1 --out benchmarks/records/study/1.json

The model has Llama's shape (seed 0, bf16) and is written to a temporary directory first. Its facts are its own greedy
answers to random questions. The study has one method that trains adapters, one that trains no weights, and no control:
scores, contributions, diffs, emphasis, prefill, quantisation, relearning by adapters, verdict and report. It runs in a
process of its own. The peak is the resident set of that process, with all libraries; model files that are mapped into
memory count as soon as they are read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from common import machine, peak_mb
from models import tokenizer
from scale_work import SHAPES, Bed, facts_of

FACTS = 12
"""Number of forget facts, and of near retain facts."""


def make(size: str, folder: Path) -> None:
    """Write the model's directory and the facts."""
    bed = Bed(size, argparse.Namespace(device="cpu", dtype="bfloat16"))
    bed.hf("eager").save_pretrained(folder / "model")
    tokenizer(bed.vocabulary).save_pretrained(folder / "model")
    bench = facts_of(bed, FACTS)
    rows = [
        {"prompt": q.prompt, "answer": q.answer, "subject": q.subject, "id": q.id, "group": q.group}
        for q in (*bench.forget, *bench.retain)
    ]
    (folder / "facts.json").write_text(json.dumps(rows), encoding="utf-8")


def study(size: str, folder: Path) -> dict[str, Any]:
    """Run the study, and return its peak of memory and its seconds."""
    from unpact_lens import run_study
    from unpact_lens.study import StudyConfig

    config = StudyConfig.model_validate(
        {
            "name": f"random-{size}B",
            "model": str(folder / "model"),
            "wrap": "bridge",
            "load": {"device": "cpu", "dtype": "bfloat16"},
            "benchmark": "pairs",
            "benchmark_options": {"path": str(folder / "facts.json")},
            "forget_level": 0.2,
            "contributions": {"forget": 2, "retain": 1},
            "diff_examples": 1,
            "methods": [
                {"name": "lora_npo_gdr", "settings": {"rank": 8, "steps": 6, "batch_size": 4, "lr": 1e-3}},
                "in_context",
            ],
            "recovery": {
                "templates": ["focus_list"],
                "probes": ["prefill", "quantize_8", "relearn"],
                "relearn": {"rank": 8, "steps": 4, "batch_size": 4},
            },
        }
    )
    start = time.perf_counter()
    run_study(config, folder / "out")
    model = folder / "model"
    return {
        "size": size,
        "model bytes": sum(f.stat().st_size for f in model.glob("*.safetensors")),
        "peak bytes": int(peak_mb() * 2**20),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1", choices=SHAPES, help="billions of parameters")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/study/1.json"))
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    if options.make:
        make(options.size, options.make)
    elif options.run:
        (options.run / "found.json").write_text(json.dumps(study(options.size, options.run)), encoding="utf-8")
    else:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("make", "run"):
                flags = [f"--{step}={folder}", f"--size={options.size}", f"--threads={options.threads}"]
                subprocess.run([sys.executable, __file__, *flags], check=True)
            found = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
        found["machine"] = machine(options)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found))


if __name__ == "__main__":
    main()
