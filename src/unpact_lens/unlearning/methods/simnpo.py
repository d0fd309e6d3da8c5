"""Register SimNPO: NPO without a reference model, normalised by length."""

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.trainer import Options

SIMNPO: Options = {"beta": Option(4.5, Number(0, above=True)), "delta": Option(0.0, Number())}
"""Hyperparameters of the SimNPO loss."""

add_with_retain_terms(
    Method(
        "simnpo",
        "NPO without a reference, on the mean log-probability of each answer",
        "−(2/β)·mean log σ(−β·ℓ/T − δβ)",
        "Fan et al. 2024, arXiv 2410.07163",
        forget=lambda view, options: losses.simnpo(view.log_probs, view.mask, options["beta"], options["delta"]),
        per="example",
        defaults={"gamma": 0.125},
        options=SIMNPO,
        note="the source always adds a retain term: simnpo_gdr.",
    ),
    lr={"gdr": 4e-4, "klr": 4e-4},
    rehearsed=True,
)
