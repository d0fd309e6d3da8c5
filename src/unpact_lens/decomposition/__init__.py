"""How much each component of the residual stream contributes to the answer."""

from unpact_lens.decomposition.result import Decomposition, LensCurves
from unpact_lens.decomposition.target import VOCABULARY
from unpact_lens.decomposition.views import decompose

__all__ = ["VOCABULARY", "Decomposition", "LensCurves", "decompose"]
