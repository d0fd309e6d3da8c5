"""One model against another: what changed between before and after, and where."""

from unpact_lens.comparison.activations import activation_changes
from unpact_lens.comparison.difference import diff
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.comparison.grafting import graft, graft_map
from unpact_lens.comparison.patching import patch
from unpact_lens.comparison.result import ActivationChanges, HeadSplit, ModelDiff, PatchingMap, WeightChanges
from unpact_lens.comparison.shapley import split_heads
from unpact_lens.comparison.weights import weight_changes

__all__ = [
    "ActivationChanges",
    "Focus",
    "HeadSplit",
    "ModelDiff",
    "PatchingMap",
    "WeightChanges",
    "activation_changes",
    "diff",
    "focus",
    "graft",
    "graft_map",
    "patch",
    "split_heads",
    "weight_changes",
]
