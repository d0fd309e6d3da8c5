"""Every method, declared: its loss on the forget set, what holds the retain set, its defaults and its source."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.unlearning import losses, prepare, selective
from unpact_lens.unlearning.batch import View
from unpact_lens.unlearning.ensembles import Ensemble, offset
from unpact_lens.unlearning.methods import METHODS, Method, Options
from unpact_lens.unlearning.prepare import REFUSALS
from unpact_lens.unlearning.sparsity_aware import SparseUpdate
from unpact_lens.unlearning.trainer import Loss


def retain_nll(view: View, options: Options) -> Tensor:
    """GDR: go on learning the retain set."""
    return losses.nll(view.log_probs, view.mask)


def retain_kl(view: View, options: Options) -> Tensor:
    """KLR: keep the next-token distributions on the retain set."""
    return losses.kl_to_reference(view.logits, view.ref_logits, view.mask)


def dpo_loss(view: View, options: Options) -> Tensor:
    """DPO: the alternative is chosen, the answer to forget rejected."""
    chosen, rejected = view.alternative, view
    return losses.dpo(
        losses.sequence_sums(chosen.log_probs, chosen.mask),
        losses.sequence_sums(chosen.ref_log_probs, chosen.mask),
        losses.sequence_sums(rejected.log_probs, rejected.mask),
        losses.sequence_sums(rejected.ref_log_probs, rejected.mask),
        options["beta"],
        options["scale"],
    )


def whp_loss(view: View, options: Options) -> Tensor:
    """Cross-entropy to the generic predictions."""
    target = losses.whp_target(view.ref_logits, view.reinforced_logits, options["strength"])
    return losses.soft_cross_entropy(view.logits, target, view.mask)


def rmu_forget_loss(view: View, options: Options) -> Tensor:
    """Steer the residual stream to the drawn direction."""
    assert view.data.direction is not None
    return losses.rmu_forget(view.acts(options["layer"]), view.data.direction, options["c"], view.mask)


def rmu_retain_loss(view: View, options: Options) -> Tensor:
    """Keep the residual stream where it was."""
    return losses.rmu_retain(view.acts(options["layer"]), view.ref_acts(options["layer"]), view.mask)


def with_small_model(model: Any, options: Options) -> Ensemble:
    """The big model beside two copies of the small one, of which the first is trained."""
    small = options["small"]
    if small is None:
        raise InputError("method 'offset' needs a small model; give small=, a hooked model with the same tokenizer")
    big, tuned, fixed = clone(model), clone(small), clone(small)
    return offset(big.requires_grad_(False), tuned, fixed.requires_grad_(False), options["weight"])


REGULARISERS = {
    "gdr": (retain_nll, "−mean log p on D_r"),
    "klr": (retain_kl, "mean KL(p_θ0 ‖ p_θ) on D_r"),
}


def register(method: Method, *suffixes: str) -> None:
    """Add a method, and a variant of it for each of the named retain regularisers."""
    METHODS.add(method.name, method)
    for suffix in suffixes:
        loss, formula = REGULARISERS[suffix]
        METHODS.add(
            f"{method.name}_{suffix}",
            replace(
                method,
                name=f"{method.name}_{suffix}",
                line=f"{method.line}; the retain set is held by {suffix.upper()}",
                formula=f"γ·[{method.formula}] + α·[{formula}]",
                retain=loss,
            ),
        )


BOTH = ("gdr", "klr")
PAIRS = {"beta": 0.1, "scale": 1.0}

register(
    Method(
        "ga",
        "gradient ascent: make every answer token less likely",
        "mean log p",
        "Jang et al. 2022, arXiv 2210.01504; with a retain term: TOFU (arXiv 2401.06121), MUSE (arXiv 2407.06460)",
        forget=lambda v, o: losses.gradient_ascent(v.log_probs, v.mask),
        note="diverges unless stopped: use stop_at. KLR is a true KL of distributions; public code for MUSE feeds raw "
        "logits to its KL.",
    ),
    *BOTH,
)
register(
    Method(
        "npo",
        "negative preference optimisation: make each answer less likely than before, ever more gently",
        "(2/β)·mean softplus(β(ℓ_θ − ℓ_θ0)) / mean T",
        "Zhang et al. 2024, arXiv 2404.05868",
        forget=lambda v, o: losses.npo(v.log_probs, v.ref_log_probs, v.mask, o["beta"]),
        per="example",
        sums=True,
        options={"beta": 0.1, "length_scale": True},
        note="divided by the mean answer length of the forget set, so that a retain term, a mean over tokens, is not "
        "swamped; length_scale=False gives the source's scale.",
    ),
    *BOTH,
)
register(
    Method(
        "simnpo",
        "NPO without a reference, on the mean log-probability of each answer",
        "−(2/β)·mean log σ(−β·ℓ/T − δβ)",
        "Fan et al. 2024, arXiv 2410.07163",
        forget=lambda v, o: losses.simnpo(v.log_probs, v.mask, o["beta"], o["delta"]),
        per="example",
        defaults={"gamma": 0.125},
        options={"beta": 4.5, "delta": 0.0},
        note="the source always adds a retain term: simnpo_gdr.",
    ),
    *BOTH,
)
register(
    Method(
        "idk_ft",
        "learn to answer forget questions with a refusal",
        "−mean log p of a refusal",
        "TOFU, Maini et al. 2024, arXiv 2401.06121",
        forget=lambda v, o: losses.nll(v.log_probs, v.mask),
        options={"refusals": REFUSALS},
        prepare=prepare.train_on_refusals,
        note="each example keeps the refusal that was drawn for it.",
    ),
    *BOTH,
)
register(
    Method(
        "idk_dpo",
        "prefer a refusal to the answer",
        "−mean log σ(β[(ℓ_c − ℓ_c0) − (ℓ_r − ℓ_r0)]), c a refusal, r the answer",
        "TOFU, Maini et al. 2024, arXiv 2401.06121; loss of arXiv 2305.18290",
        forget=dpo_loss,
        per="example",
        options={**PAIRS, "refusals": REFUSALS},
        prepare=prepare.pair_with_refusals,
        note="public toolkits multiply by 2/β: scale=2/beta.",
    ),
    *BOTH,
)
register(
    Method(
        "dpo",
        "prefer one other answer of the same form to the answer",
        "−mean log σ(β[(ℓ_c − ℓ_c0) − (ℓ_r − ℓ_r0)]), c an alternative, r the answer",
        "Rafailov et al. 2023, arXiv 2305.18290",
        forget=dpo_loss,
        per="example",
        options={**PAIRS, "alternatives": None, "n_alternatives": 1},
        prepare=prepare.pair_with_alternatives,
        note="alternatives: those given, else the item's perturbed answers, else answers of other items of its kind.",
    ),
    *BOTH,
)
register(
    Method(
        "altpo",
        "prefer several plausible in-domain answers to the answer",
        "as dpo, over several alternatives for each question",
        "Mekala et al. 2024, arXiv 2409.13474",
        forget=dpo_loss,
        per="example",
        options={**PAIRS, "alternatives": None, "n_alternatives": 5},
        prepare=prepare.pair_with_alternatives,
        note="the source lets an instruction-tuned model write the alternatives; here they are given, or the item's "
        "perturbed answers, or answers of other items of its kind. The source adds a retain term: altpo_gdr.",
    ),
    *BOTH,
)
METHODS.add(
    "task_vector",
    Method(
        "task_vector",
        "task arithmetic: learn the forget set by heart, then go the opposite way",
        "θ_0 − a(θ_ft − θ_0), θ_ft trained on −mean log p of D_f",
        "Ilharco et al. 2022, arXiv 2212.04089; MUSE, arXiv 2407.06460",
        forget=lambda v, o: losses.nll(v.log_probs, v.mask),
        options={"coefficient": None, "max_coefficient": 256.0, "tolerance": 0.05},
        note="a is the smallest that reaches the forget level, found by doubling and bisection; with no level, 1.",
        kind="arithmetic",
    ),
)
register(
    Method(
        "whp",
        "Who's Harry Potter: learn what a model says that has not read the forget set, guessed from one that reread it",
        "CE to softmax(z_b − a·ReLU(z_r − z_b)), z_r of a model trained further on D_f",
        "Eldan and Russinovich 2023, arXiv 2310.02238; MUSE, arXiv 2407.06460",
        forget=whp_loss,
        options={"strength": 5.0, "reinforce_steps": 50, "reinforce_lr": 1e-5},
        prepare=prepare.reinforce,
        note="no replacement of names by generic words, as in MUSE. `inference.whp` predicts so without training.",
    ),
    *BOTH,
)
METHODS.add(
    "rmu",
    Method(
        "rmu",
        "representation misdirection: send forget text to a random direction in the residual stream, keep the rest",
        "mean (h_l(x_f) − c·u)² + a·mean (h_l(x_r) − h_l⁰(x_r))²",
        "Li et al. 2024, arXiv 2403.03218",
        forget=rmu_forget_loss,
        retain=rmu_retain_loss,
        defaults={"lr": 5e-5, "batch_size": 4, "steps": 150, "alpha": 1200.0},
        options={"layer": None, "c": 6.5},
        prepare=prepare.choose_direction,
        note="layer None is 7/32 of the depth, as 7 in Zephyr; trains mlp.W_out of that layer and the two below only "
        "(modules= changes it). On questions, the positions that predict answer tokens count.",
    ),
)
register(
    Method(
        "undial",
        "self-distillation from the model before, with the memorised token's logit lowered",
        "CE to softmax(z_0 − β·onehot(y))",
        "Dong et al. 2024, arXiv 2402.10052",
        forget=lambda v, o: losses.undial(v.logits, v.ref_logits, v.labels, v.mask, o["beta"]),
        defaults={"lr": 1e-4},
        options={"beta": 10.0},
        note="padding is masked; the public code leaves it in.",
    ),
    *BOTH,
)
register(
    Method(
        "wga",
        "gradient ascent that spares tokens already unlikely",
        "mean sg[p^β]·log p",
        "Wang et al. 2025, arXiv 2502.19301",
        forget=lambda v, o: losses.wga(v.log_probs, v.mask, o["beta"]),
        options={"beta": 1.0},
        note="the weight carries no gradient.",
    ),
    *BOTH,
)
register(
    Method(
        "satimp",
        "gradient ascent weighted by saturation and importance",
        "mean sg[p^β1·(1−p)^β2]·log p",
        "Yang et al. 2025, arXiv 2505.11953",
        forget=lambda v, o: losses.satimp(v.log_probs, v.mask, o["beta1_weight"], o["beta2_weight"]),
        defaults={"gamma": 0.1},
        options={"beta1_weight": 5.0, "beta2_weight": 1.0},
        note="the exponents are beta1_weight and beta2_weight: beta1 and beta2 are AdamW's.",
    ),
    *BOTH,
)
register(
    Method(
        "ce_u",
        "cross-entropy to the model's own distribution without the answer token",
        "CE to sg[softmax(z with z_y = −∞)]",
        "Yang 2025, arXiv 2503.01224",
        forget=lambda v, o: losses.ce_u(v.logits, v.labels, v.mask),
    ),
    *BOTH,
)
METHODS.add(
    "sparsity_aware",
    Method(
        "sparsity_aware",
        "prune first, then unlearn with updates that reach only surviving weights, the important ones most",
        "mean log p + α·[−mean log p on D_r]; gradient m⊙g⊙(1 + λ·imp), imp = |θ⊙g| over its mean, at the norm of g",
        "Wang 2026: our reading, its exact form is not known to us (no arXiv id)",
        forget=lambda v, o: losses.gradient_ascent(v.log_probs, v.mask),
        retain=retain_nll,
        options={"sparsity": 0.3, "strength": 1.0},
        rule=SparseUpdate,
        note="magnitude pruning, matrix by matrix; embeddings are left whole. Pruned weights stay exactly 0.",
    ),
)
METHODS.add(
    "whp_inference",
    Method(
        "whp_inference",
        "Who's Harry Potter with no training of the model: the generic predictions themselves",
        "z_b − a·ReLU(z_r − z_b) at inference, z_r of a model trained further on D_f",
        "Eldan and Russinovich 2023, arXiv 2310.02238; MUSE, arXiv 2407.06460",
        forget=lambda v, o: losses.nll(v.log_probs, v.mask),
        options={"strength": 5.0, "reinforce_steps": 50, "reinforce_lr": 1e-5},
        prepare=prepare.reinforce,
        note="the result is two models that predict together; it can be scored, asked and attributed, not decomposed.",
        kind="inference",
    ),
)
register(
    Method(
        "offset",
        "offset unlearning: train a small model, add what changed in its logits to the big one's",
        "mean log p under z_big + w(z_small' − z_small), small' trained",
        "Huang et al. 2024, arXiv 2404.11045",
        forget=lambda v, o: losses.gradient_ascent(v.log_probs, v.mask),
        options={"small": None, "weight": 1.0},
        wrap=with_small_model,
        note="small= is a HookedTransformer with the same tokenizer. The result is three models that predict together.",
    ),
    *BOTH,
)
METHODS.add(
    "o3",
    Method(
        "o3",
        "one low-rank adapter a request, orthogonal to earlier ones, used only where the request is in question",
        "γ·[mean log p] + α·[−mean log p on D_r] on adapters with A_iᵀA_j = 0",
        "Gao et al. 2024, arXiv 2407.10223",
        forget=lambda v, o: losses.gradient_ascent(v.log_probs, v.mask),
        retain=retain_nll,
        defaults={"rank": 8},
        note="orthogonal by projection, where the source has a soft penalty; the gate compares the base model's final "
        "residual at each position with the forget set's, where the source trains a detector of its own. For a "
        "second request, pass the model of the first.",
        kind="gated",
    ),
)


def _per_example(template: Method, base: str, what: str, loss: Loss, options: Options) -> Method:
    """A method that weighs ascent's tokens, on a base loss that is taken of whole answers."""
    return replace(
        template,
        name=f"{template.name}_{base}",
        line=what + template.line.removeprefix("ascent"),
        forget=loss,
        per="example",
        sums="length_scale" in options,
        options={**template.options, **options},
    )


SELECT = Method(
    "unpact_select",
    "ascent on the answer tokens that depend on the KeyTokens, likelihood of the rest",
    "base loss with token weights w_k ∝ max(0, Σ_{i∈Key} C_ik), at most 1, − keep_rest·mean [w_k = 0]·log p",
    "this toolkit, from the third finding of arXiv 2509.24675",
    forget=selective.selective_ascent,
    options={"key_tokens": 3, "weigh_sequences": False, "keep_rest": 1.0, "share": None, "pick": "key"},
    prepare=selective.weigh_tokens,
    note="contributions are taken once, from the model before; key_tokens is the k of TopK. "
    "share= penalises that share of each answer's tokens alike, those that depend most first, or any with "
    "pick='chance'; at share=1 it is the base loss.",
)
RECALL = Method(
    "unpact_recall",
    "ascent on the answer tokens that get less likely with the key words hidden, likelihood of the rest",
    "base loss with token weights w_k ∝ max(0, log p(y_k | x, y<k) − log p(y_k | x', y'<k)), at most 1, 0 for what is "
    "copied from x, − keep_rest·mean [w_k = 0]·log p",
    "this toolkit, from the first and third findings of arXiv 2509.24675",
    forget=selective.selective_ascent,
    options={"key_tokens": 3, "keep_rest": 1.0},
    prepare=selective.weigh_recalled,
    note="x' and y' lack the key_tokens words that contribute most, which are found once, with the model before. For "
    "answers that are sentences and repeat the question; on bare facts it is much like unpact_select.",
)
NPO: Options = {"beta": 0.1, "length_scale": True}
SIMNPO: Options = {"beta": 4.5, "delta": 0.0}
for selected in (
    SELECT,
    _per_example(SELECT, "npo", "NPO", selective.selective_npo, NPO),
    _per_example(SELECT, "simnpo", "SimNPO", selective.selective_simnpo, SIMNPO),
    RECALL,
    _per_example(RECALL, "npo", "NPO", selective.selective_npo, NPO),
):
    register(selected, *BOTH)
register(
    Method(
        "unpact_blind",
        "learn to answer the prompt as the model before answers it without its KeyTokens",
        "mean KL(p_θ0(· | x without Key, y<k) ‖ p_θ(· | x, y<k))",
        "this toolkit, from the first and third findings of arXiv 2509.24675",
        forget=selective.blind,
        options={"key_tokens": 3},
        prepare=selective.hide_keys,
        note="KeyTokens are taken once, from the model before, and deleted as ids; key_tokens is the k of TopK.",
    ),
    *BOTH,
)
