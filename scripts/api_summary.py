"""Write the one-page summaries of the public functions: `python -m scripts.api_summary`.

`docs/reference/index.md` is the first page of the reference. `docs/llms.txt` is the same for coding assistants, as
plain text with links, by the convention of llmstxt.org. A test compares both with the package.
"""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import yaml

import unpact_lens as ul

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, TEXT = DOCS / "reference" / "index.md", DOCS / "llms.txt"

GROUPS: dict[str, tuple[str, ...]] = {
    "Models and data": (
        "load_model", "export_hf", "Endpoint", "load_benchmark", "from_pairs", "QA", "Corpus", "Benchmark",
    ),
    "One model": (
        "log_prob", "attribute", "attribute_many", "attribution_methods", "TopK", "Share", "Threshold", "decompose",
    ),
    "Two models": ("diff", "average", "explore"),
    "Unlearn, score, recover": (
        "unlearn", "methods", "evaluate", "metrics", "recover", "probes", "audit", "meta_evaluate",
    ),
    "Studies and results": ("run_study", "load_config", "write_report", "save", "load", "InputError"),
}  # fmt: skip
"""Public names in the order in which a reader needs them. Others follow under "Further"."""

PACKAGES = (
    "attribution", "decomposition", "comparison", "unlearning", "evaluation", "recovery", "stats", "study", "auditing",
)  # fmt: skip
"""Subpackages whose public functions are listed. Each has a page of its name in the reference."""

SNIPPET = """\
import unpact_lens as ul

model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")  # or a directory, a hub id, a live model
q = bench.forget[0]  # q.prompt, q.answer: the answer keeps its leading blank
a = ul.attribute(model, q.prompt, q.answer)  # nats
u = ul.unlearn(model, bench, method="npo_gdr", steps=20, lr=2e-3, alpha=5.0, progress=False)
ul.diff(model, u.model, q).plot("heads").save("heads.png")
"""

CONVENTIONS = (
    'Prompt and answer are texts or token ids. An answer keeps its leading blank: `" Tokyo"`.',
    "`before` is the original model, `after` the unlearned one, `control` one that was retrained without the facts.",
    "Δ is after − before. Log-probabilities are in nats and means over the answer's tokens.",
    'Results are frozen: `.to_frame()`, `.plot()`, `.save(path)`; a figure has `.save("x.png")`.',
    "No call changes the model that it is given. Bad input is an `InputError` that says what to pass.",
)


def public_names() -> dict[str, tuple[str, ...]]:
    """Return the public names by group, with those that no group names at the end."""
    placed = {name for names in GROUPS.values() for name in names}
    rest = tuple(name for name in ul.__all__ if name not in placed)
    return {**GROUPS, **({"Further": rest} if rest else {})}


def first_line(value: object) -> str:
    """Return the first sentence of a docstring, in one line."""
    text = inspect.getdoc(value) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "or")


def parameters(value: object) -> str:
    """Return the names of a call's parameters, with defaults that are short, and typed options spelt out."""
    try:
        signature = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(…)"
    written = []
    for p in signature.parameters.values():
        if p.name.startswith("_"):
            continue
        name = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name
        if p.kind is p.KEYWORD_ONLY and "*" not in written and not any(w.startswith("*") for w in written):
            written.append("*")
        default = repr(p.default) if p.default is not p.empty else None
        written.append(name if default is None else f"{name}={default if len(default) < 20 else '…'}")
    return f"({', '.join(written)})"


def options(value: object) -> str:
    """Return the keyword arguments that `**options` stands for, or an empty text."""
    try:
        last = list(inspect.signature(value).parameters.values())[-1]  # type: ignore[arg-type]
        hints = typing.get_type_hints(inspect.unwrap(value), include_extras=True)  # type: ignore[arg-type]
    except (TypeError, ValueError, NameError, IndexError):
        return ""
    names = [
        typing.get_type_hints(part) for part in typing.get_args(hints.get(last.name, None)) if isinstance(part, type)
    ]
    return ", ".join(names[0]) if names and last.kind is last.VAR_KEYWORD else ""


def functions_of(package: str) -> list[str]:
    """Return the public functions of a subpackage that are no top-level names."""
    module = getattr(ul, package)
    return [
        name for name in module.__all__
        if name not in ul.__all__ and inspect.isfunction(inspect.unwrap(getattr(module, name)))
    ]  # fmt: skip


def linked(name: str) -> str:
    """Return a public name as a link to its page of the reference, or as code where there is no page."""
    home = ul._PUBLIC[name].split(".")[0]
    home = {"results": "scoring", "scoring": "scoring", "errors": "scoring", "report": "study"}.get(home, home)
    return f"[`ul.{name}`]({home}.md)" if (PAGE.parent / f"{home}.md").exists() else f"`ul.{name}`"


def page() -> str:
    """Write the first page of the reference."""
    parts = [
        "# Public functions\n",
        "Generated from the package by `python -m scripts.api_summary`. Everything here is reached from "
        "`import unpact_lens as ul`.\n",
        f"```python\n{SNIPPET}```\n",
        "\n".join(f"- {line}" for line in CONVENTIONS) + "\n",
    ]
    for group, names in public_names().items():
        parts.append(f"## {group}\n\n| name | what it does |\n|---|---|")
        parts.append("\n".join(f"| {linked(n)} | {first_line(getattr(ul, n))} |" for n in names) + "\n")
    for package in PACKAGES:
        if found := functions_of(package):
            module = getattr(ul, package)
            parts.append(f"## `ul.{package}`\n\n| name | what it does |\n|---|---|")
            parts.append(
                "\n".join(f"| [`{n}`]({package}.md) | {first_line(getattr(module, n))} |" for n in found) + "\n"
            )
    return "\n".join(parts)


class _Loader(yaml.SafeLoader):
    """Read `mkdocs.yml`, whose tags are not resolved."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def pages() -> list[tuple[str, str]]:
    """Return the pages of the documentation, with titles, in the order of its navigation."""
    nav = yaml.load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]

    def flat(entries: list[dict[str, object]]) -> list[tuple[str, str]]:
        found = []
        for entry in entries:
            for title, target in entry.items():
                found += flat(target) if isinstance(target, list) else [(title, str(target))]
        return found

    return flat(nav)


def text() -> str:
    """Write the summary for coding assistants."""
    lines = [
        "# unpact-lens",
        "",
        f"> {(ul.__doc__ or '').split(chr(10))[0]}",
        "",
        "Install: `pip install unpact-lens`. Python 3.10 or newer. The model `builtin` is in the package.",
        "",
        "## Example",
        "",
        f"```python\n{SNIPPET}```",
        "",
        "## Conventions",
        "",
        *(f"- {line}" for line in CONVENTIONS),
    ]
    for group, names in public_names().items():
        lines += ["", f"## {group}", ""]
        for name in names:
            value = getattr(ul, name)
            lines.append(f"- `ul.{name}{parameters(value)}`: {first_line(value)}")
            if more := options(value):
                lines.append(f"    - options: {more}")
    for package in PACKAGES:
        module = getattr(ul, package)
        found = functions_of(package)
        lines += ["", f"## ul.{package}", ""] if found else []
        lines += [f"- `{n}{parameters(getattr(module, n))}`: {first_line(getattr(module, n))}" for n in found]
    lines += [
        "",
        "## Pages",
        "",
        *(f"- [{title}]({re.sub(r'(index)?[.]md$', '', target) or './'})" for title, target in pages()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both files."""
    PAGE.write_text(page(), encoding="utf-8")
    TEXT.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
