"""lm-evaluation-harness on an exported model equals the library's own multiple choice."""

import copy
import json
import sys

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.harness import run_harness
from unpact_lens.evaluation.multiple_choice import choose
from unpact_lens.models.load import load_model

QUESTIONS = ["who wrote Hamlet?", "the capital of Japan is", "gold has the symbol", "seven small boats at", "the sea"]
OPTIONS = ["Tokyo", "Au and gold", "sea"]

TASK = """
task: local_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("llama"), tokenizer=tokenizer())


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.jsonl"
    rows = [{"question": q, "choices": OPTIONS, "answer": i % 3} for i, q in enumerate(QUESTIONS)]
    data.write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "local_choice.yaml").write_text(TASK.format(data=data))
    return folder


@pytest.mark.slow
def test_accuracy_on_a_local_task_equals_choose(model, tasks):
    pytest.importorskip("lm_eval", reason="the [harness] extra is not installed")
    scores = run_harness(model, ["local_choice"], task_path=tasks)
    choices = tuple(f" {o}" for o in OPTIONS)
    items = [QA(q, choices[i % 3], id=str(i), choices=choices) for i, q in enumerate(QUESTIONS)]
    assert scores.value("local_choice", "acc") == pytest.approx(choose(model, items).accuracy.value)
    assert scores.to_frame().loc[0, "better"] == "higher"
    with pytest.raises(InputError, match="unknown task 'local_choic'; did you mean 'local_choice'"):
        run_harness(model, ["local_choic"], task_path=tasks)
    with pytest.raises(InputError, match="no number for task 'local_choice' and metric 'f1'"):
        scores.value("local_choice", "f1")


@pytest.mark.slow
@pytest.mark.smollm2
def test_the_harness_distinguishes_a_real_model_from_a_damaged_one(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the [harness] extra is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    wrong = {"Japan": "Lima", "France": "Cairo", "Italy": "Oslo", "Egypt": "Rome", "Cuba": "Paris", "Peru": "Tokyo"}
    right = {"Japan": "Tokyo", "France": "Paris", "Italy": "Rome", "Egypt": "Cairo", "Cuba": "Havana", "Peru": "Lima"}
    rows = [
        {"question": f"The capital of {c} is", "choices": [wrong[c], right[c]], "answer": 1} for c in right
    ]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "local_choice.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    model = load_model("smollm2", wrap="bridge")
    before = run_harness(model, ["local_choice"], task_path=tmp_path)
    items = [
        QA(r["question"], f" {r['choices'][1]}", id=r["question"], choices=tuple(f" {o}" for o in r["choices"]))
        for r in rows
    ]
    assert before.value("local_choice", "acc") == choose(model, items).accuracy.value == 1.0
    destroyed = copy.deepcopy(model)
    with torch.no_grad():
        for weight in destroyed.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.std())
    after = run_harness(destroyed, ["local_choice"], task_path=tmp_path)
    assert after.value("local_choice", "acc") == choose(destroyed, items).accuracy.value


def test_a_missing_harness_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"pip install 'unpact-lens\[harness\]'"):
        run_harness(model, ["arc_easy"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "arc_easy"}, r"tasks='arc_easy'; give a list of task names"),
        ({"tasks": ["a"], "task_path": "/nowhere/at/all"}, "task_path='/nowhere/at/all' is not a directory"),
    ],
)
def test_errors_name_the_bad_input(model, options, message):
    pytest.importorskip("lm_eval", reason="the [harness] extra is not installed")
    with pytest.raises(InputError, match=message):
        run_harness(model, **options)
