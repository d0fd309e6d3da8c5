"""Write the Python code that gives the numbers of a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Snippets:
    """Write code for the models of one session.

    Attributes:
        roles: Which of `ROLES` the session has.
        sources: What `ul.load_model` loads each role from; empty if the models were given as objects.
    """

    roles: tuple[str, ...]
    sources: Mapping[str, str] = field(default_factory=dict)

    def write(self, prompt: str, answer: str, lines: Sequence[str], *, imports: Sequence[str] = ()) -> str:
        """Return a complete piece of code.

        Args:
            prompt: Prompt of the view.
            answer: Answer of the view.
            lines: Code after the models, `prompt` and `answer` are defined.
            imports: Import statements that the lines need besides `import unpact_lens as ul`.
        """
        head = ["import unpact_lens as ul", *imports, ""]
        if self.sources:
            head += [f"{role} = ul.load_model({self.sources[role]!r}, wrap='auto')" for role in self.roles]
        else:
            head += [f"# {', '.join(self.roles)}: the models that were given to ul.explore"]
        return "\n".join([*head, f"prompt, answer = {prompt!r}, {answer!r}", "", *lines]) + "\n"


def given(options: Mapping[str, object]) -> str:
    """Return keyword arguments as text that follows other arguments.

    >>> given({"chat": True})
    ', chat=True'
    """
    return "".join(f", {name}={value!r}" for name, value in options.items())


def picked(column: int | None) -> str:
    """Return the code that selects an answer token from the last axis of a tensor, or averages over it."""
    return ".mean(-1)" if column is None else f"[..., {column}]"
