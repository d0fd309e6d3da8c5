"""Compute contributions by replacing a unit's tokens, with all positions kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.scorer import Family
from unpact_lens.attribution.units import BOS, Example
from unpact_lens.errors import InputError
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, Text, continuation_ids


@attribution_method(
    "decrease when the unit becomes another token, given or drawn (mean over draws)",
    "Fong and Vedaldi 2017, arXiv 1704.03296",
    scores_only=True,
)
def replace(
    inputs: MethodInput, examples: Sequence[Example], *, token: Text | int | None = None, samples: int = 8
) -> list[MethodOutput]:
    r"""Compute contributions by replacement: $C(x_i, y_k) = v_k(x) - \frac1S \sum_s v_k(x[x_i \to t_s])$.

    Every token of the unit becomes $t_s$. If a token is given, $S = 1$. Otherwise tokens are drawn uniformly from the
    vocabulary without special tokens. The same draws serve all units of an example.

    Args:
        inputs: Scorer of the target, and seed.
        examples: Prompts with their answers, cut into units.
        token: Replacement: text of one token, or an id. If None, replacements are sampled.
        samples: Number of tokens to draw, S.

    Returns:
        Units x answer tokens, in the target's unit. With several draws, also the standard error over them.

    Raises:
        InputError: If the replacement is not exactly one token, or `samples` is below 1.

    Source: Fong and Vedaldi 2017, arXiv 1704.03296 (occlusion by replacement); captum's `FeatureAblation`.
    """
    if samples < 1:
        raise InputError(f"samples={samples}; replace needs at least 1 token to put in place of a unit")
    if token is None:
        tokens = sample_tokens(inputs.model, samples, inputs.seed)
    else:
        tokens = [one_token(inputs.scorer.model, token)]
    families: list[Family] = [
        [e.encoded, *(replaced(e, [u], t) for u in range(len(e.members)) for t in tokens)] for e in examples
    ]
    outputs = []
    for example, values in zip(examples, inputs.scorer(families), strict=True):
        changed = torch.stack(values[1:]).unflatten(0, (len(example.members), len(tokens)))  # [unit, draw, answer]
        loss = values[0] - changed
        error = loss.mean(-1).std(1) / len(tokens) ** 0.5 if len(tokens) > 1 else None  # [unit]
        outputs.append(MethodOutput(loss.mean(1), error=error))
    return outputs


def sample_tokens(model: HookedModel, count: int, seed: int) -> list[int]:
    """Draw token ids uniformly without replacement, special tokens excluded."""
    special = set(getattr(model.tokenizer, "all_special_ids", ()) or ())
    order = torch.randperm(model.cfg.d_vocab, generator=torch.Generator().manual_seed(seed)).tolist()
    return [t for t in order if t not in special][:count]


def one_token(model: HookedModel | Endpoint, token: Text | int) -> int:
    """Return the id of a text that is one token, or the given id.

    Raises:
        InputError: If the replacement is not one token of the vocabulary.
    """
    if isinstance(model, Endpoint):
        return model.piece(str(token))
    ids = continuation_ids(model, [token] if isinstance(token, int) else token, "replacement")
    if len(ids) != 1:
        raise InputError(f"the replacement {token!r} is {len(ids)} tokens long; give exactly one token")
    return ids[0]


def replaced(example: Example, units: Sequence[int], token: int) -> Encoded:
    """Return the example's ids with every token of some units replaced."""
    gone = {m for u in units for m in example.members[u]}
    encoded = example.encoded
    prompt = tuple(token if i in gone else t for i, t in enumerate(encoded.prompt))
    head = (token, *encoded.head[1:]) if BOS in gone else encoded.head
    return Encoded(head, prompt, encoded.tail, encoded.answer, encoded.n_bos)
