"""Stop texts are found exactly when they are in the whole text, also in characters of several tokens."""

import pytest

from tests.models.families import tokenizer
from unpact_lens.models.stop_texts import StopTexts, decoded

TEXTS = (
    "a boat\nat sea",
    "Ωmega → 東京\n終",
    "no end at all, only Hamlet",
    "é\n",
    "\n\nQuestion: who",
    "🙂🙂 stop 🙂.",
)
STOPS = (("\n",), ("\n\n", "Question:"), ("→ 東",), (" stop ", "x"), ("🙂",), (), ("é",), ("",))


def counting(tokenizer):
    class Counting:
        def __init__(self):
            self.read = 0

        def decode(self, ids, **options):
            self.read += len(ids)
            return tokenizer.decode(ids, **options)

    return Counting()


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("text", TEXTS)
def test_each_token_is_judged_as_by_the_whole_text(text, stop):
    words = tokenizer()
    context = words("the capital of Japan is")["input_ids"]
    start = len(decoded(words, context))
    ids = words(text)["input_ids"]

    def whole(_, new):
        return decoded(words, [*context, *new])[start:]

    test = StopTexts(words, stop, whole)
    ended = False
    for n in range(1, len(ids) + 1):
        wanted = any(s in whole(0, ids[:n]) for s in stop)
        # A generation ends at the first True; later tokens are never asked about.
        if not ended:
            assert test(0, ids[:n]) == wanted, (n, whole(0, ids[:n]))
        ended = ended or wanted


def test_few_tokens_are_decoded():
    words = tokenizer()
    counted = counting(words)
    ids = words("seven small boats at sea " * 40)["input_ids"]
    test = StopTexts(counted, ("\n",), lambda i, new: pytest.fail("the whole answer was decoded"))
    assert not any(test(0, ids[:n]) for n in range(1, len(ids) + 1))
    assert counted.read <= len(set(ids))


def test_a_token_that_holds_a_stop_text_inside_it_ends_the_answer():
    words = tokenizer()
    test = StopTexts(words, ("apita",), lambda i, new: decoded(words, new))
    ids = words("the capital")["input_ids"]
    assert [test(0, ids[:n]) for n in (1, len(ids))] == [False, True]
