"""Unlearn: pure losses, a registry of methods with one file for each family, and one training loop for all.

The table of methods is `unpact_lens.methods()`; the methods are in the subpackage `unpact_lens.unlearning.methods`.
"""

from unpact_lens.boundary import guard_all
from unpact_lens.unlearning.check import Check
from unpact_lens.unlearning.early_stopping import StopRule
from unpact_lens.unlearning.ensembles import Ensemble
from unpact_lens.unlearning.log_to import log_to
from unpact_lens.unlearning.methods.eco import CorruptedNames
from unpact_lens.unlearning.methods.in_context import Prefixed
from unpact_lens.unlearning.methods.o3 import Gated
from unpact_lens.unlearning.methods.offset import offset
from unpact_lens.unlearning.methods.whp_inference import whp
from unpact_lens.unlearning.option import Number, OneOf, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.result import History, Trial, Unlearned
from unpact_lens.unlearning.self_rehearsal import self_rehearsal
from unpact_lens.unlearning.sequential import UnlearnedSequence, unlearn_sequence
from unpact_lens.unlearning.tune import Tuning, tune
from unpact_lens.unlearning.unlearn import unlearn

__all__ = [
    "METHODS",
    "Check",
    "CorruptedNames",
    "Ensemble",
    "Gated",
    "History",
    "Method",
    "Number",
    "OneOf",
    "Option",
    "Prefixed",
    "StopRule",
    "Trial",
    "Tuning",
    "Unlearned",
    "UnlearnedSequence",
    "log_to",
    "offset",
    "self_rehearsal",
    "tune",
    "unlearn",
    "unlearn_sequence",
    "whp",
]

guard_all(globals(), __all__)
