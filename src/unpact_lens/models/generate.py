"""Generate greedy continuations of many prompts at once.

1. Sort the prompts by length and cut them into batches.
2. Pad each batch, where needed, on the *left*, so that the next token of every row is in the last column.
3. Run the prompts once and keep keys and values.
4. Feed one new token for each row and repeat. Only the last column is unembedded. Rows that have ended leave the batch
   with their keys and values.

On a bridge without hooks the steps run on the source model, without padding; see `source_decoding`. Elsewhere prompts
are padded on the left. That is exact: the attention mask hides it, and both kinds of model count positions from the
first token that the mask shows. One forward pass for each step then serves prompts of all lengths. The result equals
generation of one prompt at a time, except for ties within rounding error.

Some architectures return no usable cache (MPT, Falcon with ALiBi, Mamba). `decoding.py` finds that out before the first
batch. Their texts are read again as a whole at each step, padded on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformers.cache_utils import Cache
from typing_extensions import Unpack

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import architecture
from unpact_lens.models.answer_end import end_ids
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.batches import length_batches, pad_right
from unpact_lens.models.decoding import decodes_with_cache
from unpact_lens.models.hooked import HookedModel, Hooks
from unpact_lens.models.memory import batch_tokens_for
from unpact_lens.models.source_decoding import SourceBatch, decoding_source
from unpact_lens.models.stop_texts import StopTexts
from unpact_lens.models.stop_texts import decoded as decoded
from unpact_lens.models.tokens import encode_context

CACHED_PER_TOKEN = 4
"""Number of tokens with cached keys and values that count as one input token in a batch's budget."""

PromptHooks = Callable[[list[int], int], Hooks]
"""Function from the indices of a batch's contexts and the batch's width to the interventions on its prompts.

Rows are padded on the left: a context of n ids is in the last n columns of its row.
"""


def greedy(
    model: HookedModel,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    until: Callable[[int, Sequence[int]], bool] | None = None,
    prompt_hooks: PromptHooks | None = None,
    batch_tokens: int | None = None,
) -> list[tuple[int, ...]]:
    r"""Generate the most likely next token repeatedly: $y_k = \arg\max_v p(v \mid x, y_{<k})$.

    Args:
        model: Hooked causal model.
        contexts: Ids that the model reads for each prompt, BOS included if the model takes one.
        max_new_tokens: Largest number of ids to generate.
        stop_ids: Ids that end an answer; they are not part of it.
        until: Function that ends an answer early. It is called after each new id, with the index of the context and
            the new ids so far.
        prompt_hooks: Interventions on the contexts, not on generated tokens; see `PromptHooks`.
        batch_tokens: Largest number of input tokens in one forward pass, padding included. Keys and values are cached
            for at most `CACHED_PER_TOKEN` times as many tokens, generated tokens included. If None, it is chosen from
            the free memory.

    Returns:
        The new ids of each context, in the order given.

    Raises:
        InputError: If a context is empty, contains an id outside the vocabulary or leaves no room for the answer,
            `max_new_tokens` is below 1, or the logits are NaN.
    """
    _check(model, contexts, max_new_tokens)
    if not contexts:
        return []
    stops = frozenset(stop_ids)
    answers: list[list[int]] = [[] for _ in contexts]
    with torch.inference_mode():
        lengths = _read_lengths(model, contexts)
        room = [max(n, -(-(n + max_new_tokens) // CACHED_PER_TOKEN)) for n in lengths]  # ceiling division
        longest = max(lengths) + max_new_tokens
        limit = batch_tokens_for(
            hooked.members_of(model)[0] if hooked.members_of(model) else model, batch_tokens, longest
        )
        for batch in length_batches(room, limit):
            rows = list(batch)  # index of the context in each row that is still running
            stepper = _stepper(model, [contexts[i] for i in rows], prompt_hooks is not None, max_new_tokens)
            width = max(len(contexts[i]) for i in rows)
            new = stepper.step(None, prompt_hooks(rows, width) if prompt_hooks else ())  # [row]
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
    model: HookedModel,
    prompts: Sequence[str],
    asked: Asking | None = None,
    *,
    prefills: Sequence[str] | str | None = None,
    stop: Sequence[str] = ("\n",),
    prompt_hooks: PromptHooks | None = None,
    **asking: Unpack[AskingOptions],
) -> list[str]:
    """Generate the model's greedy answers as text.

    Args:
        model: Hooked model with a tokenizer.
        prompts: Questions.
        asked: Options as one value. If None, the defaults of `Asking`.
        prefills: Answer prefix of each prompt, given to the model; a single text is used for all prompts. If None,
            `asked.prefill`.
        stop: Texts that end an answer; they and everything after them are removed. The tokens of `end_ids` always end
            an answer.
        prompt_hooks: Interventions on prompt and answer prefix; see `PromptHooks`.
        **asking: Options that replace those of `asked`; see `AskingOptions`.

    Returns:
        The text generated after prompt and answer prefix, spaces included, without special tokens.

    Raises:
        InputError: If the model has no tokenizer, a prompt is empty or too long, or the number of prefills differs
            from the number of prompts.
    """
    asked = (asked or Asking()).but(**asking)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("the model has no tokenizer, so it cannot answer in text; use greedy() on token ids")
    if prefills is None or isinstance(prefills, str):
        prefixes = [asked.prefill if prefills is None else prefills] * len(prompts)
    else:
        prefixes = list(prefills)
    if len(prefixes) != len(prompts):
        raise InputError(f"{len(prefixes)} prefills for {len(prompts)} prompts; give one for each, or one text for all")
    contexts = [
        encode_context(model, prompt, chat=asked.chat, prefill=prefix, special=asked.special).context
        for prompt, prefix in zip(prompts, prefixes, strict=True)
    ]
    given = [len(decoded(tokenizer, c)) for c in contexts]

    def answer(i: int, new: Sequence[int]) -> str:
        # Decode with the context: many tokenizers drop the leading space of a continuation that is decoded alone.
        return decoded(tokenizer, (*contexts[i], *new))[given[i] :]

    outputs = greedy(
        model,
        contexts,
        max_new_tokens=asked.max_new_tokens,
        stop_ids=end_ids(model),
        until=StopTexts(tokenizer, stop, answer),
        prompt_hooks=prompt_hooks,
        batch_tokens=asked.batch_tokens,
    )
    return [before_stop(answer(i, new), stop) for i, new in enumerate(outputs)]


def before_stop(text: str, stop: Sequence[str]) -> str:
    r"""Return the text before the first of the stops.

    >>> before_stop("Oslo.\n\nQuestion: Who", ("\n\n", "Question:"))
    'Oslo.'
    """
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


def _check(model: HookedModel, contexts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}; give at least 1")
    for context in contexts:
        if not context:
            raise InputError("a context has 0 tokens; give a prompt, or a model that takes BOS")
        for t in context:
            if not 0 <= t < model.cfg.d_vocab:
                raise InputError(f"context id {t} lies outside the vocabulary (0 to {model.cfg.d_vocab - 1})")
        # The last generated token is not read again.
        if (needed := len(context) + max_new_tokens - 1) > model.cfg.n_ctx:
            raise InputError(
                f"a context of {len(context)} tokens and {max_new_tokens} new ones need room for {needed}, the model's "
                f"context is {model.cfg.n_ctx}; shorten the prompt or lower max_new_tokens"
            )


def _read_lengths(model: HookedModel, contexts: Sequence[Sequence[int]]) -> list[int]:
    """Return the number of ids that a model reads for each context: of an ensemble, the largest over its members."""
    texts = [r.texts for r in model.readings(contexts)] if hooked.members_of(model) else [contexts]
    return [max(map(len, each)) for each in zip(*texts, strict=True)]


@runtime_checkable
class Stepper(Protocol):
    """A batch of prompts that generates one token for each row at each step."""

    def step(self, new: Int[Tensor, " batch"] | None, hooks: Hooks = ()) -> Int[Tensor, " batch"]:
        """Run the prompts (`new` is None) or one new token for each row, and return each row's next token.

        Args:
            new: Last token of each row; None for the prompts.
            hooks: Interventions on this step.
        """

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""


def _stepper(model: HookedModel, contexts: Sequence[Sequence[int]], with_hooks: bool, new: int) -> Stepper:
    members = hooked.members_of(model)
    if not members and not with_hooks:
        return ModelStepper(token_batch(model, contexts, new))
    without = [m for m in members or (model,) if not decodes_with_cache(m)]
    if without:
        asked = "an ensemble" if members else "an intervention on the prompt"
        raise InputError(
            f"generation with {asked} needs a KV cache, and that of this {architecture(without[0])} does not give the "
            "logits of the whole text; generate without it"
        )
    if members and with_hooks and not model.reads_as_given:
        raise InputError(
            f"generation with an intervention on the prompt needs a model that reads the prompt as it is, and "
            f"{type(model).__name__} does not; generate without it, or give its member"
        )
    return EnsembleStepper(model, contexts) if members else ModelStepper(CachedBatch(model, contexts))


def token_batch(
    model: HookedModel, contexts: Sequence[Sequence[int]], new: int
) -> SourceBatch | CachedBatch | UncachedBatch:
    """Return a batch of one model that reads one token for each row at a time, the fastest that is exact.

    Args:
        model: Hooked model that is not an ensemble, within `torch.inference_mode`.
        contexts: Ids that the model reads for each row.
        new: Largest number of ids to generate.
    """
    if (source := decoding_source(model)) is not None:
        return SourceBatch(model, source, contexts, new)
    return CachedBatch(model, contexts) if decodes_with_cache(model) else UncachedBatch(model, contexts)


class CachedBatch:
    """Hold a left-padded batch of one model with its keys and values."""

    def __init__(self, model: HookedModel, contexts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.bridge = hooked.is_bridge(model)
        device = hooked.device_of(model)
        width = max(len(c) for c in contexts)
        self.tokens = torch.tensor([[*([0] * (width - len(c))), *c] for c in contexts], device=device)  # [row, pos]
        self.mask = torch.tensor([[*([0] * (width - len(c))), *([1] * len(c))] for c in contexts], device=device)
        self.cache: Cache | TransformerLensKeyValueCache | None = None
        if not self.bridge:
            self.cache = TransformerLensKeyValueCache.init_cache(model.cfg, device, len(contexts))

    def read(self, new: Int[Tensor, " batch"] | None, hooks: Hooks = ()) -> Float[Tensor, "batch d_vocab"]:
        """Run the prompts or one new token for each row, and return the logits of each row's next token.

        Args:
            new: Last token of each row; None for the prompts.
            hooks: Hooks on this forward pass.
        """
        if new is None:
            return self._forward(self.tokens, self.mask, hooks)
        column = torch.ones_like(new)[:, None]
        self.mask = torch.cat([self.mask, column], dim=1)  # [row, seen + 1]
        # A bridge takes the mask of all positions, a HookedTransformer that of the new ones.
        return self._forward(new[:, None], self.mask if self.bridge else column, hooks)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        self.mask = self.mask[rows]
        cache = self.cache
        assert cache is not None  # the prompts were read
        if self.bridge:
            cache.batch_select_indices(rows)
            return
        cache.previous_attention_mask = cache.previous_attention_mask[rows]
        for entry in cache.entries:
            entry.past_keys = entry.past_keys[rows]  # [row, pos, head, d_head] -> [kept, pos, head, d_head]
            entry.past_values = entry.past_values[rows]

    def _forward(
        self, tokens: Int[Tensor, "batch new"], mask: Int[Tensor, "batch seen"], looking: Hooks
    ) -> Float[Tensor, "batch d_vocab"]:
        def last(resid: Float[Tensor, "batch new d_model"], hook: object = None) -> Float[Tensor, "batch 1 d_model"]:
            return resid[:, -1:]

        if self.bridge:
            logits, self.cache = hooked.run_with_hooks(
                self.model,
                tokens,
                return_type="logits_and_cache",
                fwd_hooks=[*looking, (hooked.readout_hook(self.model), last)],
                attention_mask=mask,
                past_key_values=self.cache,
                use_cache=True,
            )
        else:
            logits = hooked.read_out_at(
                self.model, tokens, last, looking, attention_mask=mask, past_kv_cache=self.cache
            )
        return logits[:, -1]  # [row, 1, d_vocab] -> [row, d_vocab]


class UncachedBatch:
    """Hold a batch of one model that is read again as a whole at each step, for models without a usable KV cache."""

    def __init__(self, model: HookedModel, contexts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.texts = [list(context) for context in contexts]

    def read(self, new: Int[Tensor, " batch"] | None, hooks: Hooks = ()) -> Float[Tensor, "batch d_vocab"]:
        """Run the texts so far, padded on the right, and return the logits of each row's next token.

        Args:
            new: Last token of each row; None for the prompts.
            hooks: Hooks on this forward pass.
        """
        for text, token in zip(self.texts, [] if new is None else new.tolist(), strict=new is not None):
            text.append(token)
        tokens = pad_right(self.texts, hooked.device_of(self.model))
        last = torch.tensor([[len(text) - 1] for text in self.texts])
        return hooked.logits_at(self.model, tokens, last, hooks)[:, 0]  # [row, 1, d_vocab] -> [row, d_vocab]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        self.texts = [self.texts[row] for row in rows.tolist()]


class ModelStepper:
    """Generate with one model."""

    def __init__(self, batch: CachedBatch | UncachedBatch | SourceBatch) -> None:
        self.batch = batch

    def step(self, new: Int[Tensor, " batch"] | None, hooks: Hooks = ()) -> Int[Tensor, " batch"]:
        """Return each row's next token; see `Stepper`."""
        return most_likely(self.batch.read(new, hooks))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        self.batch.keep(rows)


class EnsembleStepper:
    """Generate with an ensemble: each member has its own cache, and the ensemble combines their final residuals.

    The ensemble says what its members read (`readings`). Where a new token changes what a member reads of earlier ones,
    the member reads the whole batch again, so that answers equal those without a cache. Hooks act in every member.
    """

    def __init__(self, model: HookedModel, contexts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.texts = [list(context) for context in contexts]
        self.parts: dict[int, CachedBatch] = {}  # by the index of the member
        self.marks: dict[int, tuple[Hashable, ...]] = {}  # of each member, as it last read the whole batch

    def step(self, new: Int[Tensor, " batch"] | None, hooks: Hooks = ()) -> Int[Tensor, " batch"]:
        """Return each row's next token; see `Stepper`."""
        finals: list[Tensor] = []

        def take(resid: Float[Tensor, "batch new d_model"], hook: object) -> None:
            finals.append(resid[:, -1:])

        for text, token in zip(self.texts, [] if new is None else new.tolist(), strict=new is not None):
            text.append(token)
        for i, (member, reading) in enumerate(zip(self.model.members, self.model.readings(self.texts), strict=True)):
            looking: Hooks = [*hooks, (hooked.final_hook(member), take)]
            if new is not None and reading.marks == self.marks[i]:
                self.parts[i].read(new, looking)
            else:
                self.parts[i], self.marks[i] = CachedBatch(member, reading.texts), reading.marks
                self.parts[i].read(None, [*reading.hooks, *looking])
        return most_likely(self.model.combine(finals)[:, -1])

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        kept = rows.tolist()
        self.texts = [self.texts[row] for row in kept]
        self.marks = {i: tuple(marks[row] for row in kept) if marks else () for i, marks in self.marks.items()}
        for part in self.parts.values():
            part.keep(rows)


def most_likely(logits: Float[Tensor, "batch d_vocab"]) -> Int[Tensor, " batch"]:
    """Return the token of the largest logit in each row.

    Raises:
        InputError: If a logit is NaN.
    """
    largest, tokens = logits.max(-1)  # the largest of numbers and NaN is NaN
    if torch.isnan(largest).any():
        raise InputError("the logits are NaN: the model's weights hold NaN or overflow; load a sound checkpoint")
    return tokens
