"""Hold diffs of many questions, averaged with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.diff import ModelDiff
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.comparison.sample import Row, Sample, stacked
from unpact_lens.comparison.split_heads import PATTERN_PARTS
from unpact_lens.display import estimate, joined, largest
from unpact_lens.errors import InputError, nearest
from unpact_lens.results import Result

SCALARS = ("log_prob", "logit", "logsumexp")
KL = ("kl_prompt", "kl_answer")
"""KL(before ‖ after) of an item, nats: mean over the positions that predict the prompt, and over those that predict the
answer."""
MEASURES = ("relative", "cosine", "cka")
"""Measures of activations: length of Δ over that before and cosine, both means over the positions; CKA over them."""


@dataclass(frozen=True, eq=False)
class DiffSummary(Result):
    """Hold Δ averaged over many questions, with bootstrap intervals that draw whole subjects.

    Each item counts once: its answer tokens, or its positions, are averaged first. Every entry is
    `[mean, low, high, n]`.

    Attributes:
        scalars: `[4]` for Δ log-prob (nats), Δ logit and Δ logsumexp; with activations also `kl_prompt` and
            `kl_answer`.
        components: `[component, 4]`, Δ of each component, logits. The means sum to the mean Δ logit.
        heads: `[layer, head, 4]`, Δ of each head, logits.
        items: `[item, scalar]`, scalars of each item.
        labels: Names of the components, layers and heads.
        ids: Ids of the items.
        split: `[player, layer, head, 4]`, logits: why each head changed; the means of the four players sum to the
            head's. None if the diffs hold no split.
        players: Players of the split: pattern, input, ov, readout; then the pattern's two parts if split again.
        activations: `[hook, 4]` for each of `MEASURES`. None if the diffs hold no activations.
        hooks: Names of the hooks.
        focus: Contributions before and after, and how they moved; None if the diffs hold no contributions.
        floor: The same for the noise baseline, or None.
        level: Confidence level of the intervals.
        adjusted_p: P-value of each entry of `components`, `heads` and `split`, adjusted for all entries of that map.
            Empty in results of version 0.1.
        settings: Resamples and seed of the bootstrap.
    """

    figure: ClassVar[str | None] = "diff_summary:diff_summary"

    scalars: dict[str, Float[Tensor, " 4"]]
    components: Float[Tensor, "component 4"]
    heads: Float[Tensor, "layer head 4"]
    items: Float[Tensor, "item scalar"]
    labels: tuple[tuple[str, ...], ...]
    ids: tuple[str, ...]
    split: Float[Tensor, "player layer head 4"] | None = None
    players: tuple[str, ...] = ()
    activations: dict[str, Float[Tensor, "hook 4"]] | None = None
    hooks: tuple[str, ...] = ()
    focus: Focus | None = None
    floor: DiffSummary | None = None
    level: float = 0.95
    settings: dict[str, Any] = field(default_factory=dict)
    adjusted_p: dict[str, Tensor] = field(default_factory=dict)

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.ids)} questions",
                f"Δ log-prob {estimate(self.scalars['log_prob'])} nats",
                f"head {largest(self.heads[..., 0], self.labels[1:])}",
            ]
        )

    def above_floor(self) -> Float[Tensor, "layer head"]:
        """Divide |mean Δ| of each head by that of the noise baseline; infinite if only the baseline is 0, NaN if both.

        Raises:
            InputError: If there is no noise baseline.
        """
        if self.floor is None:
            raise InputError("this summary has no noise baseline; average diff(..., floor=(one seed, another seed))")
        return self.heads[..., 0].abs() / self.floor.heads[..., 0].abs()

    def to_frame(self, what: str | None = None) -> pd.DataFrame:
        """Make a table of mean, interval, adjusted p-value, and mean of the noise baseline.

        Args:
            what: Rows: `"components"`, or `"heads"` with columns `layer` and `head`, as in every table of heads. If
                None, the scalars and the components, by the name `what`.

        Raises:
            InputError: If `what` is unknown.
        """
        if what == "components":
            scalars = len(self.scalars)
            return self.to_frame().iloc[scalars:].rename(columns={"what": "component"}).reset_index(drop=True)
        if what == "heads":
            rows = list(product(*self.labels[1:]))
            axes = {"layer": [layer for layer, _ in rows], "head": [head for _, head in rows]}
            noise = None if self.floor is None else self.floor.to_frame("heads")
            return self._table(axes, self.heads.flatten(0, 1), noise, self.adjusted_p.get("heads"))
        if what is not None:
            raise InputError(f"what={what!r}; {nearest(what, ('components', 'heads'))}")
        names = [*(name if name in KL else f"Δ {name}" for name in self.scalars), *self.labels[0]]
        table = torch.cat([torch.stack(list(self.scalars.values())), self.components])
        p = self.adjusted_p.get("components")
        p = None if p is None else torch.cat([torch.full((len(self.scalars),), float("nan")).to(p), p])
        return self._table({"what": names}, table, None if self.floor is None else self.floor.to_frame(), p)

    def heads_frame(self) -> pd.DataFrame:
        """Make a table with one row per head."""
        names = [l + h for l, h in product(*self.labels[1:])]
        noise = None if self.floor is None else self.floor.heads_frame()
        return self._table({"head": names}, self.heads.flatten(0, 1), noise, self.adjusted_p.get("heads"))

    def split_frame(self) -> pd.DataFrame:
        """Make a table with one row per player and head.

        Raises:
            InputError: If the heads were not split.
        """
        if self.split is None:
            raise InputError("the heads of this summary were not split; average diff(..., split=True)")
        rows = list(product(self.players, *self.labels[1:]))
        names = {"player": [p for p, _, _ in rows], "head": [l + h for _, l, h in rows]}
        noise = None if self.floor is None else self.floor.split_frame()
        return self._table(names, self.split.flatten(0, 2), noise, self.adjusted_p.get("split"))

    def activations_frame(self) -> pd.DataFrame:
        """Make a table with one row per measure and hook.

        Raises:
            InputError: If activations were not compared.
        """
        if self.activations is None:
            raise InputError("this summary has no activations; average diff(..., activations=True)")
        rows = list(product(self.activations, self.hooks))
        names = {"measure": [m for m, _ in rows], "hook": [h for _, h in rows]}
        table = torch.cat(list(self.activations.values()))
        return self._table(names, table, None if self.floor is None else self.floor.activations_frame())

    def _table(
        self, names: dict[str, Any], table: Tensor, floor: pd.DataFrame | None, adjusted_p: Tensor | None = None
    ) -> pd.DataFrame:
        """Make a table of names, mean, interval and adjusted p-value of each row, and the mean of the baseline."""
        frame = pd.DataFrame({**names, **dict(zip(("mean", "low", "high"), table.T.tolist(), strict=False))})
        if adjusted_p is not None:
            frame["p"] = adjusted_p.flatten().tolist()
        if floor is not None:
            frame["floor"] = floor["mean"]
        return frame


def diff_row(d: ModelDiff) -> Row:
    """Take the numbers of one diff, averaged over answer tokens or positions, and its two attributions."""
    scalars = [getattr(d, f"delta_{name}").mean() for name in SCALARS]
    numbers = {"components": d.delta_components.mean(-1), "heads": d.delta_heads.mean(-1)}
    about: dict[str, Any] = {"labels": (d.components_before.labels[0], *d.heads_before.labels[:2])}
    if d.activations is not None:
        changes = d.activations
        first = len(changes.tokens) - len(d.answer_tokens)
        # The position before the first answer token predicts it; a prompt of one token predicts no prompt token.
        scalars += [changes.kl[:first].mean(), changes.kl[first:].mean()]
        numbers["activations"] = torch.stack(
            [changes.relative.nanmean(1), changes.cosine.nanmean(1), changes.cka.to(changes.cosine)]
        )  # [measure, hook]
        about["hooks"] = changes.hooks
    if d.split is not None:
        why = d.split
        shares = why.values if why.pattern_parts is None else torch.cat([why.values, why.pattern_parts])
        numbers["split"] = shares.mean(-1)  # [player, layer, head]
        about["players"] = (*why.players, *(() if why.pattern_parts is None else PATTERN_PARTS))
    numbers["scalars"] = torch.stack(scalars)
    both = None
    if d.contributions_before is not None and d.contributions_after is not None:
        both = (d.contributions_before, d.contributions_after)
    return Row(numbers, about, both)


def noise_of_diff(d: ModelDiff) -> ModelDiff | None:
    """Return the noise baseline of a diff, with that of its split and activations in place."""
    if d.floor is None:
        return None
    return replace(
        d.floor,
        split=None if d.split is None else d.split.floor,
        activations=None if d.activations is None else d.activations.floor,
    )


def summary_of_diffs(rows: Sequence[Row], sample: Sample) -> DiffSummary:
    """Average the rows of one pair of models."""
    numbers, about = stacked(rows)
    means = {name: sample.means(values.double()) for name, values in numbers.items()}
    names = (*SCALARS, *(KL if "activations" in means else ()))
    return DiffSummary(
        scalars=dict(zip(names, means["scalars"], strict=True)),
        components=means["components"],
        heads=means["heads"],
        items=numbers["scalars"],
        labels=about["labels"],
        ids=sample.ids,
        split=means.get("split"),
        players=about.get("players", ()),
        activations=dict(zip(MEASURES, means["activations"], strict=True)) if "activations" in means else None,
        hooks=about.get("hooks", ()),
        focus=_focus(rows, sample),
        level=sample.level,
        settings=sample.settings,
        adjusted_p={
            name: sample.adjusted_p(numbers[name]) for name in ("components", "heads", "split") if name in numbers
        },
    )


def _focus(rows: Sequence[Row], sample: Sample) -> Focus | None:
    """Compare the attributions of all rows; None if they hold none."""
    both = [row.contributions for row in rows if row.contributions is not None]
    if not both:
        return None
    before, after = ([replace(pair[side], id=i) for pair, i in zip(both, sample.ids, strict=True)] for side in (0, 1))
    return focus(before, after, level=sample.level, resamples=sample.resamples, seed=sample.seed)
