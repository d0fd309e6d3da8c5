"""Read one request of the explorer's page."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unpact_lens.errors import InputError, nearest

ViewName = Literal["setup", "answer", "tokens", "heads", "head", "split", "patch", "try"]

VIEWS: tuple[str, ...] = get_args(ViewName)
"""Names of the views."""

LONGEST = 20_000
"""Largest number of characters of a prompt, an answer or a prefill."""

MOST_WORDS = 100
"""Largest number of words to emphasise."""

Text = Annotated[str, Field(max_length=LONGEST)]
Index = Annotated[int, Field(ge=0)]


class Request(BaseModel):
    """Hold one request: a view, and what it is about.

    Attributes:
        view: One of `VIEWS`.
        prompt: Prompt.
        answer: Answer, leading space included. Empty for the original model's greedy answer.
        column: Index of the answer token that is shown; None for the mean over the answer tokens.
        source: Position of an input token; `heads` then shows what each head reads from it.
        layer: Layer of the selected head.
        head: Index of the selected head in its layer.
        emphasis: Emphasis template to try; empty for none.
        words: Words to emphasise.
        prefill: Answer prefix to try, in place of the session's; None for the session's.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    view: ViewName
    prompt: Text = ""
    answer: Text = ""
    column: Index | None = None
    source: Index | None = None
    layer: Index = 0
    head: Index = 0
    emphasis: Annotated[str, Field(max_length=100)] = ""
    words: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=MOST_WORDS)] = []
    prefill: Text | None = None


def read_request(payload: object) -> Request:
    """Check a request that came as JSON.

    Raises:
        InputError: If a field is missing, unknown, of another type or too long. The message names it.
    """
    if not isinstance(payload, dict):
        raise InputError(f"a request is a JSON object, not {type(payload).__name__}")
    view = payload.get("view")
    if view not in VIEWS:
        raise InputError(f"unknown view {str(view)[:40]!r}; {nearest(str(view)[:40], VIEWS)}")
    try:
        return Request.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(f"request field {name[:60]!r}: {first['msg']}") from None
