"""Try to bring forgotten facts back: emphasis, prefill, relearning, patching and more, each with its controls."""

from unpact_lens.boundary import guard_all
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.probes.attention import attend_to, scale_attention
from unpact_lens.recovery.probes.logit_lens import lens_ranks, read_out_early, token_rank
from unpact_lens.recovery.probes.patching import patched_answers, unrelated_fact
from unpact_lens.recovery.probes.quantize import quantized, round_to_bits
from unpact_lens.recovery.probes.registry import PROBES, probes
from unpact_lens.recovery.probes.relearn import relearned, taught_facts
from unpact_lens.recovery.probing import Probing, ProbingOptions, check_templates
from unpact_lens.recovery.recover import recover, recovery_plan, run_plan, with_probes
from unpact_lens.recovery.result import Example, Recovery
from unpact_lens.recovery.sampling import Leak, leak, leak_at_k, leak_emphasised

__all__ = [
    "PROBES",
    "Example",
    "Leak",
    "Probing",
    "ProbingOptions",
    "Recovery",
    "RecoveryPlan",
    "attend_to",
    "check_templates",
    "leak",
    "leak_at_k",
    "leak_emphasised",
    "lens_ranks",
    "patched_answers",
    "probes",
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
    "with_probes",
]

guard_all(globals(), __all__)
