"""How much each component of the residual stream contributes to the answer."""

from unpact_lens.decomposition.ablation import Ablation, ablate
from unpact_lens.decomposition.lens import TunedLens, lens_curves, train_tuned_lens
from unpact_lens.decomposition.paths import PathEffects, path_effects
from unpact_lens.decomposition.result import Decomposition, LensCurves
from unpact_lens.decomposition.target import VOCABULARY
from unpact_lens.decomposition.views import decompose

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
