"""Say what a member of an ensemble reads in place of a text: other ids, or the same ids under interventions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from unpact_lens.models.hooked import Hooks


@dataclass(frozen=True)
class Reading:
    """Hold what one member of an ensemble reads for a batch of texts.

    Attributes:
        texts: Ids that the member reads for each text. The last n positions are those of a text of n ids.
        hooks: Interventions on the member. They expect rows that are padded on the left to the longest one.
        marks: For each text, what the hooks act on. A text whose marks change while it grows is read again. Empty if
            there are no hooks.
    """

    texts: Sequence[Sequence[int]]
    hooks: Hooks = ()
    marks: tuple[Hashable, ...] = ()
