"""Does what was forgotten come back: emphasis, prefill, relearning, patching and more, each beside its controls."""

from unpact_lens.recovery.added import ADDED, add_probes, check_added, plan_added
from unpact_lens.recovery.attention import attend_to, scale_attention
from unpact_lens.recovery.emphasis import check_templates
from unpact_lens.recovery.leak import Leak, leak, leak_at_k, leak_emphasised
from unpact_lens.recovery.lens import lens_ranks, read_out_early, token_rank
from unpact_lens.recovery.patched import patched_answers, unrelated_fact
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.quantize import quantized, round_to_bits
from unpact_lens.recovery.relearn import relearned, taught_facts
from unpact_lens.recovery.result import Example, Recovery
from unpact_lens.recovery.run import recover, recovery_plan, run_plan

__all__ = [
    "ADDED",
    "Example",
    "Leak",
    "Recovery",
    "RecoveryPlan",
    "add_probes",
    "attend_to",
    "check_added",
    "check_templates",
    "leak",
    "leak_at_k",
    "leak_emphasised",
    "lens_ranks",
    "patched_answers",
    "plan_added",
    "quantized",
    "read_out_early",
    "recover",
    "recovery_plan",
    "relearned",
    "round_to_bits",
    "run_plan",
    "scale_attention",
    "taught_facts",
    "token_rank",
    "unrelated_fact",
]
