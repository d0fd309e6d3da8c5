"""Making a model forget: pure losses, a registry of methods, and one loop that trains them all."""

from unpact_lens.unlearning import catalogue as catalogue
from unpact_lens.unlearning.ensembles import Ensemble, offset, whp
from unpact_lens.unlearning.methods import METHODS, Method, methods
from unpact_lens.unlearning.o3 import Gated
from unpact_lens.unlearning.result import History, StopRule, Unlearned
from unpact_lens.unlearning.sequential import UnlearnedSequence, unlearn_sequence
from unpact_lens.unlearning.tune import Tuning, tune
from unpact_lens.unlearning.unlearn import unlearn

__all__ = [
    "METHODS",
    "Ensemble",
    "Gated",
    "History",
    "Method",
    "StopRule",
    "Tuning",
    "Unlearned",
    "UnlearnedSequence",
    "methods",
    "offset",
    "tune",
    "unlearn",
    "unlearn_sequence",
    "whp",
]
