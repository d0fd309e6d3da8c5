"""Make results with invented numbers, with the real result classes, to test figures and the report."""

from __future__ import annotations

import torch

from unpact_lens.attribution import Attribution, Faithfulness, Interactions, MethodComparison, Sensitivity
from unpact_lens.attribution.key_tokens import TopK
from unpact_lens.comparison import ActivationChanges, HeadSplit, ModelDiff, PatchingMap, WeightChanges
from unpact_lens.comparison.focus import MEASURES, Focus
from unpact_lens.decomposition.result import Decomposition, LensCurves
from unpact_lens.unlearning.result import History

HOSTILE = ("Where", " was", ' "<script>alert(1)</script>', " & Ann</div>", " born", "?\n")
"""Prompt tokens that break a page which does not escape them."""
ANSWER = (" <b>Os", "lo")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attribution(seed: int = 0, *, tokens: tuple[str, ...] = HOSTILE, answer=ANSWER, **changes: object) -> Attribution:
    table = noise(len(tokens), len(answer), seed=seed)
    starts = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    fields: dict[str, object] = {
        "tokens": tokens, "token_ids": tuple(range(len(tokens))), "answer_tokens": answer,
        "answer_ids": tuple(range(len(answer))), "scores": table.mean(1), "per_answer_token": table,
        "log_prob": -1.5, "method": "leave_one_out", "units": "token", "target": "log_prob", "deletion": "ids",
        "prompt": "".join(tokens), "answer": "".join(answer), "members": tuple((i,) for i in range(len(tokens))),
        "spans": tuple((s, s + len(t)) for s, t in zip(starts, tokens, strict=True)), "id": f"qa{seed}",
        "subject": "Ann",
    }  # fmt: skip
    return Attribution(**{**fields, **changes})


def decomposition(by: str = "component", seed: int = 0, *, layers: int = 2, heads: int = 3) -> Decomposition:
    """Four components and a remainder of two rows; `total` is their sum."""
    tokens = ("<s>", *HOSTILE)
    names = tuple(f"L{layer}H{head}" for layer in range(layers) for head in range(heads))
    axes: dict[str, tuple[tuple[str, ...], ...]] = {
        "component": (("embed", *names, "L0.mlp"),),
        "head": (tuple(f"L{i}" for i in range(layers)), tuple(f"H{i}" for i in range(heads))),
        "source": (tuple(f"L{i}" for i in range(layers)), tuple(f"H{i}" for i in range(heads)), tokens),
        "neuron": (tuple(f"L{i}" for i in range(layers)), tuple(f"N{i}" for i in range(7))),
    }
    labels = (*axes[by], ANSWER)
    values, remainder = noise(*map(len, labels), seed=seed), noise(2, len(ANSWER), seed=seed + 1)
    return Decomposition(
        values=values, labels=labels, remainder=remainder, remainder_labels=("ln_final.b", "unembed.b_U"),
        total=values.flatten(0, -2).sum(0) + remainder.sum(0), by=by, tokens=tokens, answer_tokens=ANSWER,
        prompt="".join(HOSTILE), answer="".join(ANSWER),
    )  # fmt: skip


def model_diff(seed: int = 0, **shape: int) -> ModelDiff:
    before, after = (decomposition("component", seed=seed + s, **shape) for s in (0, 10))
    return ModelDiff(
        prompt=before.prompt, answer=before.answer, tokens=before.tokens, answer_tokens=ANSWER,
        log_prob_before=before.total - 9, log_prob_after=after.total - 11, logit_before=before.total,
        logit_after=after.total, logsumexp_before=torch.full((2,), 9.0), logsumexp_after=torch.full((2,), 11.0),
        components_before=before, components_after=after, heads_before=decomposition("head", seed=seed, **shape),
        heads_after=decomposition("head", seed=seed + 10, **shape),
    )  # fmt: skip


def lens_curves() -> LensCurves:
    logit = noise(3, 2)
    return LensCurves(
        logit=logit, log_prob=logit - 3, rank=torch.tensor([[40, 9], [3, 1], [0, 0]]),
        labels=(("embed", "L0", "L1"), ANSWER), tokens=HOSTILE, answer_tokens=ANSWER, prompt="p",
        answer="".join(ANSWER),
    )  # fmt: skip


def patching_map() -> PatchingMap:
    return PatchingMap(
        log_prob=noise(2, len(HOSTILE)) - 4, labels=(("L0", "L1"), tuple(f"{t}_{i}" for i, t in enumerate(HOSTILE))),
        baseline=-4.0, donor=-1.0, what="resid_pre", direction="before_into_after", prompt="p",
        answer="".join(ANSWER), tokens=HOSTILE,
    )  # fmt: skip


def weight_changes() -> WeightChanges:
    columns = {c: torch.tensor([1.0, 2.0, 3.0]) for c in ("norm_before", "norm_after", "norm_delta", "spectral")}
    return WeightChanges(
        names=("embed.W_E", "blocks.0.attn.W_Q", "blocks.0.mlp.W_in"), relative=torch.tensor([0.1, 0.4, float("nan")]),
        effective_rank=torch.ones(3), cosine=torch.ones(3),
        task_vector_cosine=torch.full((3,), float("nan")), **columns,
    )  # fmt: skip


def focus(n: int = 4, seed: int = 0, **changes: object) -> Focus:
    measures = {name: noise(n, seed=seed + k).abs().clamp(max=1) for k, name in enumerate(MEASURES)}
    measures["subject_rank_before"][0] = float("nan")
    return Focus(
        before=tuple(attribution(seed + i, **changes) for i in range(n)),
        after=tuple(attribution(seed + i + 100, **changes) for i in range(n)),
        measures=measures,
        means={k: torch.tensor([v.nanmean(), v.nanmean() - 0.1, v.nanmean() + 0.2, n]) for k, v in measures.items()},
        rule=TopK(3),
    )


def interactions() -> Interactions:
    pair = noise(3, 3).fill_diagonal_(float("nan"))
    single = noise(3, seed=1)
    return Interactions(
        tokens=HOSTILE[:3], matrix=pair - single[:, None] - single, single=single, pair=pair, indices=(0, 1, 2),
        units="token", target="log_prob", prompt="p", answer="".join(ANSWER),
    )  # fmt: skip


def sensitivity() -> Sensitivity:
    nan = torch.full((2, 3), float("nan"))
    return Sensitivity(
        rules=(TopK(1), TopK(3)), labels=("TopK(1)", "TopK(3)"), items=3,
        agreement=torch.tensor([[1.0, 0.3], [0.3, 1]]),
        measures={"count": torch.tensor([[1.0, 1, 1], [3, 3, 2]]), "mass": torch.rand(2, 3), "overlap": nan},
    )  # fmt: skip


def faithfulness(method: str = "leave_one_out", seed: int = 0) -> Faithfulness:
    deletion = noise(3, 5, seed=seed)
    deletion[0, -1] = float("nan")
    return Faithfulness(
        method=method, fractions=torch.linspace(0, 1, 5), deletion=deletion, insertion=noise(3, 5, seed=seed + 1),
        aopc=noise(3, seed=seed), insertion_gain=noise(3), comprehensiveness=noise(3), sufficiency=noise(3),
        bins=(0.1,), target="log_prob",
    )  # fmt: skip


def method_comparison() -> MethodComparison:
    methods = ("leave_one_out", "<b>attention</b>")
    return MethodComparison(
        methods=methods, spearman=torch.tensor([[1, -0.2], [-0.2, 1]]), jaccard=torch.tensor([[1, 0.4], [0.4, 1]]), k=3,
        faithfulness=tuple(faithfulness(m, i) for i, m in enumerate(methods)), stability=torch.tensor([0.9, 0.5]),
        stability_jaccard=torch.tensor([0.8, 0.4]), seconds=torch.tensor([0.1, 0.2]), items=3, units="token",
    )  # fmt: skip


def head_split() -> HeadSplit:
    values, before = noise(4, 2, 3, 2), noise(2, 3, 2, seed=1)
    return HeadSplit(
        values=values, players=("pattern", "input", "ov", "readout"), before=before, after=before + values.sum(0),
        pattern_parts=None, labels=(("L0", "L1"), ("H0", "H1", "H2"), ANSWER), prompt="p", answer="".join(ANSWER),
    )  # fmt: skip


def activation_changes() -> ActivationChanges:
    shape = (2, len(HOSTILE))
    return ActivationChanges(
        hooks=("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"), tokens=HOSTILE, norm_before=noise(*shape).abs(),
        norm_delta=noise(*shape, seed=1).abs(), cosine=noise(*shape, seed=2).tanh(), cka=noise(2), kl=noise(shape[1]),
        prompt="p", answer="".join(ANSWER),
    )  # fmt: skip


def history(steps: int = 12) -> History:
    rows = [
        {"step": float(s), "lr": 1e-3, "loss": 3.0 - s / 5, "forget": 2.0 - s / 5, "retain": 1.0, "grad_norm": 2.0 + s}
        | ({"forget_score": 1 - s / steps} if s % 5 == 0 else {})
        for s in range(steps)
    ]
    return History(rows=tuple(rows))
