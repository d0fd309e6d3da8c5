"""One model against another: what changed between before and after, and where."""

from unpact_lens.comparison.difference import diff
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.comparison.result import ModelDiff, PatchingMap, WeightChanges
from unpact_lens.comparison.weights import weight_changes

__all__ = ["Focus", "ModelDiff", "PatchingMap", "WeightChanges", "diff", "focus", "weight_changes"]
