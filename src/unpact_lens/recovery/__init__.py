"""Does what was forgotten come back: emphasis, prefill, relearning, each beside its controls."""

from unpact_lens.recovery.result import Example, Recovery

__all__ = ["Example", "Recovery"]
