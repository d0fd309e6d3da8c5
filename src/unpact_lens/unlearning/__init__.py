"""Making a model forget: pure losses, a registry of methods, and one loop that trains them all."""

from unpact_lens.unlearning import catalogue as catalogue
from unpact_lens.unlearning.inference import Ensemble, offset, whp
from unpact_lens.unlearning.methods import METHODS, Method, methods
from unpact_lens.unlearning.orthogonal import Gated
from unpact_lens.unlearning.result import History, StopRule, Unlearned
from unpact_lens.unlearning.run import unlearn
from unpact_lens.unlearning.sequence import UnlearnedSequence, unlearn_sequence
from unpact_lens.unlearning.tuning import Tuning, tune

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
