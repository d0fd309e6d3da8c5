"""Register CE-U: cross-entropy to the model's own distribution without the answer token."""

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms

add_with_retain_terms(
    Method(
        "ce_u",
        "cross-entropy to the model's own distribution without the answer token",
        "CE to sg[softmax(z with z_y = −∞)]",
        "Yang 2025, arXiv 2503.01224",
        forget=lambda view, options: losses.ce_u(view.logits, view.labels, view.mask),
    )
)
