"""Register WGA: gradient ascent that spares unlikely tokens."""

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms

add_with_retain_terms(
    Method(
        "wga",
        "gradient ascent that spares tokens already unlikely",
        "mean sg[p^β]·log p",
        "Wang et al. 2025, arXiv 2502.19301",
        forget=lambda view, options: losses.wga(view.log_probs, view.mask, options["beta"]),
        options={"beta": Option(1.0, Number(0))},
        note="the weight carries no gradient.",
    ),
    lr={"gdr": 4e-4, "klr": 4e-4},
)
