"""Register the AUC of each membership inference attack as a metric; the attacks are in `membership_inference.py`."""

from __future__ import annotations

from unpact_lens.evaluation.membership_inference import attacks
from unpact_lens.evaluation.metrics import BenchmarkRun, metric


@metric("mia_loss", source="arXiv 1709.01604", better="higher", of="benchmark")
def mia_loss(run: BenchmarkRun) -> float:
    """Compute the AUC of the loss attack; 0.5 by chance."""
    return run.once(attacks).auc("loss")


@metric("mia_zlib", source="arXiv 2012.07805", better="higher", of="benchmark")
def mia_zlib(run: BenchmarkRun) -> float:
    """Compute the AUC of the zlib attack; 0.5 by chance."""
    return run.once(attacks).auc("zlib")


@metric("mia_min_k", source="arXiv 2310.16789, k = 0.4", better="higher", of="benchmark")
def mia_min_k(run: BenchmarkRun) -> float:
    """Compute the AUC of the min-k attack; 0.5 by chance."""
    return run.once(attacks).auc("min_k")


@metric("mia_min_k_plus_plus", source="arXiv 2404.02936, k = 0.4", better="higher", of="benchmark")
def mia_min_k_plus_plus(run: BenchmarkRun) -> float:
    """Compute the AUC of the min-k++ attack; 0.5 by chance."""
    return run.once(attacks).auc("min_k_plus_plus")


@metric("mia_reference", source="arXiv 2111.08440", better="higher", of="benchmark")
def mia_reference(run: BenchmarkRun) -> float:
    """Compute the AUC of the attack that compares losses with the retrained model's; 0.5 by chance."""
    run.retrained("mia_reference")
    return run.once(attacks).auc("reference")
