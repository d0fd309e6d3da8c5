"""Making a model forget: pure losses, a registry of methods, and one loop that trains them all."""

from unpact_lens.unlearning import catalogue as catalogue
from unpact_lens.unlearning.methods import METHODS, Method, methods
from unpact_lens.unlearning.result import History, StopRule, Unlearned
from unpact_lens.unlearning.run import unlearn

__all__ = ["METHODS", "History", "Method", "StopRule", "Unlearned", "methods", "unlearn"]
