"""Invent scores, recoveries and whole studies, as real result types."""

from __future__ import annotations

import torch

from tests.plots import examples
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.verdict import verdict
from unpact_lens.recovery.result import Example, Recovery
from unpact_lens.study.result import Cell, Study

GROUP_SIZES = {"forget": 40, "near": 40, "far": 40, "general": 10}
METRICS = ("fact_span", "exact_match", "rouge_l")
PROBES = {
    "focus_list": "emphasis", "quotes": "emphasis", "random_words:focus_list": "control", "paraphrase": "control",
    "wrong_subject": "control", "prefill": "probe", "relearn": "probe",
}  # fmt: skip


def draw(p: float, *shape: int, seed: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < p


def scores(
    *, forget: float = 0.0, near: float = 0.9, far: float = 0.95, seed: int = 0, of_before: bool = False
) -> Scores:
    """Invent a model that is right on these shares of the facts. The original model is right on all."""
    groups = [g for g, n in GROUP_SIZES.items() for _ in range(n)]
    n = len(groups)
    share = {"forget": forget, "near": near, "far": far, "general": 0.8}
    right = torch.stack([draw(share[g], 1, seed=seed * 1000 + i)[0] for i, g in enumerate(groups)]).float()
    values = torch.stack([right, right, 0.3 + 0.7 * right])
    return Scores(
        benchmark="made-up", metrics=METRICS, ids=tuple(f"qa{i}" for i in range(n)),
        subjects=tuple(f"subject {i // 4}" for i in range(n)), kinds=("place",) * n, groups=tuple(groups),
        generated=tuple(f' <i>answer {i}</i> & "more"' for i in range(n)), values=values, binary=(True, True, False),
        values_before=None if of_before else torch.ones(3, n),
    )  # fmt: skip


def recovery(
    *, back: float = 0.3, control: float | None = 0.05, n: int = 40, n_before: float = 1.0, seed: int = 0
) -> Recovery:
    rows = len(PROBES)
    return Recovery(
        probes=tuple(PROBES), families=tuple(PROBES.values()), items=tuple(f"qa{i}" for i in range(n)),
        subjects=tuple(f"subject {i // 4}" for i in range(n)), kinds=("place",) * n,
        asked=torch.ones(rows, n, dtype=torch.bool), compared=("focus_list", "quotes"),
        right_before=draw(n_before, rows, n, seed=seed), right_after=draw(back, rows, n, seed=seed + 1),
        right_control=None if control is None else draw(control, rows, n, seed=seed + 2),
        plain_before=torch.ones(n, dtype=torch.bool), plain_after=torch.zeros(n, dtype=torch.bool),
        plain_control=None if control is None else torch.zeros(n, dtype=torch.bool), excluded={},
        set_apart={}, oracle=True, headline="focus_list", never_items=() if control is not None else ("u0", "u1"),
        never_asked=torch.ones(rows, 0 if control is not None else 2, dtype=torch.bool),
        never_right=torch.zeros(rows, 0 if control is not None else 2, dtype=torch.bool),
        examples=tuple(
            Example(f"qa{i}", p, f'"<b>Ann</b>" & {p}: where was she born?', " She was born in", " </script>", i == 0)
            for i in range(2) for p in ("plain", *PROBES)
        ),
    )  # fmt: skip


def cell(
    method: str, *, seed: int = 0, back: float = 0.3, near: float = 0.9, control: float | None = 0.05,
    forget: float = 0.0, n_before: float = 1.0, **changes: object,
) -> Cell:  # fmt: skip
    made = scores(near=near, forget=forget, seed=seed + 1)
    found = recovery(back=back, control=control, seed=seed, n_before=n_before)
    fields: dict[str, object] = {
        "method": method, "seed": seed, "scores": made, "recovery": found, "focus": examples.focus(6, seed=seed),
        "focus_retain": None, "diffs": (examples.model_diff(seed), examples.model_diff(seed + 1)),
        "verdict": verdict(made.forgetting, made.destruction, found.excesses), "history": examples.history(),
        "stopped": "forget level reached", "settings": {"lr": 1e-3, "steps": 12}, "seconds": 3.0,
    }  # fmt: skip
    return Cell(**{**fields, **changes})


def study(*, control: bool = True, cells: tuple[Cell, ...] | None = None, **config: object) -> Study:
    """Five methods: destroyed, hid, undecided, forgot too little, and one with an empty common set."""
    share = 0.05 if control else None
    if cells is None:
        cells = (
            cell("ga", back=0.1, near=0.05, control=share),
            cell("ga_gdr", back=0.45, near=0.9, seed=1, control=share),
            cell("npo", back=0.04, near=0.95, seed=2, control=share),
            cell("npo_gdr", back=0.3, near=0.7, forget=0.4, seed=3, control=share),
            cell("rmu", back=0.3, near=0.8, seed=4, control=share, n_before=0.0),
        )
    settings = {
        "name": "made-up <study>", "model": "builtin", "control": "builtin-retrain" if control else None,
        "benchmark": "made-up", "methods": [{"name": c.method, "settings": {}} for c in cells], "seeds": [0],
        "epsilon": 0.1, "forget_level": 0.03,
    }  # fmt: skip
    return Study(
        config={**settings, **config},
        before=scores(forget=1, near=1, far=1, of_before=True),
        control=scores(forget=0.03, seed=9) if control else None,
        cells=cells,
        notes=('A note with <b>markup</b> & "quotes".',),
        seconds=15.0,
        environment={"versions": {"python": "3.11", "torch": "2.13"}, "threads": 1, "model": "abc123"},
    )
