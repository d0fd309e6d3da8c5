"""Register NPO, negative preference optimisation."""

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.option import Flag, Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.trainer import Options

NPO: Options = {"beta": Option(0.1, Number(0, above=True)), "length_scale": Option(True, Flag())}
"""Hyperparameters of the NPO loss."""

add_with_retain_terms(
    Method(
        "npo",
        "negative preference optimisation: make each answer less likely than before, ever more gently",
        "(2/β)·mean softplus(β(ℓ_θ − ℓ_θ0)) / mean T",
        "Zhang et al. 2024, arXiv 2404.05868",
        forget=lambda view, options: losses.npo(view.log_probs, view.ref_log_probs, view.mask, options["beta"]),
        per="example",
        sums=True,
        options=NPO,
        note="divided by the mean answer length of the forget set, so that a retain term, a mean over tokens, is not "
        "swamped; length_scale=False gives the source's scale.",
    ),
    rehearsed=True,
)
