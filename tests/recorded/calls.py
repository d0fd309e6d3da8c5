"""Calls of every public function on fixed small inputs, whose results are recorded.

Each entry of `CALLS` takes no argument and returns a result, which `record.flatten` turns into plain values. The part
of a name before the first dot is a public name of `unpact_lens`, or a topic where the function is not public at the
top.

Where functions move, edit `WHERE` only.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore", message=".*HookedTransformer is deprecated.*")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast  # noqa: E402

import unpact_lens as ul  # noqa: E402

torch.set_num_threads(1)

PUBLIC = (
    "load_model", "Endpoint", "load_benchmark", "from_pairs", "QA", "Corpus", "Benchmark", "log_prob", "attribute",
    "attribute_many", "attribution_methods", "compare_methods", "interactions", "sensitivity", "faithfulness", "TopK",
    "Share", "Threshold", "decompose", "ablate", "path_effects", "lens_curves", "train_tuned_lens", "diff",
    "diff_many", "split_heads", "weight_changes", "activation_changes", "attention_patterns", "lens_changes", "patch",
    "patch_many", "graft", "graft_many", "graft_map", "key_path", "key_path_many", "unlearning_depth", "focus",
    "unlearn", "unlearn_sequence", "methods", "tune", "recover", "evaluate", "Judge", "metrics", "known_facts",
    "agreement", "published", "run_study", "load_config", "write_report", "save", "load", "export_hf", "InputError",
)  # fmt: skip
"""The public names of version 0.1.0."""

_LOSSES = (
    "sequence_sums", "nll", "gradient_ascent", "npo", "simnpo", "dpo", "wga", "satimp", "weighted_ascent",
    "kl_to_reference", "soft_cross_entropy", "undial", "ce_u", "whp_target", "rmu_forget", "rmu_retain",
)  # fmt: skip


def _in(module: str, *names: str, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """Entries of `WHERE` for several functions of one module."""
    return {f"{prefix}{name}": (f"unpact_lens.{module}.{name}",) for name in names}


WHERE: dict[str, tuple[str, ...]] = {
    **{name: (f"unpact_lens.{name}",) for name in PUBLIC},
    **_in("unlearning.losses", *_LOSSES, prefix="losses."),
    **_in("unlearning", "StopRule", "offset", "whp", prefix="unlearning."),
    **_in("unlearning.methods.task_vector", "task_vector", "smallest_coefficient", prefix="unlearning."),
    **_in("unlearning.methods.sparsity_aware", "survivors", "redirected", prefix="unlearning."),
    **_in("unlearning.methods.unpact_select", "token_weights", "chosen_tokens", prefix="unlearning."),
    **_in("unlearning.methods.unpact_recall", "recalled_weights", prefix="unlearning."),
    **_in("unlearning.sequential", "split_requests", prefix="unlearning."),
    **_in("unlearning.settings", "schedule_factor", prefix="unlearning."),
    **_in("stats.intervals", "wilson", "paired_score_interval"),
    **_in("stats.estimate", "Rate", "MeanRate", "Contrast", "lost"),
    **_in("stats.tests", "mcnemar", "holm"),
    **_in("stats.bootstrap", "mean_interval", "resampled_means", "quantiles"),
    **_in("stats.paired", "paired_difference"),
    **_in("stats.ks", "ks_test"),
    **_in("evaluation.verdict", "verdict", "distance_to_reliable", "facts_to_decide"),
    **_in("evaluation.answers", "answer_all", "ask", "normalise", "holds_fact", "fact_right", "fact_tokens"),
    **_in("evaluation.exact_match", "exact_match"),
    **_in("evaluation.rouge", "rouge"),
    **_in("evaluation.degenerate", "degenerate"),
    **_in("evaluation.known_facts", "knowledge", "right_facts"),
    **_in("evaluation.multiple_choice", "choose"),
    **_in("evaluation.judge", "judge_answers"),
    **_in("evaluation.memorisation", "extraction_strength", "exact_memorisation"),
    **_in("evaluation.muse", "muse_rouge", "verbmem", "knowmem"),
    **_in("evaluation.membership_inference", "membership", "privacy_leakage", "auc", "muse_auc", "privleak",
          "loss_score", "zlib_score", "min_k_score", "min_k_plus_plus_score", "vocabulary_moments"),
    **_in("evaluation.tofu", "log_truth_ratio", "truth_ratio_forget", "truth_ratio_keep", "forget_quality",
          "option_probability", "model_utility", "tofu_scores"),
    **_in("evaluation.perplexity", "score_texts", "perplexity"),
    **_in("recovery", "recovery_plan", "run_plan", "leak", "leak_at_k",
          "leak_emphasised", "lens_ranks", "read_out_early", "patched_answers", "quantized", "round_to_bits",
          "relearned", "taught_facts", "scale_attention", "attend_to", "unrelated_fact"),
    "key_words": ("unpact_lens.recovery.emphasis.key_words", "unpact_lens.recovery.probes.emphasis.key_words"),
    **_in("recovery.controls", "random_words", "paraphrase", "wrong_subject"),
    **_in("study", "dilemma", "dilemma_by_kind", "distance_gaps", "kinds_table", "probes_over_seeds", "by_probe",
          "estimates", "wide"),
    **{name: (f"experiments.{module}.{name}",) for module, names in {
        "focus.focus_shift": ("focus_shift", "Compared", "ShiftOptions"),
        "focus.focus_over_seeds": ("focus_over_seeds",),
        "focus.focus_study": ("focus_study",), "sensitivity.conclusions": ("conclusions", "Evidence"),
        "sensitivity.choices": ("Choice",),
        "sensitivity.survival": ("survival", "survival_table"), "forgetting.token_gradients": ("token_gradients",),
    }.items() for name in names},
    "destruction_over_seeds": ("experiments.shared.destruction_over_seeds.destruction_over_seeds",),
    **_in("study.held_out_paraphrases", "split_phrasings"),
    **_in("scoring", "score_rows", "forced_rows"),
    **_in("models.tokens", "encode", "token_strings"),
    **_in("models.generate", "generate_answers", "greedy"),
    **_in("models.checkpoint", "clone", "model_hash", "save_model", "load_checkpoint"),
    **_in("models.builtin", "builtin_quality"),
    **_in("attribution.similarity", "spearman", "jaccard", "entropy", "rank"),
    **_in("comparison.activation_changes", "linear_cka", "kl_divergence"),
    **_in("comparison.weight_changes", "effective_rank"),
    **_in("comparison.unlearning_depth", "depth_score"),
    **_in("stats.bootstrap", "clustered_means", "clustered_ratios"),
    **_in("data.builtin_training", "training_examples"),
    **_in("data.question_kinds", "kind_of"),
    **_in("data.fact_spans", "fact_span_of"),
    **_in("data.emphasis", "EMPHASIS", "unrelated_prefix"),
    "translation": ("unpact_lens.data.translations.translation", "unpact_lens.recovery.probes.translation.translation"),
    **_in("text_tables", "to_markdown", "to_latex"),
    **_in("results", "digest"),
}  # fmt: skip
"""Where each function stands, several paths where it has moved: the first that exists is taken."""


def find(*candidates: str) -> Any:
    """Import the first of several dotted paths that exists."""
    for path in candidates:
        module, _, name = path.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise LookupError(f"none of {', '.join(candidates)} exists; give its new place in WHERE")


def use(name: str) -> Any:
    """Find a function by its entry in `WHERE`."""
    return find(*WHERE[name])


def either(thing: Any, *names: str) -> Any:
    """Give the first of several attributes that a thing has: where an attribute is renamed, add its new name."""
    return next(getattr(thing, name) for name in names if hasattr(thing, name))


CALLS: dict[str, Callable[[], Any]] = {}
"""Name to call."""


def call(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Enter a function into `CALLS`."""

    def enter(function: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in CALLS, name
        CALLS[name] = function
        return function

    return enter


# Inputs: the built-in models and facts, and tiny random models.


@functools.cache
def builtin() -> Any:
    """Load the built-in model."""
    return ul.load_model("builtin")


@functools.cache
def retrain() -> Any:
    """Load its retrain control."""
    return ul.load_model("builtin-retrain")


def moved(model: Any, size: float, seed: int) -> Any:
    """Copy a model and add noise to every weight, `size` times the spread of that weight."""
    after = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(after.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.dtype)
            weight.add_(size * float(weight.std(correction=0)) * noise)
    return after.eval()


@functools.cache
def damaged() -> Any:
    """Make a built-in model that lost some of its facts to noise."""
    return moved(builtin(), 0.45, 3)


@functools.cache
def floor() -> tuple[Any, Any]:
    """Make two models that differ by little noise."""
    return builtin(), moved(builtin(), 0.05, 5)


def all_unseen(made: Any) -> Any:
    """Measure destruction on all retain facts, as version 0.1 did."""
    return replace(made, retain=made.retain[:0], unseen=made.retain)


@functools.cache
def bench() -> Any:
    """Cut the built-in benchmark to a few facts of each group."""
    whole = ul.load_benchmark("builtin", retain_split=None)
    return replace(
        whole,
        forget=tuple(whole.forget[i + k] for i in range(0, 60, 12) for k in (0, 1)),
        retain=(*whole.near[::28], *whole.far[::37]),
        general=whole.general[::9],
        unknown=whole.unknown[:3],
    )


def ask() -> tuple[str, str]:
    """Take the prompt and answer of the first forget fact."""
    return bench().forget[0].prompt, bench().forget[0].answer


PROMPT, ANSWER, FOIL = "the capital of Japan is", " Tokyo", " gold"
"""What the tiny models are asked."""
ITEMS = [(PROMPT, ANSWER), ("gold has the symbol", " Au")]
_TEXT = ("the capital of Japan is Tokyo", "who wrote Hamlet?", "gold has the symbol Au", "seven small boats at sea")


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 320 pieces on four sentences."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*_TEXT, *(" " + t for t in _TEXT)] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def hf_model(family: str, seed: int = 0, step: float = 0.0) -> Any:
    """Make a random Hugging Face model of two layers, every weight drawn here.

    Args:
        family: `"gpt2"` or `"llama"`.
        seed: of the weights.
        step: size of a further random step, for a model "after".
    """
    config = {
        "gpt2": lambda: GPT2Config(vocab_size=320, n_layer=2, n_embd=32, n_head=4, n_positions=96),
        "llama": lambda: LlamaConfig(
            vocab_size=320, num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=96,
        ),
    }[family]()  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    first, second = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=first)
            is_norm = name.endswith("weight") and ("ln_" in name or "norm" in name)
            weight.copy_((1.0 if is_norm else 0.0) + 0.2 * noise)
            weight.add_(step * torch.randn(weight.shape, generator=second))
    return model


@functools.cache
def tiny(family: str, step: float = 0.0) -> Any:
    """Wrap a tiny model: `"gpt2"`, `"llama"`, or `"bridge"` (a Llama as a `TransformerBridge`)."""
    of = "llama" if family == "bridge" else family
    wrap = "bridge" if family == "bridge" else "hooked"
    return ul.load_model(hf_model(of, step=step), tokenizer=tokenizer(), wrap=wrap)


FAMILIES = ("gpt2", "llama", "bridge")


def pair(family: str) -> tuple[Any, Any]:
    """Give a tiny model before and after."""
    return tiny(family), tiny(family, 0.03)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Draw from a standard normal."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def framed(result: Any) -> dict[str, Any]:
    """Give a result and its table."""
    return {"result": result, "frame": result.to_frame()}


@contextmanager
def folder() -> Iterator[Path]:
    """Give a directory that goes when the block ends."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# Models and data.


@call("load_model.builtin")
def _() -> Any:
    return {"builtin": builtin(), "retrain": retrain()}


@call("load_model.tiny")
def _() -> Any:
    ids = torch.tensor([tokenizer()(PROMPT)["input_ids"]])
    with torch.no_grad():
        logits = {family: tiny(family)(ids) for family in FAMILIES}
    return {"logits": logits, "weights": {family: tiny(family) for family in ("gpt2", "llama")}}


def described(benchmark: Any) -> dict[str, Any]:
    """Give counts, a few items, and every text of a benchmark."""
    groups = {g: getattr(benchmark, g) for g in ("forget", "near", "far", "general", "unknown")}
    corpora = {c: getattr(benchmark, c) for c in ("forget_corpus", "retain_corpus", "plain_text")}
    return {
        "counts": {g: len(items) for g, items in groups.items()},
        "first": {g: items[:1] for g, items in groups.items()},
        "texts": {g: [part for q in items for part in (q.prompt, q.answer, *q.paraphrases, *q.perturbed, q.id)]
                  for g, items in groups.items()},
        "spans": {g: [list(q.fact_span or (-1, -1)) for q in items] for g, items in groups.items()},
        "corpora": {c: list(corpus.texts) for c, corpus in corpora.items() if corpus is not None},
        "refusals": list(benchmark.refusals),
        "max_new_tokens": benchmark.max_new_tokens,
    }  # fmt: skip


@call("load_benchmark.builtin")
def _() -> Any:
    return described(ul.load_benchmark("builtin", retain_split=None))


@call("load_benchmark.facts")
def _() -> Any:
    return described(ul.load_benchmark("facts", retain_split=None))


@functools.cache
def table() -> pd.DataFrame:
    """Write a few built-in facts as a table of questions and answers."""
    whole = ul.load_benchmark("builtin", retain_split=None)
    items = (*whole.forget[0:2], *whole.forget[12:14], *whole.forget[24:26], *whole.near[::40], *whole.far[::55],
             *whole.general[:2])  # fmt: skip
    return pd.DataFrame(
        [
            {
                "prompt": q.prompt, "answer": q.answer, "group": q.group, "kind": q.kind, "id": q.id,
                "subject": q.subject, "fact": q.fact, "wrong_subject": q.wrong_subject,
                "paraphrases": list(q.paraphrases[:2]), "perturbed": list(q.perturbed[:2]),
            }
            for q in items
        ]
    )  # fmt: skip


@call("from_pairs")
def _() -> Any:
    return described(ul.from_pairs(table(), max_new_tokens=12, retain_split=None))


@call("QA")
def _() -> Any:
    qa = ul.QA("Where is Oslo?", " It lies in Norway.", fact_span=(12, 18), kind="place", id="q", subject="Oslo")
    return {"qa": qa, "fact": qa.fact, "opening": either(qa, "opening", "answer_prefix")}


@call("Corpus")
def _() -> Any:
    return ul.Corpus(("one text", "another"))


@call("Benchmark")
def _() -> Any:
    made = ul.Benchmark("mine", (ul.QA("a?", " b"),), (ul.QA("c?", " d", group="near"), ul.QA("e?", " f", group="far")))
    return {"made": made, "near": made.near, "far": made.far, "all": made.all_items()}


@call("data.training_examples")
def _() -> Any:
    return [part for pair in use("training_examples")(count=400) for part in pair]


@call("data.rules")
def _() -> Any:
    questions = [("Where was Ann Lee born?", " She was born in Oslo."), ("When did it open?", " In May 1981.")]
    qa = bench().forget[0]
    return {
        "kind": [use("kind_of")(*q) for q in questions],
        "span": [list(use("fact_span_of")(*q) or ()) for q in questions],
        "emphasis": {n: t.apply("Where was Ann Lee born?", ["Ann", "Lee"]) for n, t in use("EMPHASIS").items()},
        "prefixed": use("unrelated_prefix")("Where was Ann born?", "the sea is calm today and blue", 4),
        "translation": use("translation")(qa, "es", "builtin"),
        "random_words": list(use("random_words")(qa, ["Halvan"], 0)),
        "paraphrase": use("paraphrase")(qa, 0),
        "wrong_subject": use("wrong_subject")(qa, ["Halvan"], "focus_list"),
    }


@call("data.split_phrasings")
def _() -> Any:
    return [[list(q.paraphrases) for q in part.forget] for part in use("split_phrasings")(bench(), 2)]


@call("models.encode")
def _() -> Any:
    rows = [use("encode")(builtin(), q.prompt, q.answer) for q in bench().forget]
    return {"rows": rows, "strings": [list(use("token_strings")(builtin(), r.ids)) for r in rows]}


@call("models.generate_answers")
def _() -> Any:
    prompts = [q.prompt for q in bench().all_items()]
    named = {"builtin": builtin(), "retrain": retrain(), "damaged": damaged()}
    found = {n: use("generate_answers")(m, prompts, max_new_tokens=16) for n, m in named.items()}
    small = {f: use("generate_answers")(tiny(f), [p for p, _ in ITEMS], max_new_tokens=6) for f in FAMILIES}
    ids = [list(use("encode")(builtin(), p, " x").context) for p in prompts[:3]]
    return {
        "builtin": found,
        "tiny": small,
        "greedy": [list(r) for r in use("greedy")(builtin(), ids, max_new_tokens=5)],
    }


@call("models.checkpoint")
def _() -> Any:
    with folder() as at:
        use("save_model")(tiny("llama"), at / "model")
        again = use("load_checkpoint")(at / "model")
    same = use("model_hash")(again) == use("model_hash")(tiny("llama")) == use("model_hash")(use("clone")(again))
    return {"same": same, "weights": again}


@call("models.builtin_quality")
def _() -> Any:
    return use("builtin_quality")(builtin(), retrain(), every=24)


@call("scoring.rows")
def _() -> Any:
    rows = [use("encode")(builtin(), q.prompt, q.answer) for q in bench().all_items()]
    return {"scores": use("score_rows")(damaged(), rows), "forced": use("forced_rows")(damaged(), rows)}


@call("log_prob")
def _() -> Any:
    small = {f: ul.log_prob(tiny(f), PROMPT, ANSWER, per_token=True) for f in FAMILIES}
    return {
        "mean": ul.log_prob(builtin(), *ask()),
        "per_token": ul.log_prob(builtin(), *ask(), per_token=True),
        "retrain": ul.log_prob(retrain(), *ask(), per_token=True),
        "prefill": ul.log_prob(builtin(), ask()[0], " Foxhollow.", prefill=" The place was"),
        "tiny": small,
    }


# Attribution.

SMALL: dict[str, dict[str, Any]] = {
    "replace": {"samples": 2},
    "shapley": {"samples": 8, "token": " "},
    "context_cite": {"samples": 24},
    "integrated_gradients": {"steps": 8},
    "smoothgrad": {"samples": 3},
}
"""Options that keep sampled methods short."""

ATTRIBUTIONS = (
    "leave_one_out", "replace", "knockout", "zero_embed", "mean_embed", "shapley", "context_cite", "grad_norm",
    "grad_x_input", "integrated_gradients", "smoothgrad", "attention_rollout", "value_zeroing", "alti_logit", "ov",
)  # fmt: skip
"""Every attribution method of version 0.1.0."""


def _attribution(method: str) -> Callable[[], Any]:
    def run() -> Any:
        options = SMALL.get(method, {})
        on_tiny = {"token": ANSWER} if "token" in options else {}
        return {
            "builtin": framed(ul.attribute(builtin(), *ask(), method=method, seed=0, **options)),
            **{f: ul.attribute(tiny(f), PROMPT, ANSWER, method=method, **{**options, **on_tiny}) for f in FAMILIES},
        }

    return run


for _method in ATTRIBUTIONS:
    CALLS[f"attribute.{_method}"] = _attribution(_method)


@call("attribute.options")
def _() -> Any:
    prompt, answer = ask()
    shapley = {f"shapley {e}": {"method": "shapley", "estimator": e, "samples": 8, "token": " ", "units": "word"}
               for e in ("exact", "permutation", "kernel")}  # fmt: skip
    given: dict[str, dict[str, Any]] = {
        "words": {"units": "word"},
        "sentence": {"units": "sentence", "method": "knockout"},
        "spans": {"units": [(0, 2), (3, 5)]},
        "logit": {"target": "logit"},
        "prob": {"target": "prob"},
        "logit_diff": {"target": "logit_diff", "foil": bench().forget[0].perturbed[1]},
        "gradient of logit": {"target": "logit", "method": "grad_x_input"},
        "prefill": {"prefill": " The place was", "answer": " Foxhollow."},
        "own answer": {"answer": None, "max_new_tokens": 8},
        "batches": {"batch_tokens": 40},
        **shapley,
    }
    return {n: ul.attribute(damaged(), prompt, **{"answer": answer, **options}) for n, options in given.items()}


@call("attribute_many")
def _() -> Any:
    items = bench().forget[:3]
    return {
        "gold": ul.attribute_many(builtin(), items, progress=False),
        "own": ul.attribute_many(damaged(), items, answer_free=True, units="word", progress=False),
        "prefill": ul.attribute_many(builtin(), items[:2], prefill="{subject}:", method="grad_x_input", progress=False),
    }


@call("attribution_methods")
def _() -> Any:
    names = set(ul.attribution_methods().index)
    return [*(m for m in ATTRIBUTIONS if m in names), *sorted(names - set(ATTRIBUTIONS))]


@call("compare_methods")
def _() -> Any:
    names = ["leave_one_out", "knockout", "grad_x_input", "smoothgrad"]
    options = {"smoothgrad": SMALL["smoothgrad"]}
    return ul.compare_methods(builtin(), bench().forget[:2], names, options=options, paraphrases=1, progress=False)


@call("interactions")
def _() -> Any:
    return {
        "builtin": framed(ul.interactions(builtin(), *ask(), units="word")),
        **{f: ul.interactions(tiny(f), PROMPT, ANSWER, chosen=[0, 1, 2]) for f in FAMILIES},
    }


@functools.cache
def looks(which: str) -> Any:
    """Attribute a few facts under one of the built-in models."""
    model = {"builtin": builtin, "damaged": damaged, "retrain": retrain}[which]()
    return ul.attribute_many(model, bench().forget[:4], progress=False)


@call("sensitivity")
def _() -> Any:
    return {
        "one": framed(ul.sensitivity(looks("builtin"))),
        "two": ul.sensitivity(looks("builtin"), [ul.TopK(2), ul.Share(0.5), ul.Threshold(0.2)], looks("damaged")),
    }


@call("faithfulness")
def _() -> Any:
    return framed(ul.faithfulness(builtin(), looks("builtin")))


def _keys(rules: Sequence[Any]) -> Any:
    return [[framed(a.key_tokens(rule)) for rule in rules] for a in looks("builtin")[:2]]


@call("TopK")
def _() -> Any:
    return _keys([ul.TopK(3), ul.TopK(2, words=True, skip_punctuation=True, stopwords=("the", "what", "is"))])


@call("Share")
def _() -> Any:
    return _keys([ul.Share(0.8), ul.Share(0.5, words=True)])


@call("Threshold")
def _() -> Any:
    return _keys([ul.Threshold(0.1), ul.Threshold(0.3, skip_punctuation=True)])


@call("attribution.measures")
def _() -> Any:
    a, b = drawn(7, seed=1), drawn(7, seed=2)
    return [use("spearman")(a, b), use("jaccard")([1, 2, 3], [2, 3, 4]), use("entropy")(a.abs()), use("rank")(a, 3)]


# Decomposition.


def _decomposed(by: str) -> Callable[[], Any]:
    def run() -> Any:
        versus = {} if by == "layer" else {"versus": bench().forget[0].perturbed[0]}
        tiny_versus = {} if by == "layer" else {"versus": FOIL}
        return {
            "builtin": framed(ul.decompose(builtin(), *ask(), by=by)),
            "versus": ul.decompose(damaged(), *ask(), by=by, **versus),
            **{f: ul.decompose(tiny(f), PROMPT, ANSWER, by=by, **tiny_versus) for f in FAMILIES},
        }

    return run


for _by in ("component", "head", "source", "neuron", "layer"):
    CALLS[f"decompose.{_by}"] = _decomposed(_by)


@call("ablate")
def _() -> Any:
    texts = [q.prompt for q in bench().retain[:3]]
    kinds: dict[str, dict[str, Any]] = {
        "head": {"what": "head"},
        "head mean": {"what": "head", "how": "mean", "reference": texts},
        "head resample": {"what": "head", "how": "resample", "reference": texts, "draws": 3},
        "neuron": {"what": "neuron", "neurons": [(0, 1), (1, 7)]},
    }
    found = {n: ul.ablate(builtin(), *ask(), **options) for n, options in kinds.items()}
    return {**found, "frame": found["head"].to_frame(), **{f: ul.ablate(tiny(f), PROMPT, ANSWER) for f in FAMILIES}}


@call("path_effects")
def _() -> Any:
    return {
        "builtin": framed(ul.path_effects(builtin(), *ask(), heads=[(0, 1), (1, 2)])),
        "free": ul.path_effects(
            builtin(), *ask(), heads=[(0, 3)], freeze=("norms",), versus=" The place was Oakhurst."
        ),
        **{f: ul.path_effects(tiny(f), PROMPT, ANSWER, heads=[(0, 0)]) for f in FAMILIES},
    }


@functools.cache
def lens(which: str) -> Any:
    """Train a tuned lens for a few steps."""
    model = {"builtin": builtin, "damaged": damaged}[which]()
    return ul.train_tuned_lens(model, [q.prompt + q.answer for q in bench().retain], steps=5, seed=0)


@call("train_tuned_lens")
def _() -> Any:
    return lens("builtin")


@call("lens_curves")
def _() -> Any:
    return {
        "logit": framed(ul.lens_curves(builtin(), *ask())),
        "tuned": ul.lens_curves(builtin(), *ask(), lens=lens("builtin")),
        **{f: ul.lens_curves(tiny(f), PROMPT, ANSWER) for f in FAMILIES},
    }


# One model against another.


@call("diff.builtin")
def _() -> Any:
    found = ul.diff(
        builtin(), damaged(), *ask(), sources=True, split=True, activations=True, weights=False, floor=floor()
    )
    return {
        **framed(found), "contributions": found.contributions_frame(), "sources": found.sources_frame(),
        "delta": [found.delta_log_prob, found.delta_logit, found.delta_components, found.delta_heads],
    }  # fmt: skip


@call("diff.tiny")
def _() -> Any:
    return {f: ul.diff(*pair(f), PROMPT, ANSWER, sources=True) for f in FAMILIES}


@call("split_heads")
def _() -> Any:
    return {
        "builtin": framed(ul.split_heads(builtin(), damaged(), *ask(), pattern_parts=True)),
        **{f: ul.split_heads(*pair(f), PROMPT, ANSWER, pattern_parts=f == "llama") for f in FAMILIES},
    }


@call("weight_changes")
def _() -> Any:
    vector = use("unlearning.task_vector")(builtin(), floor()[1])
    return {
        "builtin": framed(ul.weight_changes(builtin(), damaged(), task_vector=vector, floor=floor())),
        **{f: ul.weight_changes(*pair(f)) for f in FAMILIES},
    }


@call("activation_changes")
def _() -> Any:
    found = ul.activation_changes(builtin(), damaged(), *ask(), floor=floor())
    return {
        **framed(found),
        "kl": found.kl_frame(),
        **{f: ul.activation_changes(*pair(f), *ITEMS[0]) for f in FAMILIES},
    }


@call("attention_patterns")
def _() -> Any:
    return {
        "builtin": framed(ul.attention_patterns(builtin(), damaged(), *ask(), top=2)),
        **{f: ul.attention_patterns(*pair(f), *ITEMS[0], heads=[(0, 1), (1, 3)]) for f in FAMILIES},
    }


@call("lens_changes")
def _() -> Any:
    lenses = (lens("builtin"), lens("damaged"))
    return {
        "logit": framed(ul.lens_changes(builtin(), damaged(), *ask(), floor=floor())),
        "tuned": ul.lens_changes(builtin(), damaged(), *ask(), lenses=lenses),
        **{f: ul.lens_changes(*pair(f), *ITEMS[0]) for f in FAMILIES},
    }


@call("patch")
def _() -> Any:
    places = ("resid_pre", "resid_post", "attn_out", "mlp_out", "head", "attn", "mlp", "layer")
    found = {what: ul.patch(builtin(), damaged(), *ask(), what=what) for what in places}
    back = ul.patch(builtin(), damaged(), *ask(), what="head", direction="after_into_before", floor=floor())
    gradient = ul.patch(builtin(), damaged(), *ask(), what="head", method="gradient", check=True)
    small = {f: [ul.patch(*pair(f), PROMPT, ANSWER, what=what) for what in ("resid_pre", "head")] for f in FAMILIES}
    return {**found, "frame": found["head"].to_frame(), "back": framed(back), "gradient": framed(gradient), **small}


@call("graft")
def _() -> Any:
    mixed = ul.graft(damaged(), builtin(), ["*attn*"])
    small = {f: ul.log_prob(ul.graft(*pair(f), "*mlp*"), PROMPT, ANSWER, per_token=True) for f in FAMILIES}
    return {"weights": mixed, "log_prob": ul.log_prob(mixed, *ask(), per_token=True), **small}


@call("graft_map")
def _() -> Any:
    return {
        "matrix": framed(ul.graft_map(builtin(), damaged(), *ask())),
        "layer": ul.graft_map(builtin(), damaged(), *ask(), unit="layer", direction="after_into_before", floor=floor()),
        **{f: ul.graft_map(*pair(f), *ITEMS[0], unit="layer") for f in FAMILIES},
    }


@call("key_path")
def _() -> Any:
    return {
        "moved": framed(ul.key_path(builtin(), damaged(), *ask(), keys=ul.TopK(3), draws=3, floor=floor())),
        "pattern": ul.key_path(builtin(), damaged(), *ask(), restore="pattern", draws=2),
        **{f: ul.key_path(*pair(f), *ITEMS[0], keys=[1, 2], draws=2) for f in FAMILIES},
    }


@call("unlearning_depth")
def _() -> Any:
    items = bench().forget[:3]
    found = ul.unlearning_depth(builtin(), retrain(), damaged(), items, floor=floor(), resamples=100)
    small = {f: ul.unlearning_depth(*pair(f), tiny(f, 0.05), ITEMS, threshold=0.0, resamples=50) for f in FAMILIES}
    return {**framed(found), "layers": found.layers_frame(), **small}


@call("focus")
def _() -> Any:
    found = ul.focus(looks("builtin"), looks("damaged"), resamples=200, floor=(looks("builtin"), looks("retrain")))
    return {
        **framed(found),
        "items": found.items(),
        "share": ul.focus(looks("builtin"), looks("retrain"), ul.Share(0.8)),
    }


@call("comparison.measures")
def _() -> Any:
    a, b = drawn(6, 5, seed=1), drawn(6, 5, seed=2)
    subjects = ["x", "x", "y", "y", "z", "z"]
    return {
        "cka": use("linear_cka")(a, b),
        "kl": use("kl_divergence")(a, b),
        "rank": use("effective_rank")(a.abs()[0]),
        "depth": use("depth_score")(a.abs(), b.abs(), 0.05),
        "means": use("clustered_means")(a.double(), subjects, 0.95, 200, 0),
        "ratios": use("clustered_ratios")(a.double(), b.double().abs()[:, 0], subjects, 0.95, 200, 0),
    }


MANY = {
    "diff_many": ("diff", {"contributions": False, "weights": False}),
    "patch_many": ("patch", {"what": "head"}),
    "key_path_many": ("key_path", {}),
}
"""Former calls over several questions: the call for one question, and the defaults that differ."""


def many(name: str, *models_: Any, items: Sequence[Any], **options: Any) -> Any:
    """Measure over several questions, averaged."""
    if name not in MANY:
        return getattr(ul, name)(*models_, items, resamples=100, **options)
    single, defaults = MANY[name]
    measure = getattr(ul, single)
    asked = {**defaults, **options}
    found = (measure(*models_, *(item if isinstance(item, tuple) else (item,)), **asked) for item in items)
    return ul.average(found, resamples=100)


@call("diff_many")
def _() -> Any:
    items = bench().forget[:3]
    options = {"contributions": True, "split": True, "activations": True}
    found = many("diff_many", builtin(), damaged(), items=items, floor=floor(), **options)
    small = {f: many("diff_many", *pair(f), items=ITEMS) for f in FAMILIES}
    return {**framed(found), "heads": found.heads_frame(), **small}


@call("patch_many")
def _() -> Any:
    items = bench().forget[:3]
    return {
        "head": framed(many("patch_many", builtin(), damaged(), items=items, floor=floor())),
        "gradient": many("patch_many", builtin(), damaged(), items=items, what="head", method="gradient"),
        **{f: many("patch_many", *pair(f), items=ITEMS, what="layer") for f in FAMILIES},
    }


@call("graft_many")
def _() -> Any:
    found = many("graft_many", builtin(), damaged(), items=bench().forget[:3], floor=floor())
    return {**framed(found), **{f: many("graft_many", *pair(f), items=ITEMS, unit="layer") for f in FAMILIES}}


@call("key_path_many")
def _() -> Any:
    found = many("key_path_many", builtin(), damaged(), items=bench().forget[:3], draws=2)
    small = {f: many("key_path_many", *pair(f), items=ITEMS, keys=[1], draws=2) for f in FAMILIES}
    return {**framed(found), "heads": found.heads_frame(), **small}


# Unlearning.

QUICK: dict[str, Any] = {"lr": 5e-4, "steps": 3, "batch_size": 4, "seed": 0, "progress": False, "end_token": False}
"""A short run. Version 0.1 did not train the token that ends an answer."""

OWN: dict[str, dict[str, Any]] = {
    "whp": {"reinforce_steps": 2, "reinforce_lr": 5e-4},
    "rmu": {"lr": 1e-3},
}
"""Options by the beginning of a method's name."""

SUFFIXES = ("", "_gdr", "_klr")
UNLEARNING = (
    *(base + suffix for base in (
        "ga", "npo", "simnpo", "idk_ft", "idk_dpo", "dpo", "altpo", "whp", "undial", "wga", "satimp", "ce_u", "offset",
        "unpact_select", "unpact_select_npo", "unpact_select_simnpo", "unpact_recall", "unpact_recall_npo",
        "unpact_blind",
    ) for suffix in SUFFIXES),
    "task_vector", "rmu", "sparsity_aware", "whp_inference", "o3", "lora_ga_gdr", "lora_npo",
)  # fmt: skip
"""Every unlearning method of version 0.1.0, and two with adapters."""


def unlearned(method: str, **changes: Any) -> Any:
    """Run a method for three steps on the built-in model."""
    own = next((options for start, options in OWN.items() if method.startswith(start)), {})
    if method.startswith("offset"):
        own = {"small": damaged()}
    return ul.unlearn(builtin(), bench(), method=method, **{**QUICK, **own, **changes})


def outcome(run: Any) -> dict[str, Any]:
    """Give what an unlearned model is like: its weights, losses and likelihoods of the facts."""
    items = bench().all_items()
    members = tuple(getattr(run.model, "members", ()))
    return {
        "weights": dict(enumerate(members)) if members else run.model,
        "history": run.history.to_frame().drop(columns=["seconds"], errors="ignore"),
        "order": [run.history.forget_order, run.history.retain_order],
        "log_probs": [ul.log_prob(run.model, q.prompt, q.answer) for q in items],
        "answers": use("generate_answers")(run.model, [q.prompt for q in items[:8]], max_new_tokens=10),
        "forget_score": run.forget_score,
    }


def _unlearn(method: str) -> Callable[[], Any]:
    return lambda: outcome(unlearned(method))


for _method in UNLEARNING:
    CALLS[f"unlearn.{_method}"] = _unlearn(_method)


@call("unlearn.stop_at")
def _() -> Any:
    rule = use("unlearning.StopRule")(forget=0.5, retain=0.2)
    runs = {
        "level": unlearned("ga", steps=12, check_every=2, stop_at=0.5),
        "rule": unlearned("ga_gdr", steps=8, check_every=2, stop_at=rule),
        "coefficient": unlearned("task_vector", steps=4, stop_at=0.5),
    }
    return {name: outcome(run) for name, run in runs.items()}


@call("unlearn.settings")
def _() -> Any:
    given: dict[str, dict[str, Any]] = {
        "micro batch": {"micro_batch": 2, "schedule": "cosine", "warmup": 1, "weight_decay": 0.1},
        "all phrasings": {"phrasings": "all", "batch_size": 8},
        "share": {"method": "unpact_select", "share": 0.3},
        "chance": {"method": "unpact_select", "share": 0.3, "pick": "chance"},
        "tracked": {"track": bench().forget[:2], "track_every": 2},
    }
    found = {n: unlearned(**{"method": "npo_gdr", **options}) for n, options in given.items()}
    return {**{n: outcome(run) for n, run in found.items()}, "trajectory": found["tracked"].history.focus(ul.TopK(3))}


@call("unlearn.tiny")
def _() -> Any:
    items = [ul.QA(p, a, id=p, kind="entity") for p, a in ITEMS]
    kept = [ul.QA("who wrote", " Hamlet?", id="kept", group="far")]
    runs = {f: ul.unlearn(tiny(f), items, kept, method="npo_gdr", **QUICK) for f in FAMILIES}
    corpus = ul.unlearn(tiny("llama"), ul.Corpus(_TEXT[:2]), ul.Corpus(_TEXT[2:]), method="ga_gdr", **QUICK)
    rmu = ul.unlearn(tiny("gpt2"), items, kept, method="rmu", layer=1, **QUICK)
    return {n: [r.model, r.history.to_frame()] for n, r in {**runs, "corpus": corpus, "rmu": rmu}.items()}


@call("unlearn_sequence")
def _() -> Any:
    requests = use("unlearning.split_requests")(list(bench().forget), 2)
    settings = {**QUICK, "max_new_tokens": 10}
    found = ul.unlearn_sequence(builtin(), requests, bench().retain, unseen=bench().retain, method="ga_gdr", **settings)
    gated = ul.unlearn_sequence(
        builtin(), requests, bench().retain, unseen=bench().retain, method="o3", rank=2, **settings
    )
    return {
        **{n: {"f": s.forgotten, "d": s.destroyed} for n, s in (("ga", found), ("o3", gated))},
        "model": found.model,
    }


@call("methods")
def _() -> Any:
    frame = ul.methods()
    numbers = [{k: v for k, v in d.items() if isinstance(v, (int, float, bool))} for d in frame["defaults"]]
    return {"name": list(frame["name"]), "needs_retain": list(frame["needs_retain"]), "defaults": numbers}


@call("tune")
def _() -> Any:
    fixed = {"steps": 3, "check_every": 1, "batch_size": 4, "end_token": False}
    return framed(
        ul.tune("ga_gdr", builtin(), replace(bench(), validation=bench().retain), budget=2, level=0.5, seed=0, **fixed)
    )


@call("unlearning.losses")
def _() -> Any:
    log_probs, reference = (-drawn(3, 5, seed=s).abs() for s in (1, 2))
    logits, other = drawn(3, 5, 7, seed=3), drawn(3, 5, 7, seed=4)
    labels = torch.arange(15).reshape(3, 5) % 7
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    given: dict[str, tuple[Any, ...]] = {
        "sequence_sums": (log_probs, mask),
        "nll": (log_probs, mask),
        "gradient_ascent": (log_probs, mask),
        "npo": (log_probs, reference, mask, 0.1),
        "simnpo": (log_probs, mask, 4.5, 0.1),
        "dpo": (*(-drawn(4, seed=s).abs() for s in (5, 6, 7, 8)), 0.1, 20.0),
        "wga": (log_probs, mask, 2.0),
        "satimp": (log_probs, mask, 5.0, 1.0),
        "weighted_ascent": (log_probs, drawn(3, 5, seed=9).sigmoid(), mask),
        "kl_to_reference": (logits, other, mask),
        "soft_cross_entropy": (logits, other, mask),
        "undial": (logits, other, labels, mask, 10.0),
        "ce_u": (logits, labels, mask),
        "whp_target": (logits, other, 5.0),
        "rmu_forget": (logits, drawn(7, seed=10), 6.5, mask),
        "rmu_retain": (logits, other, mask),
    }
    found: dict[str, Any] = {}
    for name, arguments in given.items():
        first = arguments[0].clone().requires_grad_()
        value = use(f"losses.{name}")(first, *arguments[1:])
        found[name] = {"value": value.detach(), "gradient": torch.autograd.grad(value.sum(), first)[0]}
    return found


@call("unlearning.parts")
def _() -> Any:
    grad, weight = drawn(6, 5, seed=1), drawn(6, 5, seed=2)
    mask = use("unlearning.survivors")(weight, 0.4)
    whp = use("unlearning.whp")(builtin(), damaged(), 2.0)
    offset = use("unlearning.offset")(builtin(), damaged(), retrain(), 0.5)
    reached: list[float] = []
    return {
        "mask": mask,
        "redirected": use("unlearning.redirected")(grad, weight, mask, 2.0),
        "token_weights": use("unlearning.token_weights")(grad, [0, 2]),
        "chosen": use("unlearning.chosen_tokens")(weight[0], 0.4),
        "recalled": use("unlearning.recalled_weights")(
            grad[0], grad[1, :4], torch.tensor([True] * 4 + [False]), torch.tensor([False, True, False, False, False])
        ),
        "schedule": [use("unlearning.schedule_factor")(i, 10, 3, s) for s in ("constant", "cosine") for i in range(10)],
        "coefficient": use("unlearning.smallest_coefficient")(lambda a: (reached.append(a), a >= 5.3)[1]),
        "tried": reached,
        "whp": [ul.log_prob(whp, q.prompt, q.answer) for q in bench().forget],
        "offset": [ul.log_prob(offset, q.prompt, q.answer) for q in bench().forget],
    }


# Evaluation.


@functools.cache
def measured() -> dict[str, Any]:
    """Evaluate the damaged model beside the others."""
    made = all_unseen(bench())
    before, control = ul.evaluate(builtin(), made), ul.evaluate(retrain(), made)
    return {"before": before, "after": ul.evaluate(damaged(), made, before=before, reference=control)}


@call("evaluate.default")
def _() -> Any:
    after = measured()["after"]
    frame = after.to_frame()
    known_to_0_1 = ~frame["metric"].isin(["destruction_trained", "memorised_retention"])
    return {
        "before": measured()["before"], "result": after, "frame": frame[known_to_0_1], "items": after.items_frame(),
        "by_kind": after.by_kind(),
        "estimates": {
            name: [e.value, e.low, e.high, e.n]
            for name in ("forgetting", "destruction", "destruction_near", "destruction_far", "destruction_general")
            for e in [getattr(after, name)]
        },
        "perplexity": [after.perplexity, after.perplexity_before, after.perplexity_reference],
    }  # fmt: skip


@functools.cache
def whole_bench() -> Any:
    """Give the benchmark what the metrics of a whole benchmark need: passages, members, options, TOFU's sets."""
    made = bench()
    retain = tuple(replace(q, choices=(q.answer, *q.perturbed[:2])) for q in made.retain)
    general = tuple(
        replace(q, meta={"set": ("real_authors", "world_facts")[i % 2]}) for i, q in enumerate(made.general)
    )
    texts = [q.prompt + q.answer for q in (*made.forget, *made.retain)]
    passages = tuple(ul.QA(" ".join(t.split()[:4]), " " + " ".join(t.split()[4:]), id=str(i))
                     for i, t in enumerate(made.plain_text.texts[:3]))  # fmt: skip
    return replace(
        made, retain=retain, general=general, verbatim=passages, members=ul.Corpus(tuple(texts[:4])),
        holdout=ul.Corpus(tuple(texts[6:10])),
    )  # fmt: skip


WHOLE = (
    "truth_ratio_forget", "forget_quality_log10", "model_utility", "verbmem", "knowmem_forget", "knowmem_retain",
    "privleak", "accuracy", "mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_reference",
)  # fmt: skip


@call("evaluate.whole")
def _() -> Any:
    return framed(ul.evaluate(damaged(), whole_bench(), list(WHOLE), reference=retrain()))


@call("evaluate.tiny")
def _() -> Any:
    items = tuple(ul.QA(p, a, id=p, subject=p) for p, a in ITEMS)
    made = ul.Benchmark("tiny", items, (ul.QA("who wrote", " Hamlet?", id="k", group="far"),), max_new_tokens=4)
    names = ["fact_span", "probability", "exact_memorisation", "extraction_strength", "rouge_l"]
    return {f: ul.evaluate(tiny(f), made, names) for f in FAMILIES}


@call("metrics")
def _() -> Any:
    return ul.metrics()[["low", "high", "better", "of"]]


@call("known_facts")
def _() -> Any:
    kept = ul.known_facts(retrain(), bench())
    return {
        "forget": [q.id for q in kept.forget],
        "unknown": [q.id for q in kept.unknown],
        "retain": [q.id for q in kept.retain],
        "knowledge": use("knowledge")(damaged(), bench()),
        "right": use("right_facts")(damaged(), bench().forget, bench=bench()),
    }


@call("agreement")
def _() -> Any:
    names = [n for n in ("exact_match", "rouge_l", "rouge_l_recall", "fact_span", "rouge_1") if n in _answer_metrics()]
    found = ul.agreement(names)
    return {"frame": found.to_frame(), "cases": found.by_case(), "scores": found.scores}


def _answer_metrics() -> Sequence[str]:
    return list(ul.agreement().metrics)


@call("published")
def _() -> Any:
    names = ("muse-news", "muse-books")
    tables = {n: ul.published(n) for n in names}
    mine = {"mine": {"verbmem_f": 1.0, "privleak": -3.0}}
    return {"frames": {n: t.to_frame() for n, t in tables.items()}, "beside": tables["muse-news"].beside(mine)}


@call("evaluation.answers")
def _() -> Any:
    qa = bench().forget[0]
    texts = (" The place was Foxhollow.", " the place was foxhollow", " Foxhollow Foxhollow Foxhollow Foxhollow.", "")
    return {
        "answers": framed(use("answer_all")(damaged(), bench().forget, bench=bench())),
        "ask": use("ask")(damaged(), [qa.prompt], [" The"], bench=bench()),
        "normalise": [use("normalise")(t) for t in texts],
        "holds": [use("holds_fact")(t, qa.fact) for t in texts],
        "right": [[use(f)(t, qa) for t in texts] for f in ("fact_right", "exact_match")],
        "rouge": [list(use("rouge")(t, qa, which)) for t in texts for which in ("rougeL", "rouge1")],
        "degenerate": [use("degenerate")(t) for t in texts],
        "fact_tokens": [
            list(use("fact_tokens")(builtin(), use("encode")(builtin(), q.prompt, q.answer), q)) for q in bench().forget
        ],
        "muse_rouge": [use("muse_rouge")(t, qa.answer) for t in texts],
    }


@call("evaluation.rates")
def _() -> Any:
    rate, other = use("Rate")(7, 20), use("Rate")(2, 15)
    estimates = {"rate": rate, "mean": use("MeanRate")((rate, other)), "contrast": use("Contrast")(rate, other)}
    first, second = (drawn(3, 12, seed=s) > 0.2 for s in (1, 2))
    subjects = [f"s{i // 2}" for i in range(12)]
    difference = use("paired_difference")(first, second, subjects)
    among = use("paired_difference")(first[:1], second[:1], subjects, among=drawn(1, 12, seed=3) > -0.5)
    return {
        **{
            n: [e.value, e.low, e.high, e.n] for n, e in {**estimates, "difference": difference, "among": among}.items()
        },
        "p": [difference.p, among.p],
        "wilson": [list(use("wilson")(*c)) for c in ((0, 5), (3, 9), (9, 9), (4, 11, 0.8))],
        "paired": [list(use("paired_score_interval")(*c)) for c in ((10, 3, 1, 6), (0, 5, 0, 2))],
        "lost": use("lost")(first[0], second[0]),
        "mcnemar": [use("mcnemar")(*c) for c in ((3, 1), (0, 8), (5, 5))],
        "holm": use("holm")({"a": 0.01, "b": 0.04, "c": None, "d": 0.03}),
    }


@call("evaluation.bootstrap")
def _() -> Any:
    values, subjects = drawn(2, 12).double(), [f"s{i // 3}" for i in range(12)]
    values[0, 3] = float("nan")
    means = use("resampled_means")(values, subjects, draws=300, seed=1)
    return {
        "interval": list(use("mean_interval")(values, subjects, draws=300, seed=0)),
        "single": list(use("mean_interval")(values[1], subjects, level=0.8, draws=300, seed=2)),
        "means": means,
        "quantiles": list(use("quantiles")(means, 0.9)),
    }


@call("evaluation.ks")
def _() -> Any:
    pairs = {"small": (drawn(12), drawn(9, seed=1) + 0.5), "large": (drawn(300), drawn(400, seed=1) + 1.0)}
    tests = {n: use("ks_test")(*p) for n, p in pairs.items()}
    return {n: [t.statistic, t.log10_p, t.exact, *t.n, t.p] for n, t in tests.items()}


@call("evaluation.verdict")
def _() -> Any:
    Rate = use("Rate")
    cases = {
        "hid": (Rate(40, 40), Rate(1, 80), {"prefill": Rate(30, 40)}),
        "destroyed": (Rate(40, 40), Rate(70, 80), {"prefill": Rate(0, 40)}),
        "erased": (Rate(400, 400), Rate(1, 800), {"prefill": Rate(2, 400), "relearn": Rate(1, 400)}),
        "open": (Rate(18, 20), Rate(2, 20), {"prefill": Rate(2, 20)}),
    }
    found = {n: use("verdict")(*c, epsilon=0.1) for n, c in cases.items()}
    return {
        "verdicts": found,
        "names": {n: str(v) for n, v in found.items()},
        "distance": use("distance_to_reliable")(0.9, 0.2, [0.1, 0.3]),
        "facts": [use("facts_to_decide")(Rate(*c), 0.1) for c in ((2, 20), (3, 20), (0, 5))],
    }


@call("evaluation.memorisation")
def _() -> Any:
    right = drawn(9) > -0.5
    return {
        "strength": [use("extraction_strength")(right), use("exact_memorisation")(right)],
        "verbmem": framed(use("verbmem")(damaged(), whole_bench(), max_new_tokens=12)),
        "knowmem": framed(use("knowmem")(damaged(), whole_bench(), max_new_tokens=12)),
    }


@call("evaluation.privacy")
def _() -> Any:
    made = whole_bench()
    log_probs = -drawn(9).abs()
    mean, variance = use("vocabulary_moments")(drawn(9, 6, seed=1))
    found = use("membership")(damaged(), made.members.texts, made.holdout.texts, reference=retrain())
    a, b = drawn(20, seed=2) + 0.4, drawn(30, seed=3)
    return {
        **framed(found),
        "muse": found.muse_auc(),
        "leakage": use("privacy_leakage")(damaged(), made, retrain()),
        "scores": [use("loss_score")(log_probs), use("zlib_score")(log_probs, "some text"),
                   use("min_k_score")(log_probs, 0.4), use("min_k_plus_plus_score")(log_probs, mean, variance, 0.4)],
        "areas": [use("auc")(a, b), use("muse_auc")(a, b), use("privleak")(0.6, 0.5)],
        "moments": [mean, variance],
    }  # fmt: skip


@call("evaluation.truth")
def _() -> Any:
    true, wrong = -drawn(12).abs(), -drawn(12, 4, seed=1).abs()
    ratio = use("log_truth_ratio")(true, wrong)
    found = use("tofu_scores")(damaged(), whole_bench(), reference=retrain())
    return {
        "ratio": ratio,
        "values": [use("truth_ratio_forget")(ratio), use("truth_ratio_keep")(ratio),
                   use("model_utility")([0.5] * 8 + [0.25])],
        "quality": use("forget_quality")(ratio, ratio + 0.5),
        "option": use("option_probability")(true, wrong),
        "tofu": found, "frame": found.to_frame(), "components": found.components,
    }  # fmt: skip


@call("evaluation.texts")
def _() -> Any:
    texts = bench().plain_text.texts[:6]
    found = use("score_texts")(damaged(), texts)
    return {"found": found, "perplexity": use("perplexity")(found.nll, found.tokens)}


@call("evaluation.choose")
def _() -> Any:
    found = use("choose")(damaged(), whole_bench().retain)
    return {**framed(found), "accuracy": found.accuracy.value}


# Recovery.

RELEARN = {"lr": 1e-3, "steps": 4, "share": 0.34, "end_token": False}


@functools.cache
def planned(probes: tuple[str, ...] = ("prefill", "relearn")) -> Any:
    """Plan a recovery of the damaged model."""
    return use("recovery_plan")(
        bench(), before=builtin(), control=retrain(), relearn=RELEARN, probes=probes, progress=False
    )


@functools.cache
def recovered() -> Any:
    """Run it."""
    return use("run_plan")(damaged(), planned(), progress=False)


def numbers_of(recovery: Any) -> dict[str, Any]:
    """Give a recovery, its tables, and its estimates."""
    estimates = {**{f"net {k}": v for k, v in recovery.nets.items()},
                 **{f"excess {k}": v for k, v in recovery.excesses.items()}}  # fmt: skip
    return {
        **framed(recovery),
        "examples": recovery.examples_frame(),
        "common": recovery.common,
        "rates": {p: recovery.rate(p).value for p in recovery.probes},
        "estimates": {n: [e.value, e.low, e.high, e.n] for n, e in estimates.items()},
        "net_p": recovery.net_p,
        "controls": list(recovery.controls),
    }


@call("recover.with_control")
def _() -> Any:
    found = ul.recover(
        damaged(), bench(), before=builtin(), control=retrain(), relearn=RELEARN, rule=ul.TopK(2), progress=False
    )
    return numbers_of(found)


@call("recover.without_control")
def _() -> Any:
    found = ul.recover(
        damaged(), bench(), before=builtin(), key_tokens="answer_free", probes=("prefill",), templates=["focus_list"],
        progress=False,
    )  # fmt: skip
    return numbers_of(found)


@call("recovery.plan")
def _() -> Any:
    plan = planned()
    return {"keys": [list(k) for k in plan.keys], "sheet": plan.sheet, "frame": plan.to_frame(),
            "right": [plan.plain_before, plan.right_before, plan.plain_control, plan.right_control],
            "taught": plan.taught, "run": numbers_of(recovered())}  # fmt: skip


ADDED = ("attention", "quantize_8", "quantize_4", "after_keys", "patch_subject", "patch_prompt", "patch_opening",
         "logit_lens", "translation_es")  # fmt: skip


@call("recovery.added")
def _() -> Any:
    names = tuple(n for n in ADDED if not n.startswith("translation_"))
    plan = planned(("prefill", "relearn", *names))
    found = use("run_plan")(damaged(), plan, before=builtin(), control=retrain(), progress=False)
    return {"names": list(ADDED), "planned": [plan.added_before, plan.added_control], **numbers_of(found)}


@call("recovery.leak")
def _() -> Any:
    found = use("leak")(damaged(), bench().forget, bench=bench(), samples=4, temperature=0.7, seed=0)
    emphasised = use("leak_emphasised")(damaged(), planned(), limit=2, samples=2, seed=0)
    return {**framed(found), "at": [found.at(k) for k in (1, 2, 4)], "chance": use("leak_at_k")(6, 2, 3),
            "emphasised": emphasised}  # fmt: skip


@call("recovery.parts")
def _() -> Any:
    items, made = bench().forget, bench()
    pattern = drawn(2, 2, 3, 3).softmax(-1)
    key = torch.tensor([[True, False, False], [False, True, True]])
    ranks = use("lens_ranks")(damaged(), items, bench=made)
    words = use("key_words")(builtin(), items, made, rule=ul.TopK(2), progress=False)
    sources = [use("unrelated_fact")(q, items, seed=0) for q in items]
    wheres = ("subject", "prompt", "opening")
    return {
        "scaled": use("scale_attention")(pattern, key, 3.0),
        "attend": use("attend_to")(damaged(), items, words, bench=made),
        "rounded": [use("round_to_bits")(drawn(4, 6), bits, 0) for bits in (4, 8)],
        "quantized": use("quantized")(tiny("llama"), 4),
        "ranks": ranks,
        "early": use("read_out_early")(ranks),
        "patched": {w: use("patched_answers")(damaged(), builtin(), items, bench=made, where=w) for w in wheres},
        "sources": [q.id if q else "" for q in sources],
        "words": [list(w) for w in words],
        "taught": list(use("taught_facts")(items, share=0.5, seed=0)),
    }


@call("recovery.relearned")
def _() -> Any:
    model = use("relearned")(damaged(), bench().forget[:2], bench(), seed=0, lr=1e-3, steps=3, end_token=False)
    return {"weights": model, "log_probs": [ul.log_prob(model, q.prompt, q.answer) for q in bench().forget]}


# Studies and files.

STUDY = {
    "name": "small",
    "model": "builtin",
    "control": "builtin-retrain",
    "benchmark": "pairs",
    "contributions": {"forget": 2, "retain": 1},
    "diff_examples": 1,
    "forget_level": 0.3,
    "seeds": [0, 1],
    "threads": 1,
    "recovery": {"probes": ["prefill"], "templates": ["focus_list", "quotes"], "added": ["quantize_4", "logit_lens"]},
    "methods": [
        {"name": "ga", "settings": {"lr": 5e-4, "steps": 4, "batch_size": 4, "check_every": 2, "end_token": False}},
        {
            "name": "npo_gdr",
            "settings": {"lr": 1e-3, "steps": 4, "batch_size": 4, "check_every": 2, "end_token": False},
        },
    ],
}


def configured(at: Path, **changes: Any) -> Any:
    """Make the configuration of a tiny study on a table of facts."""
    lists = {name: table()[name].map(json.dumps) for name in ("paraphrases", "perturbed")}
    table().assign(**lists).to_csv(at / "facts.csv", index=False)
    options = {"path": str(at / "facts.csv"), "max_new_tokens": 12}
    return ul.load_config({**STUDY, "benchmark_options": options, "retain_split": None, **changes})


@functools.cache
def study() -> Any:
    """Run a tiny study of two methods and two seeds."""
    with folder() as at:
        return ul.run_study(configured(at), at / "out", progress=False)


@call("run_study")
def _() -> Any:
    found = study()
    cells = [{"scores": c.scores, "focus": c.focus.to_frame(), "verdict": c.verdict, "log_probs": c.history.to_frame(),
              "diff": [d.to_frame() for d in c.diffs], "recovery": c.recovery} for c in found.cells]  # fmt: skip
    drop = [c for c in ("seconds",) if c in found.to_frame()]
    return {"frame": found.to_frame().drop(columns=drop), "summary": found.to_frame().describe(), "cells": cells,
            "before": found.before, "control": found.control}  # fmt: skip


@call("study.tables")
def _() -> Any:
    found = study()
    probes, kinds = use("probes_over_seeds")(found), use("dilemma_by_kind")(found)
    return {
        "dilemma": use("dilemma")(found).to_frame(),
        "kinds": kinds,
        "kinds_table": use("kinds_table")(kinds),
        "gaps": use("distance_gaps")(found, "ga"),
        "probes": probes,
        "by_probe": use("by_probe")(probes, "R"),
        "estimates": use("estimates")(probes),
        "wide": use("wide")(probes, "R"),
        "destruction": use("destruction_over_seeds")(found, {"npo_gdr": "ga"}),
    }


@call("study.focus_shift")
def _() -> Any:
    groups = {"forget": bench().forget[:3], "retain": bench().retain[:3]}
    options = use("ShiftOptions")(draws=2)
    shifts = [
        use("focus_shift")(builtin(), damaged(), items, use("Compared")("damaged", group=group), options)
        for group, items in groups.items()
    ]
    return {"shifts": [framed(s) for s in shifts], "over_seeds": use("focus_over_seeds")(shifts)}


@call("study.focus_study")
def _() -> Any:
    with folder() as at:
        config = configured(at, hold_out_phrasings=1, seeds=[0], methods=STUDY["methods"][:1])
        found = use("focus_study")(config, at / "out", draws=2, track_every=2, by_head=("forget",), progress=False)
    return {"frame": found.to_frame(), "trained": found.trained_frame(), "trajectory": found.trajectory_frame()}


@call("study.conclusions")
def _() -> Any:
    Choice = use("Choice")
    choices = [Choice("baseline", "baseline"), Choice("KeyToken rule", "Share(0.8)", rule=ul.Share(0.8)),
               Choice("metric", "ROUGE-L", metric="rouge_l"), Choice("question", "other", phrasing=0)]  # fmt: skip
    afters = {"damaged": [damaged()], "retrain": [retrain()]}
    rows = []
    for choice in choices:
        evidence = use("Evidence")(builtin(), afters, bench(), bench().forget[:3], bench().retain[:3])
        found = use("conclusions")(choice, evidence)
        rows.append(found.to_frame().assign(dimension=choice.dimension, choice=choice.name))
    frame = use("survival")(pd.concat(rows, ignore_index=True))
    return {"frame": frame, "table": use("survival_table")(frame)}


@call("study.token_gradients")
def _() -> Any:
    return use("token_gradients")(builtin(), bench().forget[:3], bench().retain[:3])


@call("load_config")
def _() -> Any:
    demo = ul.load_config("demo").model_dump(mode="json")
    changed = ul.load_config("demo", forget_level=0.1, seeds=[3]).model_dump(mode="json")
    return {"demo": {k: json.dumps(v, sort_keys=True) for k, v in demo.items()}, "level": changed["forget_level"]}


@call("write_report")
def _() -> Any:
    with folder() as at:
        text = Path(ul.write_report(study(), at / "report.html")).read_text(encoding="utf-8")
    return {"is_page": "<html" in text, "cells": text.count('class="panel"'), "large": len(text) > 100_000}


def _round_trip() -> dict[str, Any]:
    made = {
        "attribution": looks("builtin")[0],
        "decomposition": ul.decompose(builtin(), *ask(), by="head"),
        "scores": measured()["after"],
        "unlearned": ul.unlearn(tiny("llama"), [ul.QA(PROMPT, ANSWER, id="a")], method="ga", **QUICK),
    }
    again = {}
    with folder() as at:
        for name, result in made.items():
            ul.save(result, at / name)
            again[name] = ul.load(at / name)
    return {n: {"equal": again[n] == made[n], "loaded": again[n]} for n in made}


CALLS["load"] = _round_trip


@call("save")
def _() -> Any:
    with folder() as at:
        found = ul.save(looks("builtin")[0], at / "kept")
        names = sorted(p.name.split("-")[0].split(".")[0] for p in Path(found).iterdir())
        fields = json.loads((found / "result.json").read_text())
        tensors = load_file(next(found.glob("*.safetensors")))
    return {
        "files": names,
        "format": fields["format"],
        "tensors": tensors,
        "digest": use("digest")({"a": torch.arange(9)}),
    }


@call("export_hf")
def _() -> Any:
    exported: dict[str, Any] = {}
    with folder() as at:
        for name, model in {family: tiny(family) for family in FAMILIES}.items():
            ul.export_hf(model, at / name)
            config = json.loads((at / name / "config.json").read_text())
            tensors = load_file(next((at / name).glob("*.safetensors")))
            exported[name] = {
                "architectures": config["architectures"],
                "tensors": tensors,
            }
    return exported


@call("text_tables")
def _() -> Any:
    frame = pd.DataFrame({"p": [1.7e-21, float("nan"), 108.1]}, index=pd.Index(["a|b", "c_d", "e"], name="method"))
    return {"markdown": use("to_markdown")(frame), "latex": use("to_latex")(frame)}


@call("InputError")
def _() -> Any:
    refused = []
    for wrong in (
        lambda: ul.load_model("bultin"),
        lambda: ul.attribute(builtin(), "", " x"),
        lambda: ul.unlearn(builtin(), bench(), method="nop"),
        lambda: ul.evaluate(builtin(), bench(), ["rouge-l"]),
        lambda: ul.decompose(builtin(), *ask(), by="layers"),
    ):
        try:
            wrong()
        except ul.InputError:
            refused.append(True)
        else:
            refused.append(False)
    return {"refused": refused, "is_value_error": issubclass(ul.InputError, ValueError)}


# What speaks with a server: a small one over the built-in model.


@dataclass
class Server:
    """Serve completions and verdicts of a hooked model on a free port, inside a `with` block."""

    model: Any

    def __enter__(self) -> Server:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                data = json.dumps(server.answer(body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer one request; a judge says yes where the prompt holds "Foxhollow" twice."""
        if "messages" in body:
            said = "yes" if body["messages"][0]["content"].count("Foxhollow") > 1 else "no"
            return {"choices": [{"message": {"content": said}}]}
        with self.lock, torch.inference_mode():
            return {"id": "x", "object": "text_completion", "choices": [self.choice(body)]}

    def choice(self, body: dict[str, Any]) -> dict[str, Any]:
        """Continue a text, with the log-probabilities of its tokens."""
        coder, text = self.model.tokenizer, body["prompt"]
        bos = [coder.bos_token_id] if self.model.cfg.default_prepend_bos else []
        ids = [*bos, *coder(text, add_special_tokens=False)["input_ids"]]
        every = list(ids)
        for _ in range(body["max_tokens"]):
            every.append(int(self.model(torch.tensor([every]))[0, -1].argmax()))
            if every[-1] == coder.eos_token_id:
                every.pop()
                break
        made = coder.decode(every[len(ids) :])
        for stop in body.get("stop") or ():
            made = made.split(stop)[0]
        log_probs = self.model(torch.tensor([every]))[0].log_softmax(-1)
        values = [None, *(float(log_probs[k, t]) for k, t in enumerate(every[1:]))]
        tokens = [coder.decode([t]) for t in every]
        if body.get("echo"):
            logprobs = {"tokens": tokens, "token_logprobs": values, "text_offset": None}
            return {"index": 0, "text": text + made, "finish_reason": "length", "logprobs": logprobs}
        logprobs = {"tokens": tokens[len(ids) :], "token_logprobs": values[len(ids) :]}
        return {
            "index": 0,
            "text": made,
            "finish_reason": "length",
            "logprobs": logprobs if body.get("logprobs") else None,
        }


@call("Endpoint")
def _() -> Any:
    with Server(builtin()) as server:
        endpoint = ul.Endpoint(server.url, "builtin", retries=0, concurrency=2)
        return {
            "complete": endpoint.complete(ask()[0], 10),
            "echo": endpoint.echo([" ".join(ask())]),
            "attribution": ul.attribute(endpoint, *ask()),
        }


@call("Judge")
def _() -> Any:
    with Server(builtin()) as server:
        judge = ul.Judge(server.url, "builtin")
        answers = (" The place was Foxhollow.", " The place was Oakhurst.")
        return {
            "right": [judge.right(*ask(), a) for a in answers],
            "judgement": use("judge_answers")(judge, [ask()[0]] * 2, [ask()[1]] * 2, list(answers)),
            "metric": ul.evaluate(builtin(), bench(), ["judge"], judge=judge).values,
        }


def run(name: str) -> Any:
    """Run one call from the same state: one thread, all generators seeded."""
    import random

    torch.set_num_threads(int(os.environ.get("RECORDED_THREADS", "1")))
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CALLS[name]()
