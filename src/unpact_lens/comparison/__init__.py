"""One model against another: what changed between before and after, and where."""

from unpact_lens.comparison.focus import Focus
from unpact_lens.comparison.result import ModelDiff, PatchingMap, WeightChanges

__all__ = ["Focus", "ModelDiff", "PatchingMap", "WeightChanges"]
