"""Attribute an answer to the units of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unpact_lens.attribution.attribute_many import attribute_many
from unpact_lens.attribution.result import Attribution
from unpact_lens.attribution.targets import Target
from unpact_lens.attribution.units import Units
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text


def attribute(
    model: HookedModel | Endpoint,
    prompt: Text,
    answer: Text | None,
    *,
    method: str = "leave_one_out",
    units: Units = "token",
    target: str | Target | Callable[..., Tensor] = "log_prob",
    foil: Text | None = None,
    attribute_bos: bool = False,
    seed: int = 0,
    **options: Any,
) -> Attribution:
    """Compute how much each unit of a prompt contributes to an answer.

    Args:
        model: Hooked causal model in eval mode, or an `Endpoint`.
        prompt: Text or ids.
        answer: Text, leading space included, or ids. If None, the model's own greedy answer is attributed.
        method: Name in `attribution_methods()`.
        units: `"token"`, `"word"` or `"sentence"`; a list of `(start, end)` token ranges or pieces of the text; or a
            function from the prompt's tokens to such a list.
        target: `"log_prob"`, `"logit"`, `"prob"`, `"logit_diff"` (needs `foil`), or a function of the logits
            `[answer, d_vocab]` and answer ids `[answer]`.
        foil: Text or ids whose logits are subtracted from the answer's.
        attribute_bos: Give BOS a row of its own.
        seed: Random seed of methods that sample.
        options: Options of `AskingOptions`, and the method's own. The tokens of a chat template stay in the input and
            are not attributed. By default, `batch_tokens` is set from the free memory.

    Returns:
        One row for each unit; see `Attribution`.

    Raises:
        InputError: If the prompt or the answer is empty, an id is outside the vocabulary, the text exceeds the context,
            a name is unknown, units overlap, the model is in train mode, or another input cannot be used.
    """
    return attribute_many(
        model,
        [(prompt, answer)],
        method=method,
        units=units,
        target=target,
        foil=foil,
        attribute_bos=attribute_bos,
        seed=seed,
        progress=False,
        **options,
    )[0]
