"""Define the options that every public call which asks a model shares; they are checked once and passed on together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from typing_extensions import Unpack

from unpact_lens.data.chat import Chat, read_chat
from unpact_lens.errors import InputError
from unpact_lens.models.batches import check_batch_tokens
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, Text, encode, encode_context


class AskingOptions(TypedDict, total=False):
    """List the keyword arguments that every public call which asks a model accepts.

    Attributes:
        chat: Wrap the prompt in the tokenizer's chat template. Default False. A mapping gives the template's options,
            e.g. `{"enable_thinking": False}`; its `"system"` is the system message.
        prefill: Answer prefix, text or ids, given to the model and not scored. Default: none.
        special: Read control tokens in the texts, such as `<|im_start|>`, as such. Default False: they are text.
        max_new_tokens: Largest number of tokens to generate, where the call generates. Default 24.
        batch_tokens: Largest number of input tokens in one forward pass, padding included. Default: None, chosen from
            the free memory.
    """

    chat: Chat
    prefill: Text
    special: bool
    max_new_tokens: int
    batch_tokens: int | None


@dataclass(frozen=True)
class Asking:
    """Hold the options of `AskingOptions`, checked, with their defaults.

    Attributes:
        chat: Wrap the prompt in the tokenizer's chat template, with these options if it is a mapping.
        prefill: Answer prefix, text or ids, given to the model and not scored.
        special: Read control tokens in the texts as such; if False, they are text.
        max_new_tokens: Largest number of tokens to generate.
        batch_tokens: Largest number of input tokens in one forward pass, padding included. If None, it is chosen from
            the free memory; see `unpact_lens.models.memory`.

    Raises:
        InputError: If `max_new_tokens` or `batch_tokens` is not a positive whole number, or `chat` is neither a flag
            nor options of a template, or `special` is no flag.
    """

    chat: Chat = False
    prefill: Text = ""
    special: bool = False
    max_new_tokens: int = 24
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "chat", read_chat(self.chat))
        if not isinstance(self.special, bool):
            raise InputError(f"special={self.special!r}; give True or False")
        room = self.max_new_tokens
        if isinstance(room, bool) or not isinstance(room, int) or room < 1:
            raise InputError(f"max_new_tokens={room!r}; give a positive whole number of tokens")
        check_batch_tokens(self.batch_tokens)

    def but(self, **changes: Unpack[AskingOptions]) -> Asking:
        """Return a copy with some options replaced."""
        return replace(self, **changes)

    @property
    def reading(self) -> AskingOptions:
        """Return the options that decide how a question is tokenised."""
        return {"chat": self.chat, "prefill": self.prefill, "special": self.special}

    def encode(self, model: HookedModel, prompt: Text, answer: Text) -> Encoded:
        """Tokenise a prompt and its answer; see `unpact_lens.models.tokens.encode` for the errors."""
        return encode(model, prompt, answer, chat=self.chat, prefill=self.prefill, special=self.special)

    def encode_context(self, model: HookedModel, prompt: Text) -> Encoded:
        """Tokenise a prompt whose answer will be generated."""
        return encode_context(model, prompt, chat=self.chat, prefill=self.prefill, special=self.special)
