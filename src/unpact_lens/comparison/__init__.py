"""Compare two models: what changed between the original and the unlearned model, and where."""

from unpact_lens.boundary import guard_all
from unpact_lens.comparison.activation_changes import ActivationChanges, activation_changes
from unpact_lens.comparison.attention_patterns import AttentionPatterns, attention_patterns
from unpact_lens.comparison.average import average
from unpact_lens.comparison.decomposition_summary import DecompositionSummary
from unpact_lens.comparison.diff import ModelDiff, diff
from unpact_lens.comparison.diff_summary import DiffSummary
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.comparison.graft import graft, graft_map
from unpact_lens.comparison.key_path import KeyPath, key_path
from unpact_lens.comparison.key_path_summary import KeyPathSummary
from unpact_lens.comparison.lens_changes import LensChanges, lens_changes
from unpact_lens.comparison.many import diff_many, graft_many, key_path_many, patch_many
from unpact_lens.comparison.patch import patch
from unpact_lens.comparison.patching_map import PatchingMap
from unpact_lens.comparison.patching_summary import PatchingSummary
from unpact_lens.comparison.split_heads import HeadSplit, split_heads
from unpact_lens.comparison.unlearning_depth import UnlearningDepth, unlearning_depth
from unpact_lens.comparison.weight_changes import WeightChanges, weight_changes

__all__ = [
    "ActivationChanges",
    "AttentionPatterns",
    "DecompositionSummary",
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
    "average",
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

guard_all(globals(), __all__)
