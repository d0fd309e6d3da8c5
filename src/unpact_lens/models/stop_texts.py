"""Find out after each generated token whether an answer holds a stop text, without decoding the whole answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unpact_lens.models.hooked import Tokenizer

INCOMPLETE = "\ufffd"
"""Character that stands for bytes that are no whole character."""


class StopTexts:
    """Test the end of growing answers for stop texts.

    A new token can only complete a stop text if the token holds its last character, or part of a character. If so, as
    many of the last tokens are decoded as can hold the longest stop text. If that holds a stop text, the whole answer
    is decoded, whose text decides.

    Args:
        tokenizer: Tokenizer of the answers.
        stop: Texts that end an answer.
        whole: Function from the index of an answer and its ids so far to its text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], whole: Callable[[int, Sequence[int]], str]) -> None:
        self.tokenizer, self.stop, self.whole = tokenizer, tuple(stop), whole
        self.last = {text[-1:] for text in stop}
        # A character is at most four tokens, one for each byte; some more for tokens that are decoded to nothing.
        self.tail = 4 * max((len(text) for text in stop), default=0) + 8
        # Alone, a token may lose the blank that it begins with.
        self.trusted = not any(c.isspace() and c != "\n" for c in self.last)
        self.may_end: dict[int, bool] = {}

    def __call__(self, answer: int, ids: Sequence[int]) -> bool:
        """Return whether the text of an answer holds a stop text.

        Args:
            answer: Index of the answer.
            ids: Its ids so far; the last is new.
        """
        if not self.stop or (self.trusted and not self._may_end(ids[-1])):
            return False
        tail = decoded(self.tokenizer, ids[-self.tail :])
        # The first characters of a tail may be parts of ones that begin before it, and a blank there may be lost.
        if len(ids) > self.tail and not any(text in tail for text in self.stop):
            return False
        found = self.whole(answer, ids)
        return any(text in found for text in self.stop)

    def _may_end(self, token: int) -> bool:
        """Return whether a token may complete a stop text."""
        if token not in self.may_end:
            text = decoded(self.tokenizer, [token])
            self.may_end[token] = INCOMPLETE in text or any(c in text for c in self.last)
        return self.may_end[token]


def decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return ids as text, without special tokens."""
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False, skip_special_tokens=True)
