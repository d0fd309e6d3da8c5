"""Describe each view of the explorer as plain JSON, with the code that gives its numbers.

Numbers are rounded to six digits. What is not finite is null. Δ is unlearned − original; the page subtracts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import holds_fact
from unpact_lens.explorer import measures
from unpact_lens.explorer.measures import number, numbers
from unpact_lens.explorer.request import Request
from unpact_lens.explorer.session import LABELS, Asked, ExplorerSession
from unpact_lens.explorer.snippets import given, picked
from unpact_lens.plots import theme

Json = dict[str, object]

MOST_FACTS = 5000
"""Largest number of facts in the picker."""


def setup(session: ExplorerSession, request: Request) -> Json:
    """Return what the page needs once: models, facts, emphasis templates and colours."""
    facts = list(session.facts())
    cfg = session.models["before"].cfg
    return {
        "models": [{"role": role, "label": LABELS[role], "name": session.names[role]} for role in session.models],
        "layers": int(cfg.n_layers),
        "heads": int(cfg.n_heads),
        "facts": [
            {"prompt": q.prompt, "answer": q.answer, "group": q.group, "prefix": q.answer_prefix}
            for q in facts[:MOST_FACTS]
        ],
        "more_facts": max(0, len(facts) - MOST_FACTS),
        "emphasis": [
            {"name": name, "needs_words": EMPHASIS[name].needs_words, "line": EMPHASIS[name].description}
            for name in EMPHASIS
        ],
        "colours": {"light": theme.DIVERGING, "dark": theme.DIVERGING_DARK},
    }


def answer(session: ExplorerSession, request: Request) -> Json:
    """Return each model's greedy answer, and log p of each token of the asked answer, nats."""
    asked = session.asked(request)
    room = measures.room_for(session, asked)
    return {
        "answer": asked.answer,
        "own": asked.own,
        "fact": asked.qa.fact,
        "prefill": asked.options.get("prefill", ""),
        "prefix": asked.qa.answer_prefix,
        "answer_tokens": _visible(measures.answer_tokens(session, asked)),
        "rows": [measures.answered(session, role, asked, room) for role in session.models],
        "code": _asking_code(session, asked, asked, [], room, "per_token=True, "),
    }


def tokens(session: ExplorerSession, request: Request) -> Json:
    """Return the contribution of each prompt token to each answer token in both models, nats."""
    asked = session.asked(request)
    first, second = measures.contributions(session, asked)
    return {
        "tokens": _visible(first.tokens),
        "answer_tokens": _visible(first.answer_tokens),
        "unit": "nats",
        "before": numbers(first.per_answer_token),
        "after": numbers(second.per_answer_token),
        "offset": len(first.head_ids),
        "words": list(dict.fromkeys(re.findall(r"\w+(?:['’-]\w+)*", asked.prompt))),
        "key_words": measures.key_words(first),
        "notes": list(first.notes),
        "code": session.snippets.write(
            asked.prompt,
            asked.answer,
            [
                f"found = ul.diff(before, after, prompt, answer, weights=False{given(asked.options)})",
                "original = found.contributions_before.per_answer_token  # [prompt token, answer token], nats",
                "unlearned = found.contributions_after.per_answer_token",
                "found.plot('tokens')",
            ],
        ),
    }


def heads(session: ExplorerSession, request: Request) -> Json:
    """Return what each head adds to the answer's logit, from all input tokens or from one, in both models."""
    asked = session.asked(request)
    found = measures.head_values(session, asked)
    source = request.source
    if source is None:
        sides = found.heads_before.values, found.heads_after.values
        code = "found.heads_{}.values"
    elif source < len(found.tokens):
        first, second = measures.sources(found)
        sides = first.values[:, :, source], second.values[:, :, source]
        code = f"found.sources_{{}}.values[:, :, {source}]"
    else:
        raise InputError(f"source={source}; the input has {len(found.tokens)} tokens, counted from 0")
    return {
        "layers": list(found.heads_before.labels[0]),
        "heads": list(found.heads_before.labels[1]),
        "unit": "logits",
        "before": numbers(measures.column(sides[0], request)),
        "after": numbers(measures.column(sides[1], request)),
        "source": None if source is None else {"position": source, "token": theme.visible(found.tokens[source])},
        "notes": list(found.notes),
        "code": _by_head(session, asked, request, code, "[layer, head]", "heads"),
    }


def head(session: ExplorerSession, request: Request) -> Json:
    """Return what one head adds to the answer's logit from each input token, in both models."""
    asked = session.asked(request)
    measures.check_head(session, request)
    found = measures.head_values(session, asked)
    first, second = (
        measures.column(side.values[request.layer, request.head], request) for side in measures.sources(found)
    )
    code = f"found.sources_{{}}.values[{request.layer}, {request.head}]"
    return {
        "layer": request.layer,
        "head": request.head,
        "tokens": _visible(found.tokens),
        "unit": "logits",
        "before": numbers(first),
        "after": numbers(second),
        "code": _by_head(session, asked, request, code, "[input token]", "sources"),
    }


def split(session: ExplorerSession, request: Request) -> Json:
    """Return why one head changed: the shares of pattern, input, OV and readout, logits; they sum to its Δ."""
    asked = session.asked(request)
    measures.check_head(session, request)
    found = measures.head_split(session, asked)
    at = request.layer, request.head
    return {
        "players": list(found.players),
        "unit": "logits",
        "values": numbers(measures.column(found.values[:, at[0], at[1]], request)),
        "before": number(measures.column(found.before[at], request)),
        "after": number(measures.column(found.after[at], request)),
        "code": session.snippets.write(
            asked.prompt,
            asked.answer,
            [
                f"found = ul.comparison.split_heads(before, after, prompt, answer{given(asked.options)})",
                f"shares = found.values[:, {at[0]}, {at[1]}]{picked(request.column)}  # of found.players, logits",
                "found.plot()",
            ],
        ),
    }


def patch_head(session: ExplorerSession, request: Request) -> Json:
    """Return the answer's log-probability with one head of the original model patched into the unlearned one."""
    asked = session.asked(request)
    measures.check_head(session, request)
    layer, index = request.layer, request.head
    found = measures.patched_head(session, asked, layer, index)
    count = len(measures.head_values(session, asked).answer_tokens)
    values = {"unlearned": found.baseline, "patched": float(found.log_prob), "original": found.donor}
    return {
        "layer": layer,
        "head": index,
        "rows": [{"name": name, **measures.answer_probability(value, count)} for name, value in values.items()],
        "restored": number(found.restored),
        "unit": "nats",
        "code": session.snippets.write(
            asked.prompt,
            asked.answer,
            [
                "found = ul.comparison.patch(",
                f"    before, after, prompt, answer, what='head', layers=[{layer}], heads=[{index}]"
                f"{given(asked.options)}",
                ")",
                "found.baseline, float(found.log_prob), found.donor  # mean log p of an answer token, nats",
            ],
        ),
    }


def attempt(session: ExplorerSession, request: Request) -> Json:
    """Return each model's answer to the plain prompt, and under the chosen emphasis and prefill."""
    asked = session.asked(request)
    own = str(asked.options.get("prefill", ""))
    prefill = own if request.prefill is None else request.prefill
    prompt = asked.prompt
    if request.emphasis:
        prompt = EMPHASIS[request.emphasis].apply(prompt, request.words)
    scored = asked.answer.removeprefix(prefill.removeprefix(own)) or asked.answer
    tried = Asked(prompt, scored, {**asked.options, "prefill": prefill}, asked.qa)
    rows = {"plain prompt": asked}
    if (prompt, prefill) != (asked.prompt, own):
        rows["tried"] = tried
    room = measures.room_for(session, asked)
    return {
        "rows": [
            {
                "name": name,
                "prompt": row.prompt,
                "prefill": row.options.get("prefill", ""),
                "scored": row.answer,
                "cells": [measures.answered(session, role, row, room) for role in session.models],
            }
            for name, row in rows.items()
        ],
        "leaks": any(holds_fact(text, asked.qa.fact, asked.qa.aliases) for text in (prompt, prefill)),
        "code": _asking_code(session, asked, tried, _emphasis_code(request), room),
    }


def _emphasis_code(request: Request) -> list[str]:
    """Write the code that emphasises words of the prompt."""
    if not request.emphasis:
        return []
    return [
        "from unpact_lens.data.emphasis import EMPHASIS",
        f"prompt = EMPHASIS[{request.emphasis!r}].apply(prompt, {request.words!r})",
    ]


def _asking_code(
    session: ExplorerSession, asked: Asked, tried: Asked, lines: list[str], room: int, detail: str = ""
) -> str:
    """Write the code that asks every model: greedy answers and log p of the scored answer.

    Args:
        session: Session.
        asked: Question.
        tried: Prompt, scored answer and prefill as tried.
        lines: Code that makes the tried prompt.
        room: Number of tokens that a greedy answer may have.
        detail: Further arguments of `ul.log_prob`.
    """
    chat = given({"chat": session.asking.chat} if session.asking.chat else {})
    code = [
        *lines,
        f"prefill, scored = {tried.options.get('prefill', '')!r}, {tried.answer!r}",
        _models(session),
        "said = {",
        "    name: generate_answers(",
        f"        m, [prompt], prefills=prefill, max_new_tokens={room}, stop={session.stop!r}{chat}",
        "    )[0]",
        "    for name, m in models.items()",
        "}",
        "scores = {  # nats",
        f"    name: ul.log_prob(m, prompt, scored, {detail}prefill=prefill{chat}) for name, m in models.items()",
        "}",
        "said, scores",
    ]
    imports = ["from unpact_lens.models.generate import generate_answers"]
    return session.snippets.write(asked.prompt, asked.answer, code, imports=imports)


def _by_head(session: ExplorerSession, asked: Asked, request: Request, at: str, axes: str, figure: str) -> str:
    """Write the code of a view of heads; `at` is the tensor, with `{}` for `before` or `after`."""
    options = given({"contributions": False, "sources": True, "weights": False, **asked.options})
    return session.snippets.write(
        asked.prompt,
        asked.answer,
        [
            f"found = ul.diff(before, after, prompt, answer{options})",
            f"original = {at.format('before')}{picked(request.column)}  # {axes}, logits",
            f"unlearned = {at.format('after')}{picked(request.column)}",
            f"found.plot({figure!r})",
        ],
    )


def _visible(tokens: Iterable[str]) -> list[str]:
    """Return tokens with visible blanks and line ends, as figures show them."""
    return [theme.visible(token) for token in tokens]


def _models(session: ExplorerSession) -> str:
    """Write the code that names the models of a session."""
    return f"models = {{{', '.join(f'{role!r}: {role}' for role in session.models)}}}"


VIEWS: Mapping[str, Callable[[ExplorerSession, Request], Json]] = {
    "setup": setup,
    "answer": answer,
    "tokens": tokens,
    "heads": heads,
    "head": head,
    "split": split,
    "patch": patch_head,
    "try": attempt,
}
"""Views by name."""
