"""Build attributions by hand."""

import torch

from unpact_lens.attribution import Attribution


def attribution(tokens, scores, *, subject="", answer_tokens=("y",), **fields):
    """One row a token; the prompt is their concatenation."""
    spans, at = [], 0
    for token in tokens:
        spans.append((at + len(token) - len(token.lstrip()), at + len(token)))
        at += len(token)
    scores = torch.tensor(scores, dtype=torch.float64)
    values = {
        "tokens": tuple(tokens),
        "token_ids": tuple(range(len(tokens))),
        "answer_tokens": answer_tokens,
        "answer_ids": tuple(range(len(answer_tokens))),
        "scores": scores,
        "per_answer_token": scores[:, None].expand(-1, len(answer_tokens)).contiguous(),
        "log_prob": -1.0,
        "method": "leave_one_out",
        "units": "token",
        "target": "log_prob",
        "deletion": "ids",
        "prompt": "".join(tokens),
        "answer": "".join(answer_tokens),
        "members": tuple((i,) for i in range(len(tokens))),
        "spans": tuple(spans),
        "subject": subject,
    }
    return Attribution(**{**values, **fields})
