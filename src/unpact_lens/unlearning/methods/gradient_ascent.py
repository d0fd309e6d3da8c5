"""Register gradient ascent: make every answer token less likely."""

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms

add_with_retain_terms(
    Method(
        "ga",
        "gradient ascent: make every answer token less likely",
        "mean log p",
        "Jang et al. 2022, arXiv 2210.01504; with a retain term: TOFU (arXiv 2401.06121), MUSE (arXiv 2407.06460)",
        forget=lambda view, options: losses.gradient_ascent(view.log_probs, view.mask),
        note="diverges unless stopped: use stop_at. KLR is a true KL of distributions; public code for MUSE feeds raw "
        "logits to its KL.",
    ),
    rehearsed=True,
)
