"""Does what was forgotten come back: emphasis, prefill, relearning, each beside its controls."""

from unpact_lens.recovery.emphasis import check_templates
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.relearn import relearned, taught_facts
from unpact_lens.recovery.result import Example, Recovery
from unpact_lens.recovery.run import recover, recovery_plan, run_plan

__all__ = [
    "Example",
    "Recovery",
    "RecoveryPlan",
    "check_templates",
    "recover",
    "recovery_plan",
    "relearned",
    "run_plan",
    "taught_facts",
]
