"""Find the last token of the subject's name in each training example, where a model looks the subject up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.batches import pad_right
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded
from unpact_lens.unlearning.job import Job


def subject_positions(rows: Sequence[Encoded], prompts: Sequence[str], subjects: Sequence[str]) -> list[int]:
    """Return the position of the last token of each subject's name, in the ids that the model reads.

    Args:
        rows: Prompts and answers as token ids.
        prompts: Their prompts as text.
        subjects: Subject of each, as the prompt writes it.

    Raises:
        InputError: If a prompt does not hold its subject, or was given as ids. The message names it.
    """
    found = []
    for row, prompt, subject in zip(rows, prompts, subjects, strict=True):
        if not subject or subject not in prompt or row.prompt_spans is None:
            raise InputError(
                f"the prompt {prompt!r} does not hold its subject {subject!r}; set QA.subject as it is written"
            )
        last = prompt.rindex(subject) + len(subject) - 1
        inside = [i for i, (start, end) in enumerate(row.prompt_spans) if start <= last < end]
        found.append(len(row.head) + (inside[-1] if inside else len(row.prompt) - 1))
    return found


def forget_positions(job: Job) -> list[int]:
    """Return the position of the subject's last token in each row of the forget set."""
    items = job.questions("this method changes what the subject's last token holds")
    every = job.settings.phrasings == "all"
    named = [(p, q.subject) for q in items for p in ((q.prompt, *q.paraphrases) if every else (q.prompt,))]
    return subject_positions(job.data.rows, *zip(*named, strict=True))


def written_positions(rehearsal: Sequence[QA], rows: Sequence[Encoded]) -> list[int]:
    """Return the position of the subject's last token in each row that the original model wrote."""
    return subject_positions(rows, [q.prompt for q in rehearsal], [q.subject for q in rehearsal])


def values_at(
    model: HookedModel, rows: Sequence[Encoded], positions: Sequence[int], hook: str, layer: int
) -> Float[Tensor, "row d"]:
    """Compute an activation at one position of each row, with gradient. The blocks above `layer` are not run.

    Args:
        model: Hooked model.
        rows: Prompts and answers as token ids.
        positions: Position of each row.
        hook: Name of a hook on a `[batch, pos, d]` activation.
        layer: Index of the block that holds it.
    """
    taken: list[Tensor] = []

    def take(value: Tensor, hook: HookPoint) -> None:
        taken.append(value)

    device = hooked.device_of(model)
    # Nothing after the last position is needed: a causal model does not look ahead.
    tokens = pad_right([r.ids[: p + 1] for r, p in zip(rows, positions, strict=True)], device)
    hooked.run_with_hooks(model, tokens, [(hook, take)], stop_at_layer=layer + 1)
    index: Int[Tensor, " row"] = torch.tensor(list(positions), device=device)
    return taken[0][torch.arange(len(rows), device=device), index]
