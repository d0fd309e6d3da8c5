"""Draw the gallery of the documentation, every kind of figure in light and dark: `python -m scripts.gallery`.

Each figure is drawn by the code that its page shows, on the embedded model. `docs/gallery.md` and the pictures in
`docs/images/gallery/` are written by this script and committed.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import unpact_lens.plots
from unpact_lens.plots.figure import Figure

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, PICTURES = DOCS / "gallery.md", DOCS / "images" / "gallery"
WIDTH = 720

PREPARATION = """\
import unpact_lens as ul

bench = ul.load_benchmark("builtin")
before, retrained = ul.load_model("builtin"), ul.load_model("builtin-retrain")
u = ul.unlearn(before, bench, method="npo_gdr", lr=1e-3, alpha=5.0, steps=40, track=bench.forget[:8], progress=False)
after, fact, facts = u.model, bench.forget[0], bench.forget[:8]
"""

STUDY = """\
methods = [{"name": m, "settings": {"steps": 40}} for m in ("ga", "ga_klr", "npo_gdr")]
names = {"name": "gallery", "model": "builtin", "control": "builtin-retrain", "benchmark": "builtin"}
study = ul.run_study(ul.load_config({**names, "methods": methods}), "runs/gallery", progress=False)
"""


@dataclass(frozen=True)
class Entry:
    """One figure of the gallery.

    Attributes:
        name: Name of its pictures.
        title: What it shows.
        functions: Functions of `unpact_lens.plots` that draw it, as `module:function`.
        code: Lines that make it; the value of the last is the figure.
    """

    name: str
    title: str
    functions: tuple[str, ...]
    code: str


SECTIONS: dict[str, tuple[Entry, ...]] = {
    "One model: which tokens does an answer depend on?": (
        Entry(
            "token_heatmap", "Contribution of each prompt token to each answer token", ("attribution:token_heatmap",),
            "ul.attribute(before, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "interactions", "Interaction of pairs of tokens", ("attribution:interactions",),
            "ul.attribution.interactions(before, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "method_comparison", "Agreement of attribution methods", ("attribution:method_comparison",),
            'methods = ["leave_one_out", "grad_x_input", "knockout"]\n'
            "ul.attribution.compare_methods(before, facts, methods, progress=False).plot()",
        ),
        Entry(
            "faithfulness", "Faithfulness: deletion and insertion curves", ("attribution:faithfulness_curves",),
            "found = ul.attribute_many(before, facts, progress=False)\n"
            "ul.attribution.faithfulness(before, found).plot()",
        ),
        Entry(
            "sensitivity", "Sensitivity to the rule that selects KeyTokens", ("attribution:sensitivity",),
            "found = ul.attribute_many(before, facts, progress=False)\n"
            "ul.attribution.sensitivity(found).plot()",
        ),
    ),
    "One model: which parts write the answer?": (
        Entry(
            "components", "Logit by component", ("decomposition:waterfall", "decomposition:decomposition"),
            "ul.decompose(before, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "heads", "Logit by head", ("decomposition:head_map",),
            'ul.decompose(before, fact.prompt, fact.answer, by="head").plot("heads")',
        ),
        Entry(
            "sources", "Logit by head and source token", ("decomposition:source_map",),
            'ul.decompose(before, fact.prompt, fact.answer, by="source").plot("sources")',
        ),
        Entry(
            "source_tokens", "Logit by source token", ("decomposition:source_tokens",),
            'ul.decompose(before, fact.prompt, fact.answer, by="source").plot("tokens")',
        ),
        Entry(
            "neurons", "Logit by neuron", ("decomposition:neurons",),
            'ul.decompose(before, fact.prompt, fact.answer, by="neuron").plot()',
        ),
        Entry(
            "lens_curves", "Logit lens: the answer after each layer", ("decomposition:lens_curves",),
            "ul.decomposition.lens_curves(before, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "path_effects", "Direct and indirect paths through a head", ("mechanisms:path_effects",),
            "ul.decomposition.path_effects(before, fact.prompt, fact.answer, heads=[(0, 0), (1, 0)]).plot()",
        ),
        Entry(
            "ablation", "Loss of the answer without a head", ("mechanisms:ablation_map",),
            "ul.decomposition.ablate(before, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "decomposition_summary", "Logit by component, averaged over facts",
            ("decomposition_summary:decomposition_summary",),
            "ul.average(ul.decompose(before, q.prompt, q.answer) for q in facts).plot()",
        ),
    ),
    "Two models: what changed?": (
        Entry(
            "diff_components", "Change of each component",
            ("model_diff:component_waterfalls", "model_diff:model_diff"),
            "ul.diff(before, after, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "diff_heads", "Change of each head", ("model_diff:head_triptych",),
            'ul.diff(before, after, fact.prompt, fact.answer).plot("heads")',
        ),
        Entry(
            "diff_sources", "Change of what each head moves from each token", ("model_diff:source_triptych",),
            'ul.diff(before, after, fact.prompt, fact.answer, sources=True).plot("sources")',
        ),
        Entry(
            "diff_tokens", "Change of each token's contribution", ("model_diff:contributions",),
            'ul.diff(before, after, fact.prompt, fact.answer).plot("tokens")',
        ),
        Entry(
            "token_triptych", "Contributions before and after, by answer token", ("attribution:token_triptych",),
            "from unpact_lens.plots.attribution import token_triptych\n\n"
            "pair = [ul.attribute(model, fact.prompt, fact.answer) for model in (before, after)]\n"
            "token_triptych(*pair)",
        ),
        Entry(
            "diff_summary", "Change of each component, averaged over facts", ("diff_summary:diff_summary",),
            "ul.average(ul.diff(before, after, q, contributions=False, weights=False) for q in facts).plot()",
        ),
        Entry(
            "head_split", "Why each head changed", ("changes:head_split",),
            "ul.comparison.split_heads(before, after, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "attention_patterns", "Where the most changed heads look", ("attention_patterns:attention_patterns",),
            "ul.comparison.attention_patterns(before, after, fact.prompt, fact.answer, top=2).plot()",
        ),
        Entry(
            "lens_changes", "The answer after each layer, before and after", ("decomposition:lens_changes",),
            "ul.comparison.lens_changes(before, after, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "activation_changes", "Change of activations", ("changes:activation_changes",),
            "ul.comparison.activation_changes(before, after, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "weight_changes", "Change of each weight matrix", ("changes:weight_changes",),
            "ul.comparison.weight_changes(before, after).plot()",
        ),
        Entry(
            "focus", "Focus on the words of the prompt, over facts", ("focus:focus_shift",),
            "pair = [ul.attribute_many(model, facts, progress=False) for model in (before, after)]\n"
            "ul.comparison.focus(*pair).plot()",
        ),
    ),
    "Two models: what restores the answer?": (
        Entry(
            "patch", "Patching the residual stream", ("patching:patching_map",),
            'ul.comparison.patch(before, after, fact.prompt, fact.answer, what="resid_pre").plot()',
        ),
        Entry(
            "patching_summary", "Patching heads, averaged over facts", ("patching:patching_summary",),
            'ul.average(ul.comparison.patch(before, after, q, what="head") for q in facts).plot()',
        ),
        Entry(
            "key_path", "Loss through attention to the KeyTokens", ("key_path:key_path",),
            "ul.comparison.key_path(before, after, fact.prompt, fact.answer).plot()",
        ),
        Entry(
            "key_path_summary", "The same, averaged over facts", ("key_path:key_path_summary",),
            "ul.average(ul.comparison.key_path(before, after, q) for q in facts).plot()",
        ),
        Entry(
            "unlearning_depth", "Unlearning depth score", ("unlearning_depth:unlearning_depth",),
            "ul.comparison.unlearning_depth(before, retrained, after, facts).plot()",
        ),
    ),
    "Unlearning, scores and recovery": (
        Entry("history", "Course of a run", ("unlearning:history", "unlearning:history_frame"), "u.plot()"),
        Entry(
            "trajectory", "Contributions of one fact during a run", ("unlearning:trajectory",),
            "from unpact_lens.plots.unlearning import trajectory\n\ntrajectory(u)",
        ),
        Entry(
            "focus_course", "Focus during a run", ("unlearning:focus_course",),
            "from unpact_lens.plots.unlearning import focus_course\n\nfocus_course(u)",
        ),
        Entry(
            "scores", "Metrics of a model", ("metrics:scores_table",),
            "ul.evaluate(after, bench, before=before).plot()",
        ),
        Entry(
            "recovery", "What each probe recovers", ("recovery:recovery_bars",),
            "ul.recover(after, bench, before=before, control=retrained, progress=False).plot()",
        ),
        Entry("dilemma", "The dilemma plane of a study", ("dilemma:dilemma_plane",), STUDY + "study.plot()"),
        Entry(
            "cell_recovery", "What each probe recovers, for one cell of a study", ("recovery:cell_recovery",),
            "study.cells[1].plot()",
        ),
    ),
}  # fmt: skip


def entries() -> list[Entry]:
    """Return all entries in the order of the page."""
    return [entry for section in SECTIONS.values() for entry in section]


def figure_modules() -> Iterator[tuple[str, ModuleType]]:
    """Return every module of `unpact_lens.plots`, by its short name."""
    for module in pkgutil.iter_modules(unpact_lens.plots.__path__):
        yield module.name, importlib.import_module(f"unpact_lens.plots.{module.name}")


def figure_functions() -> dict[str, Callable[..., Figure]]:
    """Return every public function of `unpact_lens.plots` that returns a finished figure, as `module:function`."""
    found = {}
    for name, module in figure_modules():
        for key, value in vars(module).items():
            ours = inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
            if ours and hasattr(value, "__wrapped__"):
                found[f"{name}:{key}"] = value
    return found


def record_calls() -> set[str]:
    """Make every figure function note that it was called, from now on; return the set of names that grows."""
    called: set[str] = set()

    def noting(name: str, function: Callable[..., Figure]) -> Callable[..., Figure]:
        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Figure:
            called.add(name)
            return function(*args, **kwargs)

        return noted

    noted = {function: noting(name, function) for name, function in figure_functions().items()}
    for _, module in figure_modules():
        for key, value in list(vars(module).items()):
            if inspect.isfunction(value) and value in noted:
                setattr(module, key, noted[value])
    return called


def drawn() -> Iterator[tuple[Entry, Figure]]:
    """Run the code of every entry, one after the other, and return each figure.

    Raises:
        ValueError: If an entry's figure is drawn without one of the functions that the entry names.
    """
    called, space = record_calls(), {}
    exec(PREPARATION, space)
    for entry in entries():
        called.clear()
        *lines, last = entry.code.split("\n")
        exec("\n".join(lines), space)
        figure = eval(last, space)
        missing = set(entry.functions) - called
        if missing:
            raise ValueError(f"{entry.name} is drawn without {', '.join(sorted(missing))}")
        yield entry, figure


def page(alts: dict[str, str]) -> str:
    """Write the page.

    Args:
        alts: Alternative text of each entry's figure, by its name.
    """
    parts = [
        "# Gallery\n",
        "Every kind of figure, with the code that draws it. Model `builtin`, seed 0; the first block makes the "
        "unlearned model. `figure.save('x.svg')` writes a figure to a file; "
        "see [Save a figure](how-to/save-a-figure.md).\n",
        f"<!-- not executed here: by scripts/gallery.py -->\n```python\n{PREPARATION}```\n",
    ]
    for title, section in SECTIONS.items():
        parts.append(f"## {title}\n")
        for entry in section:
            images = "\n".join(
                f"![{alts[entry.name]}](images/gallery/{entry.name}-{mode}.svg#only-{mode})"
                for mode in ("light", "dark")
            )
            parts.append(f"### {entry.title}\n\n{images}\n")
            parts.append(f"<!-- not executed here: by scripts/gallery.py -->\n```python\n{entry.code.strip()}\n```\n")
    return "\n".join(parts)


def alternative(figure: Figure) -> str:
    """Return the alternative text of a figure, as it may be written in Markdown."""
    return " ".join(figure.alt.split()).replace("[", "(").replace("]", ")").replace("|", "or").replace("<", "‹")


def main() -> None:
    """Draw all figures and write the page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    alts = {}
    for entry, figure in drawn():
        figure.save(PICTURES / f"{entry.name}-light.svg", width=WIDTH)
        figure.dark().save(PICTURES / f"{entry.name}-dark.svg", width=WIDTH)
        alts[entry.name] = alternative(figure)
        print(entry.name, flush=True)
    for file in PICTURES.glob("*.svg"):
        if file.stem.rpartition("-")[0] not in alts:
            file.unlink()
    PAGE.write_text(page(alts), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
