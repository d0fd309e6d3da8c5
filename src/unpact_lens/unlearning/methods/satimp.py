"""Register SatImp: gradient ascent weighted by saturation and importance."""

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms

add_with_retain_terms(
    Method(
        "satimp",
        "gradient ascent weighted by saturation and importance",
        "mean sg[p^β1·(1−p)^β2]·log p",
        "Yang et al. 2025, arXiv 2505.11953",
        forget=lambda view, options: losses.satimp(
            view.log_probs, view.mask, options["beta1_weight"], options["beta2_weight"]
        ),
        defaults={"gamma": 0.1},
        options={"beta1_weight": Option(5.0, Number(0)), "beta2_weight": Option(1.0, Number(0))},
        note="the exponents are beta1_weight and beta2_weight: beta1 and beta2 are AdamW's.",
    ),
    lr={"gdr": 4e-4, "klr": 4e-4},
)
