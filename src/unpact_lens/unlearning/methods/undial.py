"""Register UNDIAL: self-distillation with the memorised token's logit lowered."""

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms

add_with_retain_terms(
    Method(
        "undial",
        "self-distillation from the model before, with the memorised token's logit lowered",
        "CE to softmax(z_0 − β·onehot(y))",
        "Dong et al. 2024, arXiv 2402.10052",
        forget=lambda view, options: losses.undial(
            view.logits, view.ref_logits, view.labels, view.mask, options["beta"]
        ),
        defaults={"lr": 8e-4},
        options={"beta": Option(10.0, Number(0, above=True))},
        note="padding is masked; the public code leaves it in.",
    ),
    lr={"gdr": 1.6e-3, "klr": 1.6e-3},
)
