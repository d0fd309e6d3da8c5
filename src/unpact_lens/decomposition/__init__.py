"""How much each component of the residual stream contributes to the answer."""

from unpact_lens.decomposition.result import Decomposition, LensCurves

__all__ = ["Decomposition", "LensCurves"]
