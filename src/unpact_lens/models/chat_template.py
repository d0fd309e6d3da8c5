"""Write a question with the tokenizer's chat template, and find where the question stands in what it writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from unpact_lens.data.chat import RESERVED, SYSTEM, Chat
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.hooked import Tokenizer
from unpact_lens.models.time_limit import time_limit

LONGEST = 5.0
"""Largest duration of a chat template, seconds."""

MOST = 200_000
"""Largest number of characters that a chat template may add to the messages."""

_CONTENT = "\u241fCoNtEnT\u241f"  # mixed case shows a template that changes the case


@dataclass(frozen=True)
class Wrapped:
    """Hold a prompt as the chat template writes it.

    Attributes:
        before: Text before the prompt.
        content: Prompt as the template writes it; without outer white space if the template trims it.
        after: Text after the prompt, up to where the answer begins.
        notes: Notes for the reader, e.g. that the template writes today's date.
    """

    before: str
    content: str
    after: str
    notes: tuple[str, ...] = ()


def wrapped(tokenizer: Tokenizer | None, prompt: str | None, chat: Chat = True) -> Wrapped:
    """Write a prompt as the user's message of a conversation, up to where the answer begins.

    Args:
        tokenizer: Tokenizer with a chat template.
        prompt: The user's message. If None, only the texts before and after it are found; `content` is then empty.
        chat: True, or the options of the template.

    Returns:
        The parts of the text. Together they are what the template writes.

    Raises:
        InputError: If there is no template, it fails, it does not use an option, it does not contain the message
            exactly once, or it changes the message.
    """
    source = _source(tokenizer)
    assert tokenizer is not None
    text = rendered(tokenizer, [{"role": "user", "content": _CONTENT}], chat, add_generation_prompt=True)
    before, *rest = text.split(_CONTENT)
    if len(rest) != 1:
        raise InputError(
            f"the chat template contains the user's message {len(rest)} times unchanged, and must contain it once; "
            "mend tokenizer.chat_template, or use chat=False"
        )
    (after,) = rest
    notes = _date_notes(source, before + after, chat)
    if prompt is None:
        return Wrapped(before, "", after, notes)
    text = rendered(tokenizer, [{"role": "user", "content": prompt}], chat, add_generation_prompt=True)
    for content in (prompt, prompt.strip(), prompt.lstrip(), prompt.rstrip()):
        if text == before + content + after:
            return Wrapped(before, content, after, notes)
    raise InputError(
        f"the chat template changes the prompt {prompt!r}, so its tokens cannot be found in what the template writes "
        f"({_excerpt(text, before, after)!r}); use chat=False with the written text as the prompt"
    )


def rendered(tokenizer: Tokenizer, turns: list[dict[str, str]], chat: Chat = True, **flags: bool) -> str:
    """Write a conversation with the tokenizer's chat template.

    Args:
        tokenizer: Tokenizer with a chat template.
        turns: Messages, each with `role` and `content`.
        chat: True, or the options of the template.
        **flags: Arguments of `apply_chat_template`, e.g. `add_generation_prompt`.

    Raises:
        InputError: If the template fails, does not use an option, or writes no text.
    """
    options = {} if isinstance(chat, bool) else dict(chat)
    system = str(options.pop(SYSTEM, ""))
    if system:
        turns = [{"role": SYSTEM, "content": system}, *turns]
    _check_used(_source(tokenizer), options)
    try:
        with time_limit(LONGEST):
            text = tokenizer.apply_chat_template(turns, tokenize=False, **options, **flags)
    except Exception as error:  # a template is a program: it fails in any way
        why = " ".join(str(error).split()) or type(error).__name__
        remedy = "mend it, or use chat=False"
        if not system and "system" in why.lower():
            remedy = f"give the system message, chat={{'system': ...}}, {remedy}"
        raise InputError(f"the chat template of the tokenizer fails ({why}); {remedy}") from None
    if not isinstance(text, str):
        raise InputError(f"the chat template of the tokenizer writes {type(text).__name__}, not text; use chat=False")
    if len(text) > MOST + sum(len(turn["content"]) for turn in turns):
        raise InputError(f"the chat template of the tokenizer writes {len(text)} characters; use chat=False")
    if system.strip() not in text:
        raise InputError(f"the chat template does not write the system message {system!r}; put it into the prompt")
    return text


def _source(tokenizer: Tokenizer | None) -> str:
    """Return the text of a tokenizer's chat template.

    Raises:
        InputError: If it has none.
    """
    template = getattr(tokenizer, "chat_template", None)
    if tokenizer is None or not template:
        raise InputError("chat=True, but the model's tokenizer has no chat template; use chat=False")
    return template if isinstance(template, str) else str(template)


def _check_used(source: str, options: Mapping[str, object]) -> None:
    """Refuse an option that the template does not read; it would do nothing."""
    for name in options:
        if not re.search(rf"\b{re.escape(name)}\b", source) and name != "chat_template":
            read = sorted({*re.findall(r"(\w+) is (?:not )?defined", source), SYSTEM} - set(RESERVED))
            raise InputError(f"the chat template uses no option {name!r}; {nearest(name, read)}")


def _date_notes(source: str, text: str, chat: Chat) -> tuple[str, ...]:
    """Return a note if the template writes today's date, because other days then have other ids."""
    today = date.today()
    if "strftime_now" not in source or str(today.year) not in text:
        return ()
    dated = [name for name in re.findall(r"(\w+) is (?:not )?defined", source) if "date" in name]
    given = () if isinstance(chat, bool) else chat
    if any(name in given for name in dated):
        return ()
    remedy = f"; chat={{{dated[0]!r}: ...}} gives the same ids on every day" if dated else ""
    return (f"the chat template writes the date of the run, {today.isoformat()}{remedy}",)


def _excerpt(text: str, before: str, after: str) -> str:
    """Return what a template writes between its own texts, at most 60 characters."""
    inner = text.removeprefix(before).removesuffix(after)
    return inner if len(inner) <= 60 else inner[:57] + "..."
