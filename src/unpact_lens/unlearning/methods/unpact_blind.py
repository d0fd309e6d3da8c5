"""Register `unpact_blind`: learn to answer as the original model does without the KeyTokens; see `selective`."""

from __future__ import annotations

from torch import Tensor

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples, View
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.selective import KEYS, contributions, without_tokens
from unpact_lens.unlearning.trainer import Options


def hide_keys(job: Job) -> None:
    """Put each prompt without its KeyTokens beside it: the original model's answer to it is the target.

    A prompt that would be empty keeps the least of its KeyTokens.
    """
    pairs = zip(job.data.rows, contributions(job), strict=True)
    rows = [without_tokens(row, keys) for row, (_, keys) in pairs]
    job.data.blinded = Examples(rows, job.before, store=job.data.store)


def blind(view: View, options: Options) -> Tensor:
    """Compute the KL divergence from what the original model answers to the prompt without its KeyTokens."""
    return losses.kl_to_reference(view.logits, view.blinded_logits, view.mask)


add_with_retain_terms(
    Method(
        "unpact_blind",
        "learn to answer the prompt as the model before answers it without its KeyTokens",
        "mean KL(p_θ0(· | x without Key, y<k) ‖ p_θ(· | x, y<k))",
        "this toolkit, from the first and third findings of arXiv 2509.24675",
        forget=blind,
        options=KEYS,
        prepare=hide_keys,
        note="KeyTokens are taken once, from the original model, and deleted as ids; key_tokens is the k of TopK.",
    ),
    lr={"gdr": 4e-4, "klr": 4e-4},
    rehearsed=True,
)
