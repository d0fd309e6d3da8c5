"""What a model answers: greedy continuations of many prompts at once.

Algorithm: sort the prompts by length and cut them into batches; pad each batch on the *left*, so that every row's next
token stands in the last column; run the prompts once, keeping keys and values; then feed one new token a row and step.
Only the last column is unembedded, and rows that have ended leave the batch, their keys and values with them.

Left padding is exact here and not an approximation: the attention mask hides the padding, and both kinds of model
count positions from the first token that the mask shows. It keeps one forward pass a step for prompts of any mixture
of lengths, where grouping prompts of equal length would need one for each length. The result equals generating one
prompt at a time, but for ties within rounding error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import Hooks
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, encode_context, length_batches

CACHED_PER_TOKEN = 4
"""Tokens of which only keys and values are held, that weigh as much as one that is read."""

PromptHooks = Callable[[list[int], int], Hooks]
"""From the indices of the contexts in a batch and its width to the interventions on it. Rows are padded on the left: a
context of n ids stands in the last n columns of its row."""


def greedy(
    model: Any,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    until: Callable[[int, Sequence[int]], bool] | None = None,
    prompt_hooks: PromptHooks | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[tuple[int, ...]]:
    r"""The most likely next token, again and again: $y_k = \arg\max_v p(v \mid x, y_{<k})$.

    Args:
        model: a hooked causal model.
        contexts: for each prompt all ids that the model reads, BOS included where it takes one.
        max_new_tokens: how many ids to generate at most.
        stop_ids: ids that end an answer; they are not part of it.
        until: further ends an answer: called with the index of the context and its new ids so far, after each of them.
        prompt_hooks: interventions on the reading of the contexts, and not on what is generated; see `PromptHooks`.
        batch_tokens: bound on the tokens of one batch that are read at once, padding included; keys and values are held
            of at most `CACHED_PER_TOKEN` times as many, what will be generated included.

    Returns:
        For each context the new ids only, in the order given.

    Raises:
        InputError: if a context is empty, holds an id outside the vocabulary or leaves no room for the answer, if
            `max_new_tokens` is below 1, or the model's weights give NaN.
    """
    _check(model, contexts, max_new_tokens)
    stops = frozenset(stop_ids)
    answers: list[list[int]] = [[] for _ in contexts]
    with torch.inference_mode():
        room = [max(len(c), -(-(len(c) + max_new_tokens) // CACHED_PER_TOKEN)) for c in contexts]
        for batch in length_batches(room, batch_tokens):
            rows = list(batch)
            stepper = (_Together if hooked.members_of(model) else _Stepper)(model, [contexts[i] for i in rows])
            width = max(len(contexts[i]) for i in rows)
            new = stepper.start(prompt_hooks(rows, width) if prompt_hooks else ())
            for _ in range(max_new_tokens):
                running = []
                for row, (i, token) in enumerate(zip(rows, new.tolist(), strict=True)):
                    if token in stops:
                        continue
                    answers[i].append(token)
                    if len(answers[i]) < max_new_tokens and not (until and until(i, answers[i])):
                        running.append(row)
                if not running:
                    break
                if len(running) < len(rows):
                    rows = [rows[row] for row in running]
                    keep = torch.tensor(running, device=new.device)
                    stepper.keep(keep)
                    new = new[keep]
                new = stepper.step(new)
    return [tuple(a) for a in answers]


def generate_answers(
    model: Any,
    prompts: Sequence[str],
    *,
    chat: bool = False,
    prefills: Sequence[str] | str = "",
    max_new_tokens: int = 24,
    stop: Sequence[str] = ("\n",),
    prompt_hooks: PromptHooks | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[str]:
    """The model's greedy answers, as text.

    Args:
        model: a hooked model with a tokenizer.
        prompts: the questions.
        chat: wrap each in the tokenizer's chat template.
        prefills: the opening of each answer, given to the model; one text stands for all.
        max_new_tokens: how many tokens to generate at most.
        stop: texts that end an answer and are cut off with all that follows. The end-of-sequence token always does.
        prompt_hooks: interventions on the reading of prompt and prefill; see `PromptHooks`.
        batch_tokens: bound on the tokens of one batch; see `greedy`.

    Returns:
        What was generated after prompt and prefill, blanks included.

    Raises:
        InputError: if the model has no tokenizer, a prompt is empty or too long, or there are not as many prefills as
            prompts.
    """
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer, so it cannot answer in text; use greedy() on token ids")
    openings = [prefills] * len(prompts) if isinstance(prefills, str) else list(prefills)
    if len(openings) != len(prompts):
        raise InputError(f"{len(openings)} prefills for {len(prompts)} prompts; give one for each, or one text for all")
    contexts = [encode_context(model, p, chat=chat, prefill=o).context for p, o in zip(prompts, openings, strict=True)]
    given = [len(_text(model, c)) for c in contexts]

    def answer(i: int, new: Sequence[int]) -> str:
        # A continuation is decoded with its context: by itself, many tokenizers would drop its leading space.
        return _text(model, (*contexts[i], *new))[given[i] :]

    eos = model.tokenizer.eos_token_id
    outputs = greedy(
        model,
        contexts,
        max_new_tokens=max_new_tokens,
        stop_ids=() if eos is None else (eos,),
        until=lambda i, new: any(s in answer(i, new) for s in stop),
        prompt_hooks=prompt_hooks,
        batch_tokens=batch_tokens,
    )
    return [_before(answer(i, new), stop) for i, new in enumerate(outputs)]


def _text(model: Any, ids: Sequence[int]) -> str:
    return model.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def _before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stops."""
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


def _check(model: Any, contexts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}; give at least 1")
    for context in contexts:
        if not context:
            raise InputError("a context has 0 tokens; give a prompt, or a model that takes BOS")
        for t in context:
            if not 0 <= t < model.cfg.d_vocab:
                raise InputError(f"context id {t} lies outside the vocabulary (0 to {model.cfg.d_vocab - 1})")
        # The last token that is generated is never read.
        if (needed := len(context) + max_new_tokens - 1) > model.cfg.n_ctx:
            raise InputError(
                f"a context of {len(context)} tokens and {max_new_tokens} new ones need room for {needed}, the model's "
                f"context is {model.cfg.n_ctx}; shorten the prompt or lower max_new_tokens"
            )


class _Stepper:
    """A left-padded batch with its keys and values, for either kind of model."""

    def __init__(self, model: Any, contexts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.bridge = hooked.is_bridge(model)
        device = hooked.device_of(model)
        width = max(len(c) for c in contexts)
        self.tokens = torch.tensor([[*([0] * (width - len(c))), *c] for c in contexts], device=device)
        self.mask = torch.tensor([[*([0] * (width - len(c))), *([1] * len(c))] for c in contexts], device=device)
        self.cache: Any = None
        if not self.bridge:
            self.cache = TransformerLensKeyValueCache.init_cache(model.cfg, device, len(contexts))

    def start(self, hooks: Hooks = ()) -> Int[Tensor, " batch"]:
        """Run the prompts, with interventions; the first new token of each row."""
        return most_likely(self.read(None, hooks))

    def step(self, new: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Run one new token a row; the next of each."""
        return most_likely(self.read(new))

    def read(self, new: Int[Tensor, " batch"] | None = None, hooks: Hooks = ()) -> Float[Tensor, "batch d_vocab"]:
        """Logits of each row's next token, after the prompts or after one new token a row.

        Args:
            new: the tokens; None for the prompts.
            hooks: what looks at the model, or intervenes, meanwhile.
        """
        if new is None:
            return self._forward(self.tokens, self.mask, hooks)
        column = torch.ones_like(new)[:, None]
        self.mask = torch.cat([self.mask, column], dim=1)
        return self._forward(new[:, None], self.mask if self.bridge else column, hooks)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        self.mask = self.mask[rows]
        if self.bridge:
            self.cache.batch_select_indices(rows)
            return
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]
        for entry in self.cache.entries:
            entry.past_keys = entry.past_keys[rows]
            entry.past_values = entry.past_values[rows]

    def _forward(
        self,
        tokens: Int[Tensor, "batch new"],
        mask: Int[Tensor, "batch seen"],
        looking: Hooks,
    ) -> Float[Tensor, "batch d_vocab"]:
        def last(resid: Float[Tensor, "batch new d_model"], hook: Any) -> Float[Tensor, "batch 1 d_model"]:
            return resid[:, -1:]

        hooks = [*looking, (hooked.readout_hook(self.model), last)]
        if self.bridge:
            logits, self.cache = hooked.run_with_hooks(
                self.model,
                tokens,
                return_type="logits_and_cache",
                fwd_hooks=hooks,
                attention_mask=mask,
                past_key_values=self.cache,
                use_cache=True,
            )
        else:
            logits = hooked.run_with_hooks(
                self.model, tokens, return_type="logits", fwd_hooks=hooks, attention_mask=mask, past_kv_cache=self.cache
            )
        return logits[:, -1]


class _Together:
    """The same for models that predict together: each reads with a cache of its own, and their final residuals meet."""

    def __init__(self, model: Any, contexts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.parts = [_Stepper(member, contexts) for member in hooked.members_of(model)]

    def start(self, hooks: Hooks = ()) -> Int[Tensor, " batch"]:
        """Run the prompts, with interventions in every member; the first new token of each row."""
        return self.step(None, hooks)

    def step(self, new: Int[Tensor, " batch"] | None, hooks: Hooks = ()) -> Int[Tensor, " batch"]:
        """Run one new token a row; the next of each."""
        finals: list[Tensor] = []

        def take(resid: Float[Tensor, "batch new d_model"], hook: Any) -> None:
            finals.append(resid[:, -1:])

        for part in self.parts:
            part.read(new, [*hooks, (hooked.final_hook(part.model), take)])
        return most_likely(self.model.combine(finals)[:, -1])

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        for part in self.parts:
            part.keep(rows)


def most_likely(logits: Float[Tensor, "batch d_vocab"]) -> Int[Tensor, " batch"]:
    """The token of the largest logit.

    Raises:
        InputError: if a logit is NaN.
    """
    if torch.isnan(logits).any():
        raise InputError("the logits are NaN: the model's weights hold NaN or overflow; load a sound checkpoint")
    return logits.argmax(-1)
