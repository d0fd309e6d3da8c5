"""A reader finds each thing by guessing one file name."""

from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "unpact_lens"

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
