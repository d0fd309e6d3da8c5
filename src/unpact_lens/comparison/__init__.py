"""One model against another: what changed between before and after, and where."""

from unpact_lens.comparison.activation_changes import activation_changes
from unpact_lens.comparison.attention_patterns import AttentionPatterns, attention_patterns
from unpact_lens.comparison.diff import diff
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.comparison.graft import graft, graft_map
from unpact_lens.comparison.key_path import KeyPath, key_path
from unpact_lens.comparison.lens_changes import LensChanges, lens_changes
from unpact_lens.comparison.patch import patch
from unpact_lens.comparison.restored import KeyPathSummary, PatchingSummary, graft_many, key_path_many, patch_many
from unpact_lens.comparison.result import ActivationChanges, HeadSplit, ModelDiff, PatchingMap, WeightChanges
from unpact_lens.comparison.split_heads import split_heads
from unpact_lens.comparison.summary import DiffSummary, diff_many
from unpact_lens.comparison.unlearning_depth import UnlearningDepth, unlearning_depth
from unpact_lens.comparison.weight_changes import weight_changes

__all__ = [
    "ActivationChanges",
    "AttentionPatterns",
    "DiffSummary",
    "Focus",
    "HeadSplit",
    "KeyPath",
    "KeyPathSummary",
    "LensChanges",
    "ModelDiff",
    "PatchingMap",
    "PatchingSummary",
    "UnlearningDepth",
    "WeightChanges",
    "activation_changes",
    "attention_patterns",
    "diff",
    "diff_many",
    "focus",
    "graft",
    "graft_many",
    "graft_map",
    "key_path",
    "key_path_many",
    "lens_changes",
    "patch",
    "patch_many",
    "split_heads",
    "unlearning_depth",
    "weight_changes",
]
