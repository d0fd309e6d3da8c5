"""A study of the embedded model that takes seconds, and whose data another process can read."""

import json

from unpact_lens.data.load import load_benchmark

METHODS = [
    {"name": "ga", "settings": {"lr": 5e-4, "steps": 6, "batch_size": 8, "check_every": 2}},
    {"name": "npo", "settings": {"lr": 5e-4, "steps": 6, "batch_size": 8, "check_every": 2}},
]


def write_table(folder):
    """Write a few facts of the embedded world as a table."""
    bench = load_benchmark("builtin")
    groups = {"forget": bench.forget[:8], "near": bench.near[:8], "far": bench.far[:8], "unknown": bench.unknown[:3]}
    rows = [
        {"id": q.id, "prompt": q.prompt, "answer": q.answer, "fact": q.fact, "subject": q.subject, "group": group,
         "paraphrases": list(q.paraphrases), "wrong_subject": q.wrong_subject}
        for group, items in groups.items() for q in items
    ]  # fmt: skip
    path = folder / "facts.json"
    path.write_text(json.dumps(rows))
    return path


def small_config(folder, **changes):
    """Return the entries of a small study whose table is written into a folder."""
    entries = {
        "name": "small",
        "model": "builtin",
        "control": "builtin-retrain",
        "benchmark": "pairs",
        "benchmark_options": {"path": str(write_table(folder)), "max_new_tokens": 16},
        "threads": 1,
        "contributions": {"forget": 2, "retain": 1},
        "diff_examples": 1,
        "forget_level": 0.1,
        "checkpoint_every": 2,
        "recovery": {"probes": ["prefill"]},
        "methods": METHODS,
    }
    return {**entries, **changes}
