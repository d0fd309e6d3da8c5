"""Every public function, with usual and with hostile values for each of its parameters."""

import functools
import importlib
import inspect
import types

import numpy as np
import pandas as pd
import torch

import unpact_lens as ul
from tests.unlearning.conftest import untrained, world
from unpact_lens.attribution import Share, Threshold, TopK, attribute
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.decomposition import decompose
from unpact_lens.recovery import recovery_plan
from unpact_lens.stats import Outcomes
from unpact_lens.stats.estimate import Rate
from unpact_lens.unlearning.settings import Settings

NAN = float("nan")

LEFT_OUT = {
    "auditing.audit": "runs for minutes; its arguments have tests of their own",
    "auditing.read_facts": "reads files; has a fuzz of its own",
    "auditing.compare_audits": "takes audits",
    "auditing.unmet": "takes an audit",
    "auditing.verify_audit": "takes the folder of an audit",
    "auditing.read_requirements": "is called by `unpact audit --require`",
    "meta_evaluate": "takes a pool of models, and runs for minutes",
    "evaluation.embed": "needs the extra [semantic]",
    "evaluation.semantic_similarity": "needs the extra [semantic]",
    "evaluation.entailment": "needs a model that is not shipped",
    "evaluation.judge_answers": "asks an endpoint; see tests/models/test_endpoint_client.py",
    "evaluation.run_harness": "needs the extra [harness]",
    "evaluation.metric": "is a decorator",
    "study.run_study": "runs for minutes; its configuration is fuzzed through `unpact study`",
    "study.clean_study": "needs a study; is fuzzed through `unpact study clean`",
    "study.study_status": "needs a study; is fuzzed through `unpact study status`",
    "study.planned": "needs a study; is fuzzed through `unpact study --dry-run`",
    "study.by_probe": "takes the table of a study",
    "study.dilemma": "takes a study",
    "study.dilemma_by_kind": "takes a study",
    "study.distance_gaps": "takes a study",
    "study.estimates": "takes the table of a study",
    "study.kinds_table": "takes the table of a study",
    "study.probes_over_seeds": "takes a study",
    "study.wide": "takes the table of a study",
    "report.write_report": "takes a study",
    "evaluation.distance_to_reliable": "takes estimates that only a study makes",
    "evaluation.verdict_score": "takes estimates that only a study makes",
    "evaluation.verdict": "takes estimates that only a study makes",
}
"""Public functions that are not called, with the reason."""


@functools.cache
def model(seed=0):
    return untrained("gpt2", n_layers=2, d_model=16, d_head=4, d_mlp=24, dtype=torch.float32, n_ctx=48, seed=seed)


@functools.cache
def broken():
    from unpact_lens.models.checkpoint import clone

    found = clone(model())
    with torch.no_grad():
        found.blocks[1].mlp.W_in[0, 0] = NAN
    return found


@functools.cache
def facts():
    forget, retain = world()
    far = [QA(q.prompt, q.answer, q.paraphrases, q.kind, f"far-{q.id}", q.subject, q.fact_span, "far")
           for q in retain[6:10]]  # fmt: skip
    return forget[:3], retain[:4], far


@functools.cache
def bench():
    forget, near, far = facts()
    return Benchmark(name="small", forget=tuple(forget), retain=(*near, *far), max_new_tokens=3)


@functools.cache
def attributed():
    return tuple(attribute(model(), q.prompt, q.answer) for q in facts()[0][:2])


@functools.cache
def decomposed():
    return [decompose(model(), q.prompt, q.answer) for q in facts()[0][:2]]


@functools.cache
def plan():
    return recovery_plan(bench(), before=model(), probes=("prefill",), progress=False)


RATE = Rate(3, 4)
OUTCOMES = {
    n: Outcomes(torch.tensor([True, False, True, False]), torch.tensor([False, False, True, True])) for n in "ab"
}
PROMPT, ANSWER = "where was ann born", " the town was oslo ."
ROWS = torch.tensor([True, False, True])

USUAL = {
    "model": lambda: [model()],
    "before": lambda: [model()],
    "after": lambda: [model(1)],
    "control": lambda: [model(2)],
    "full": lambda: [model()],
    "retrain": lambda: [model(2)],
    "unlearned": lambda: [model(1)],
    "recipient": lambda: [model()],
    "donor": lambda: [model(1)],
    "big": lambda: [model()],
    "small_after": lambda: [model(1)],
    "small_before": lambda: [model(2)],
    "base": lambda: [model()],
    "reinforced": lambda: [model(1)],
    "reference": lambda: [model(2)],
    "retrained": lambda: [model(2)],
    "prompt": lambda: [PROMPT, [5, 6, 7], torch.tensor([5, 6, 7])],
    "answer": lambda: [ANSWER, [8, 9]],
    "qas": lambda: [facts()[0][:1], facts()[1][:1]],
    "items": lambda: [facts()[0][:2]],
    "forget": lambda: [facts()[0]],
    "retain": lambda: [facts()[1], None],
    "taught": lambda: [facts()[0][:1]],
    "unseen": lambda: [facts()[2]],
    "requests": lambda: [[facts()[0][:1], facts()[0][1:2]]],
    "bench": lambda: [bench()],
    "qa": lambda: [facts()[0][0]],
    "plan": lambda: [plan()],
    "attributions": lambda: [attributed()],
    "results": lambda: [decomposed()],
    "result": lambda: [attributed()[0]],
    "method": lambda: ["leave_one_out"],
    "methods": lambda: [("leave_one_out", "grad_norm")],
    "units": lambda: ["token", "word"],
    "target": lambda: ["log_prob", "logit"],
    "foil": lambda: [None, " rome"],
    "versus": lambda: [None],
    "by": lambda: ["component", "head", "source", "neuron"],
    "what": lambda: ["head", "mlp"],
    "how": lambda: ["zero", "mean"],
    "neurons": lambda: [None, [(0, 1)]],
    "hooks": lambda: [None],
    "heads": lambda: [None, [(0, 1)]],
    "freeze": lambda: [("pattern",)],
    "top": lambda: [3],
    "rule": lambda: [TopK(1)],
    "rules": lambda: [[TopK(1), Share(0.5), Threshold(0.1)]],
    "keys": lambda: [[0], [1, 2]],
    "restore": lambda: ["both"],
    "direction": lambda: ["before_into_after"],
    "unit": lambda: ["layer"],
    "weights": lambda: [True],
    "lens": lambda: ["logit"],
    "lenses": lambda: [None],
    "floor": lambda: [None],
    "floor_lenses": lambda: [None],
    "texts": lambda: [[PROMPT], [PROMPT, ANSWER]],
    "text": lambda: ["the town was oslo", PROMPT],
    "generated": lambda: ["the town was oslo"],
    "gold": lambda: ["oslo"],
    "fact": lambda: ["oslo"],
    "aliases": lambda: [(), ("Oslo",)],
    "prompts": lambda: [[PROMPT]],
    "prefills": lambda: [[""]],
    "seed": lambda: [0, 1],
    "draws": lambda: [4],
    "resamples": lambda: [50],
    "level": lambda: [0.95],
    "batch_tokens": lambda: [None, 64, 4096],
    "max_new_tokens": lambda: [2],
    "steps": lambda: [2],
    "lr": lambda: [1e-3],
    "weight_decay": lambda: [0.0],
    "k": lambda: [1, 2],
    "bits": lambda: [4, 8],
    "gain": lambda: [2.0],
    "progress": lambda: [False],
    "chat": lambda: [False],
    "stop": lambda: [()],
    "track": lambda: [()],
    "track_every": lambda: [1],
    "on_check": lambda: [None, lambda check: check.step > 1],
    "keep": lambda: ["last", "best"],
    "checkpoint_every": lambda: [1],
    "stop_at": lambda: [None, 0.5],
    "values": lambda: [torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0.5, 0.25, 1.0, 0.0])],
    "clusters": lambda: [list("aabb")],
    "first": lambda: [torch.tensor([0.0, 1.0, 1.0, 0.0])],
    "second": lambda: [torch.tensor([1.0, 1.0, 0.0, 0.0])],
    "among": lambda: [None],
    "parts": lambda: [torch.tensor([1.0, 0.0, 1.0, 0.0])],
    "wholes": lambda: [torch.tensor([1.0, 2.0, 1.0, 1.0])],
    "p_values": lambda: [{"a": 0.01, "b": 0.5}],
    "events": lambda: [[1, 0, 2]],
    "sizes": lambda: [[3, 2, 2]],
    "quantile": lambda: [0.5],
    "count": lambda: [1, 0],
    "n": lambda: [4],
    "both": lambda: [3],
    "only_first": lambda: [2],
    "only_second": lambda: [1],
    "neither": lambda: [4],
    "p1": lambda: [0.5],
    "p2": lambda: [0.25],
    "ends1": lambda: [(0.25, 0.75)],
    "ends2": lambda: [(0.1, 0.5)],
    "differences": lambda: [np.array([0.5, -0.5, 1.0])],
    "right_before": lambda: [torch.tensor([True, True, False, True])],
    "nll": lambda: [torch.tensor([3.0, 2.0])],
    "right_after": lambda: [torch.tensor([False, True, False, True])],
    "scores": lambda: [np.array([[0.5, 0.25], [0.25, 1.0], [1.0, 0.0]])],
    "tokens": lambda: [torch.tensor([3, 2])],
    "right": lambda: [ROWS],
    "members": lambda: [[PROMPT, ANSWER]],
    "nonmembers": lambda: [["what is the job of ann", "tell the work of bob"]],
    "true": lambda: [torch.tensor([0.5])],
    "wrong": lambda: [torch.tensor([[0.25, 0.5]])],
    "log_ratio": lambda: [torch.tensor([0.5, -0.5])],
    "components": lambda: [[0.5, 0.25]],
    "digits": lambda: [2],
    "frame": lambda: [pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "|"]})],
    "settings": lambda: [Settings(steps=1)],
    "weight": lambda: [torch.randn(4, 6), 0.5],
    "dim": lambda: [0, 1],
    "pattern": lambda: [torch.rand(1, 2, 3, 3).softmax(-1)],
    "emphasised": lambda: [torch.tensor([True, False, False])],
    "logits": lambda: [torch.randn(2, 5)],
    "wanted": lambda: [torch.tensor([0, 4])],
    "ranks": lambda: [torch.tensor([[1, 2], [3, 4]])],
    "held": lambda: [1],
    "samples": lambda: [4],
    "template": lambda: ["focus_list"],
    "templates": lambda: [("focus_list",)],
    "headline": lambda: [("focus_list",)],
    "words": lambda: [[["ann"], ["ann"]]],
    "where": lambda: ["resid_pre"],
    "sources": lambda: [[0], "answer"],
    "layer": lambda: [0, 1],
    "share": lambda: [0.5],
    "limit": lambda: [1, None],
    "probes": lambda: [("prefill",)],
    "relearn": lambda: [None],
    "options": lambda: [{}],
    "name": lambda: ["builtin"],
    "path": lambda: ["x"],
    "source": lambda: [[{"prompt": PROMPT, "answer": ANSWER}]],
    "retain_split": lambda: [None],
    "split_seed": lambda: [0],
    "spec": lambda: [model()],
    "labelled": lambda: [None],
    "metrics": lambda: [("rouge_l",)],
    "estimate": lambda: [RATE],
    "threshold": lambda: [0.5],
    "outcomes": lambda: [OUTCOMES],
    "truth_ratio": lambda: ["published"],
    "attack": lambda: ["min_k"],
    "window": lambda: [16],
    "minimum": lambda: [0],
    "budget": lambda: [1],
    "space": lambda: [{"lr": (1e-4, 1e-3)}],
    "method_of_unlearning": lambda: ["ga"],
    "subjects": lambda: [["ann"]],
    "drawn": lambda: [1],
    "alpha": lambda: [1.0],
    "overrides": lambda: [{}],
    "bins": lambda: [3],
    "chosen": lambda: [None, [0, 1]],
    "row": lambda: [None],
    "trained": lambda: [Rate(1, 4)],
    "which": lambda: ["rougeL"],
    "config": lambda: [None],
    "unseen_rate": lambda: [0.5],
    "task_vector": lambda: [None],
    "examples": lambda: [4],
}
"""Usual values of a parameter, by its name."""

OF_ONE = {
    "evaluation.forget_quality": {
        "unlearned": lambda: [torch.tensor([0.5, 0.25, 1.0])],
        "retrained": lambda: [torch.tensor([0.5, 0.5, 0.75])],
    },
    "evaluation.privleak": {"unlearned": lambda: [0.5], "retrained": lambda: [0.75]},
    "evaluation.auc": {
        "members": lambda: [torch.tensor([0.5, 1.0])],
        "nonmembers": lambda: [torch.tensor([0.25, 0.5])],
    },
    "evaluation.muse_auc": {
        "members": lambda: [torch.tensor([0.5, 1.0])],
        "nonmembers": lambda: [torch.tensor([0.25, 0.5])],
    },
    "evaluation.log_truth_ratio": {"true": lambda: [torch.tensor([-1.0])], "wrong": lambda: [torch.tensor([[-2.0]])]},
    "evaluation.truth_ratio_forget": {"how": lambda: ["published"]},
    "evaluation.memorised_retention": {"unseen": lambda: [Rate(2, 4)]},
    "evaluation.published": {"name": lambda: ["tofu"]},
    "comparison.focus": {"before": attributed and (lambda: [attributed()]), "after": lambda: [attributed()]},
    "attribution.sensitivity": {"after": lambda: [None, attributed()]},
    "comparison.patch": {"what": lambda: ["resid_pre", "attn_out"], "method": lambda: ["exact", "linear"]},
    "comparison.patch_many": {"what": lambda: ["resid_pre"], "method": lambda: ["exact"]},
    "unlearning.unlearn": {"method": lambda: ["ga", "npo"], "retain": lambda: [facts()[1]]},
    "unlearning.unlearn_sequence": {"method": lambda: ["ga"]},
    "unlearning.log_to": {"run": lambda: [types.SimpleNamespace(log=print)]},
    "unlearning.tune": {"method": lambda: ["ga"]},
    "unlearning.offset": {"weight": lambda: [0.5]},
    "recovery.leak": {"prompts": lambda: [[PROMPT, PROMPT]]},
    "recovery.round_to_bits": {"weight": lambda: [torch.randn(4, 6)]},
    "recovery.relearned": {"settings": lambda: [{"steps": 1}]},
    "decomposition.ablate": {"reference": lambda: [(), (PROMPT,)]},
    "stats.quantiles": {"draws": lambda: [torch.rand(20, 2)]},
    "stats.max_sign_flip_p": {"differences": lambda: [np.array([[0.5, -0.5], [1.0, 0.25]])]},
    "stats.clustered_means": {"values": lambda: [torch.rand(4, 2)]},
    "stats.clustered_ratios": {"parts": lambda: [torch.rand(4, 2)], "wholes": lambda: [torch.rand(4, 2) + 1]},
    "stats.resampled_means": {"values": lambda: [torch.rand(4, 2)]},
    "stats.mean_interval": {"values": lambda: [torch.rand(4)]},
    "evaluation.model_utility": {"components": lambda: [[0.5] * 9]},
    "evaluation.facts_to_decide": {"at_least": lambda: [True]},
    "study.load_config": {"source": lambda: ["demo", {"name": "x"}]},
    "load_benchmark": {"path": lambda: ["x"]},
    "comparison.graft": {"weights": lambda: [["blocks.0.mlp.W_in"]]},
}
"""Usual values of a parameter that means something else in this function."""

ODD = {
    str: ["", " ", "\0", "\n", "😀" * 5, "a" * 200, "../../etc", "{prompt}", "<eos>", "\udc80", "%s%n", "nosuch"],
    int: [0, -1, 2**31, 2**63, 10**30, -(2**63)],
    float: [0.0, -1.0, NAN, float("inf"), -float("inf"), 1e308, 1e-320],
    list: [[], [None], [[]], [NAN], [-1], [2**63], ["", "\0"], [1, "a"]],
    tuple: [(), (None,), ((),), (NAN,), (-1, 2**63), ("",)],
    dict: [{}, {"nosuch": 1}, {"": None}, {"lr": NAN}],
    torch.Tensor: [
        torch.tensor([]),
        torch.tensor([NAN, 1.0]),
        torch.zeros(2, 0),
        torch.tensor(3),
        torch.zeros(1, 1, 1),
    ],
    pd.DataFrame: [pd.DataFrame(), pd.DataFrame({"a": [NAN]})],
    bool: [],
    np.ndarray: [np.zeros(0), np.array([NAN, 1.0]), np.zeros((2, 0)), np.array(3.0), np.zeros((1, 1, 1))],
}
"""Hostile values of each Python type."""

WRONG = [None, 3, NAN, "text", b"bytes", [], {}, object(), torch.zeros(2), print]
"""Values of which most have a wrong type for a parameter."""


@functools.cache
def functions():
    """Return every public function by its name."""
    found = {}
    for home in ul._SUBPACKAGES:
        module = importlib.import_module(f"unpact_lens.{home}")
        for name in sorted(getattr(module, "__all__", [n for n in dir(module) if not n.startswith("_")])):
            value = getattr(module, name, None)
            if inspect.isfunction(value) and value.__module__.startswith("unpact_lens"):
                found.setdefault(value, f"{home}.{name}")
    for name in ul._PUBLIC:
        if inspect.isfunction(value := getattr(ul, name)):
            found.setdefault(value, name)
    return {name: value for value, name in found.items() if not name.startswith("plots.")}


def usual(function, parameter):
    """Return the usual values of a parameter."""
    own = OF_ONE.get(function, {}).get(parameter)
    return (own or USUAL[parameter])()


def known(function, parameter):
    return parameter in OF_ONE.get(function, {}) or parameter in USUAL
