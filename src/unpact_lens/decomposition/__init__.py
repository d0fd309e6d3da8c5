"""Compute how much each component of the residual stream contributes to the answer."""

from unpact_lens.boundary import guard_all
from unpact_lens.decomposition.ablate import Ablation, ablate
from unpact_lens.decomposition.decompose import decompose
from unpact_lens.decomposition.lens import TunedLens, lens_curves, train_tuned_lens
from unpact_lens.decomposition.logit_direction import VOCABULARY
from unpact_lens.decomposition.path_effects import PathEffects, path_effects
from unpact_lens.decomposition.result import Decomposition, LensCurves

__all__ = [
    "VOCABULARY",
    "Ablation",
    "Decomposition",
    "LensCurves",
    "PathEffects",
    "TunedLens",
    "ablate",
    "decompose",
    "lens_curves",
    "path_effects",
    "train_tuned_lens",
]

guard_all(globals(), __all__)
