"""A reader finds each thing by guessing one file name, and no file reaches outside the repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unpact_lens"
FOLDERS = ("src", "tests", "experiments", "benchmarks", "scripts")

WHERE = [
    # The question, the file that a reader guesses, and what must be defined or registered there.
    ("NPO's registration", "unlearning/methods/npo.py", '"npo"'),
    ("RMU's registration", "unlearning/methods/rmu.py", '"rmu"'),
    ("the NPO loss", "unlearning/losses.py", "def npo("),
    ("early stopping", "unlearning/early_stopping.py", "class StopRule"),
    ("the prefill probe", "recovery/probes/prefill.py", '"prefill"'),
    ("the quantisation probe", "recovery/probes/quantize.py", "quantize_4"),
    ("the relearning probe", "recovery/probes/relearn.py", '"relearn"'),
    ("ROUGE-L", "evaluation/rouge.py", "rouge_l"),
    ("the verdict", "evaluation/verdict.py", "def verdict("),
    ("TOFU's forget quality", "evaluation/tofu.py", "forget_quality"),
    ("the emphasis templates", "data/emphasis.py", "focus_list"),
    ("the TOFU loader", "data/tofu.py", "def tofu("),
    ("attribute_many", "attribution/attribute_many.py", "def attribute_many("),
    ("leave-one-out", "attribution/leave_one_out.py", "leave_one_out"),
    ("the KS test", "stats/ks.py", "def "),
    ("the bootstrap", "stats/bootstrap.py", "def "),
    ("the Wilson interval", "stats/intervals.py", "wilson"),
    ("the type of every interval", "stats/estimate.py", "class Estimate"),
    ("the tied-embedding rule", "models/tied_embedding.py", "def "),
    ("the KV cache", "models/kv_cache.py", "class "),
    ("ul.diff", "comparison/diff.py", "def diff("),
    ("ul.average", "comparison/average.py", "def average("),
    ("the unlearning depth score", "comparison/unlearning_depth.py", "def unlearning_depth("),
    ("activation patching", "comparison/patch.py", "def patch("),
    ("the options of every call that asks a model", "models/asking.py", "class AskingOptions"),
]


@pytest.mark.parametrize(("question", "file", "content"), WHERE, ids=[question for question, _, _ in WHERE])
def test_a_thing_is_found_by_guessing_its_file(question, file, content):
    assert content in (SOURCE / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_names_a_folder_above_the_repository(folder):
    """`parents[n]` of a file is the repository for n = its depth, and nothing for more."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        depth = len(file.relative_to(ROOT).parts) - 1
        used = [int(n) for n in re.findall(r"__file__\)(?:\.resolve\(\))?\.parents\[(\d+)\]", file.read_text("utf-8"))]
        assert all(n <= depth for n in used), f"{file}: parents[{max(used)}], the repository is parents[{depth}]"
