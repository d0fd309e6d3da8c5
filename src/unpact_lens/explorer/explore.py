"""Open the explorer in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import Unpack

from unpact_lens.data.as_facts import FactSource
from unpact_lens.errors import InputError
from unpact_lens.explorer.session import ExplorerSession
from unpact_lens.explorer.widget import explorer_widget
from unpact_lens.models.asking import AskingOptions
from unpact_lens.models.hooked import HookedModel

if TYPE_CHECKING:
    from anywidget import AnyWidget


def explore(
    before: HookedModel,
    after: HookedModel,
    control: HookedModel | None = None,
    facts: FactSource | None = None,
    **asking: Unpack[AskingOptions],
) -> AnyWidget:
    """Open an explorer of two models in a notebook.

    Pick or type a prompt and an answer. The widget shows the contribution of each prompt token, what each head adds to
    the answer's logit and from which tokens, the answer with one head patched back, and the answer under emphasis or a
    prefill. Each view has a button that copies the `ul.` call behind it. `unpact explore` opens the same as a local
    page, without a notebook.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        control: Retrained model, which never saw the facts. Its answers are shown beside those of the other two.
        facts: Facts to pick from: a `Benchmark`, or anything that `from_pairs` reads, e.g. a list of
            `(prompt, answer)`. If None, prompts are typed.
        **asking: How models are asked; see `AskingOptions`. By default as the benchmark says.

    Returns:
        A widget (anywidget) that shows itself. It needs the extra `unpact-lens[explore]`.

    Raises:
        InputError: If anywidget is missing, the models cannot be compared, or the facts cannot be read.
    """
    session = ExplorerSession(before, after, control, facts, **asking)
    try:
        return explorer_widget(session)
    except ImportError:
        raise InputError(
            'the explorer in a notebook needs anywidget; pip install "unpact-lens[explore]", '
            "or run `unpact explore BEFORE AFTER` in a terminal, which needs nothing"
        ) from None
