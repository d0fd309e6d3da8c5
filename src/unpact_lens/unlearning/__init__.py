"""Making a model forget: pure losses, a registry of methods, and one loop that trains them all."""

from unpact_lens.unlearning.result import History, StopRule, Unlearned

__all__ = ["History", "StopRule", "Unlearned"]
