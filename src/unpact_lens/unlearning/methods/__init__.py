"""Register every unlearning method: one file for each family, named after it.

To add a method, add a file. Its entries follow those of the families in `ORDER` in the table of methods.
"""

import importlib

ORDER = (
    "gradient_ascent", "npo", "simnpo", "idk", "dpo", "task_vector", "whp", "rmu", "undial", "wga", "satimp", "ce_u",
    "sparsity_aware", "whp_inference", "offset", "o3", "unpact_select", "unpact_recall", "unpact_blind",
    "npo_null", "npo_orthogonal", "npo_ewc", "npo_local", "npo_small", "sam_npo", "jensun", "pdu", "relearn",
    "rmu_subject", "memit", "eco", "in_context",
)  # fmt: skip
"""Order of the families in the table of methods."""

for _family in ORDER:
    importlib.import_module(f"{__name__}.{_family}")
