"""Compute what the explorer's views show, once per question, and write it as numbers of JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unpact_lens.attribution import Attribution, TopK
from unpact_lens.comparison import HeadSplit, ModelDiff, PatchingMap, diff, patch, split_heads
from unpact_lens.decomposition.result import Decomposition
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_right
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.tokens import continuation_ids, token_strings
from unpact_lens.scoring import log_prob

if TYPE_CHECKING:
    from unpact_lens.explorer.request import Request
    from unpact_lens.explorer.session import Asked, ExplorerSession

KEY_TOKENS = 3
"""Number of KeyTokens whose words are chosen for emphasis at first."""


def contributions(session: ExplorerSession, asked: Asked) -> tuple[Attribution, Attribution]:
    """Return the leave-one-out contributions of the prompt's tokens in the original and the unlearned model, nats."""
    found = session.kept(
        ("contributions", asked.prompt, asked.answer),
        lambda: diff(*session.pair, asked.prompt, asked.answer, weights=False, **asked.options),
    )
    assert found.contributions_before is not None
    assert found.contributions_after is not None
    return found.contributions_before, found.contributions_after


def head_values(session: ExplorerSession, asked: Asked) -> ModelDiff:
    """Return what each head adds to the answer's logit, with its source tokens, in both models."""
    return session.kept(
        ("heads", asked.prompt, asked.answer),
        lambda: diff(
            *session.pair, asked.prompt, asked.answer, contributions=False, sources=True, weights=False, **asked.options
        ),
    )


def sources(found: ModelDiff) -> tuple[Decomposition, Decomposition]:
    """Return the decompositions by head and source token of both models."""
    assert found.sources_before is not None
    assert found.sources_after is not None
    return found.sources_before, found.sources_after


def head_split(session: ExplorerSession, asked: Asked) -> HeadSplit:
    """Return why each head changed."""
    return session.kept(
        ("split", asked.prompt, asked.answer),
        lambda: split_heads(*session.pair, asked.prompt, asked.answer, **asked.options),
    )


def patched_head(session: ExplorerSession, asked: Asked, layer: int, head: int) -> PatchingMap:
    """Return the answer's log-probability with one head of the original model in the unlearned model, nats."""
    return session.kept(
        ("patch", asked.prompt, asked.answer, layer, head),
        lambda: patch(
            *session.pair, asked.prompt, asked.answer, what="head", layers=[layer], heads=[head], **asked.options
        ),
    )


def greedy(session: ExplorerSession, role: str, prompt: str, prefill: str, room: int = 0) -> str:
    """Return the greedy answer of one model.

    Args:
        session: Session.
        role: Model that answers.
        prompt: Prompt.
        prefill: Answer prefix.
        room: Number of tokens that the answer may have at least.
    """
    asking = session.asking
    most = max(room, asking.max_new_tokens)
    return session.kept(
        ("greedy", role, prompt, prefill, most),
        lambda: generate_answers(
            session.models[role], [prompt], prefills=prefill, max_new_tokens=most, stop=session.stop, chat=asking.chat
        )[0],
    )


def room_for(session: ExplorerSession, asked: Asked) -> int:
    """Return the number of tokens of a generated answer that leaves room for the asked one."""
    length = len(continuation_ids(session.models["before"], asked.answer, "answer"))
    return max(session.asking.max_new_tokens, length)


def answer_tokens(session: ExplorerSession, asked: Asked) -> tuple[str, ...]:
    """Return the tokens of the asked answer."""
    example = session.asking.but(**asked.options).encode(session.models["before"], asked.prompt, asked.answer)
    return token_strings(session.models["before"], example.answer)


def answered(session: ExplorerSession, role: str, asked: Asked, room: int) -> dict[str, object]:
    """Return one model's greedy answer, whether it gives the fact, and its log p of the asked answer.

    Args:
        session: Session.
        role: Model that answers.
        asked: Prompt, scored answer and answer prefix. `qa` holds the fact.
        room: Number of tokens that the greedy answer may have.
    """
    prefill = str(asked.options.get("prefill", ""))
    said = greedy(session, role, asked.prompt, prefill, room)
    scores = session.kept(
        ("log_prob", role, asked.prompt, asked.answer, prefill),
        lambda: log_prob(session.models[role], asked.prompt, asked.answer, per_token=True, **asked.options),
    )
    return {
        "role": role,
        "said": said,
        "right": fact_right(said, asked.qa),
        "per_token": numbers(scores),
        **answer_probability(float(scores.mean()), len(scores)),
    }


def answer_probability(mean: float, count: int) -> dict[str, object]:
    """Return the mean log-probability of an answer token, nats, and the probability of the whole answer."""
    return {"log_prob": number(mean), "probability": number(math.exp(mean * count))}


def key_words(found: Attribution) -> list[str]:
    """Return the words of the `KEY_TOKENS` prompt tokens with the largest contributions."""
    return list(found.key_tokens(TopK(KEY_TOKENS)).words)


def column(values: Tensor, request: Request) -> Tensor:
    """Return the values of the chosen answer token, or the mean over the answer tokens; they are the last axis.

    Raises:
        InputError: If there is no such answer token.
    """
    if request.column is None:
        return values.mean(-1)
    if request.column >= values.shape[-1]:
        raise InputError(f"column={request.column}; the answer has {values.shape[-1]} tokens, counted from 0")
    return values[..., request.column]


def check_head(session: ExplorerSession, request: Request) -> None:
    """Refuse a head that the models do not have.

    Raises:
        InputError: If there is no such layer or head.
    """
    cfg = session.models["before"].cfg
    if request.layer >= cfg.n_layers or request.head >= cfg.n_heads:
        raise InputError(
            f"no head L{request.layer}H{request.head}; the models have {cfg.n_layers} layers of {cfg.n_heads} heads"
        )


def number(value: object) -> float | None:
    """Return a number of JSON with six digits; None if it is not finite."""
    found = float(value)  # type: ignore[arg-type]
    return float(f"{found:.6g}") if math.isfinite(found) else None


def numbers(values: Tensor) -> list[object]:
    """Return a tensor as nested lists of `number`."""
    rows = values.detach().cpu().to(torch.float64)
    return [number(row) if row.ndim == 0 else numbers(row) for row in rows]
