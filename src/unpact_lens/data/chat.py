"""Define whether and how prompts go through a tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Mapping

from unpact_lens.errors import InputError

Chat = bool | Mapping[str, object]
"""Whether a prompt goes through the chat template, or the template's options, e.g. `{"enable_thinking": False}`.

The option `"system"` is the system message. All others are variables of the template.
"""

SYSTEM = "system"
"""Option that gives the system message."""

RESERVED = (
    "conversation", "messages", "add_generation_prompt", "continue_final_message", "tokenize", "padding", "truncation",
    "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
)  # fmt: skip
"""Arguments of `apply_chat_template` that this library sets itself."""


def read_chat(value: object) -> Chat:
    """Return a valid value of `chat=`: False, True, or the options of the template.

    Raises:
        InputError: If it is neither a flag nor a mapping of plain values, or an option is reserved.
    """
    if isinstance(value, bool):
        return value
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InputError(
            f"chat={value!r}; give True, False, or the template's options by name, e.g. "
            "chat={'enable_thinking': False}"
        )
    for name, option in value.items():
        if name in RESERVED:
            raise InputError(f"chat option {name!r} is set by the library; drop it")
        if not _plain(option):
            raise InputError(f"chat option {name}={option!r}; give a text, a number, True, False, None, or a list")
    if not isinstance(value.get(SYSTEM, ""), str):
        raise InputError(f"chat option system={value[SYSTEM]!r}; give the system message as text")
    return dict(value) or True


def _plain(option: object) -> bool:
    """Return whether a value can be written as JSON."""
    if isinstance(option, Mapping):
        return all(isinstance(k, str) and _plain(v) for k, v in option.items())
    if isinstance(option, (list, tuple)):
        return all(map(_plain, option))
    return option is None or isinstance(option, (str, int, float, bool))
