"""Find the tokens that end a model's answer, as its tokenizer, generation configuration and chat template say."""

from __future__ import annotations

from transformers import GenerationConfig

from unpact_lens.data.chat import Chat, read_chat
from unpact_lens.models import hooked
from unpact_lens.models.chat_template import rendered
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.joint_tokens import cut_jointly

_QUESTION, _ANSWER = "\u241fQUESTION\u241f", "\u241fANSWER\u241f"


def generation_config(model: HookedModel) -> GenerationConfig | None:
    """Return the generation configuration that came with a model, or None."""
    holder = model.original_model if hooked.is_bridge(model) else model
    found = getattr(holder, "generation_config", None)
    return found if isinstance(found, GenerationConfig) else None


def end_ids(model: HookedModel) -> tuple[int, ...]:
    """Return all tokens that end an answer: those of the tokenizer and those of the generation configuration.

    In chat models, the end of a turn is often in the generation configuration only.
    """
    tokenizer, config = model.tokenizer, generation_config(model)
    own = None if tokenizer is None else tokenizer.eos_token_id
    listed = None if config is None else config.eos_token_id
    if listed is None:
        listed = []
    more = [listed] if isinstance(listed, int) else [int(t) for t in listed]
    return tuple(dict.fromkeys(t for t in (own, *more) if t is not None))


def end_of_answer(model: HookedModel, *, chat: Chat = False) -> int | None:
    """Return the token that ends a gold answer, or None if the model has none.

    Args:
        model: Hooked model.
        chat: If True, or options of the template, the token that the chat template puts after an answer, where that
            ends answers; else the tokenizer's end-of-sequence token.
    """
    ends = end_ids(model)
    tokenizer = model.tokenizer
    chat = read_chat(chat)
    if chat is not False and tokenizer is not None and getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
        before, answer, rest = rendered(tokenizer, turn, chat).rpartition(_ANSWER)
        after = cut_jointly(tokenizer, [before + answer, rest]).ids[1]
        if after and after[0] in ends:
            return int(after[0])
    return ends[0] if ends else None
