"""Draw the packages of unpact-lens and their imports as docs/images/architecture.svg.

The arrows are read from the source: package A points to package B when a module of A imports a module of B. Arrows that
follow from others are left out, and so are those to `stats` and `results`, which every package may import.
Run `python scripts/architecture_picture.py`.
"""

from __future__ import annotations

import ast
import html
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unpact_lens"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

ROWS = (
    ("cli",),
    ("explorer", "auditing"),
    ("study", "report"),
    ("plots", "recovery", "unlearning"),
    ("comparison", "evaluation"),
    ("attribution",),
    ("decomposition",),
    ("models", "data"),
    ("stats", "results"),
)
"""Packages from top to bottom; imports point down, or to the right within a row."""

BASE = ROWS[-1]
"""Packages that every other one may import; no arrows are drawn to them."""

LINES = {
    "cli": "unpact … on the command line",
    "explorer": "two models in a page or a notebook",
    "auditing": "two checkpoints in, a verdict out",
    "study": "models × methods × seeds, resumable",
    "report": "one HTML page from a study",
    "plots": "result → plotly figure",
    "recovery": "probes that look for forgotten facts",
    "unlearning": "losses, methods, one trainer",
    "comparison": "exact diffs of two models",
    "evaluation": "metrics and the verdict",
    "attribution": "contribution of each prompt token",
    "decomposition": "logit by head, component, neuron",
    "models": "load, hook, generate, save",
    "data": "facts, benchmarks, prompts",
    "stats": "intervals, tests, bootstrap",
    "results": "table, figure, save, load",
}
"""What each package is for, in a few words."""


def package_of(module: str) -> str | None:
    """Return the package that a dotted module name belongs to, or None if the picture does not show it."""
    parts = module.split(".")
    name = parts[1] if parts[0] == "unpact_lens" and len(parts) > 1 else ""
    return name if name in LINES else None


def imports() -> set[tuple[str, str]]:
    """Return each pair of packages (importing, imported) of the source."""
    found = set()
    for file in SOURCE.rglob("*.py"):
        module = ".".join(("unpact_lens", *file.relative_to(SOURCE).with_suffix("").parts))
        importing = package_of(module)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for imported in map(package_of, names):
                if importing and imported and importing != imported:
                    found.add((importing, imported))
    return found


def reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the arrows that do not follow from longer paths."""

    def reaches(start: str, end: str, without: tuple[str, str]) -> bool:
        seen, queue = {start}, [start]
        while queue:
            here = queue.pop()
            for a, b in arrows:
                if a == here and (a, b) != without and b not in seen:
                    if b == end:
                        return True
                    seen.add(b)
                    queue.append(b)
        return False

    return {(a, b) for a, b in arrows if b not in BASE and not reaches(a, b, without=(a, b))}


def svg(arrows: set[tuple[str, str]]) -> str:
    """Return the picture as SVG, readable on light and dark pages."""
    width, height, box, tall, gap = 900, 84 * len(ROWS) + 20, 250, 50, 34
    place: dict[str, tuple[float, float]] = {}
    for row, names in enumerate(ROWS):
        left = (width - len(names) * box - (len(names) - 1) * gap) / 2
        for column, name in enumerate(names):
            place[name] = (left + column * (box + gap), 12 + row * 84)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Packages of unpact-lens; arrows are imports and point down" font-family="sans-serif">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#7a869a"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="10" fill="#fbfcfe"/>',
    ]
    top = place[BASE[0]][1]
    parts.append(
        f'<rect x="20" y="{top - 10:.0f}" width="{width - 40}" height="{tall + 20}" rx="9" fill="#eef2f8"/>'
        f'<text x="36" y="{top + 30:.0f}" font-size="12" fill="#44516b">used by all</text>'
    )
    for a, b in sorted(arrows):
        (x1, y1), (x2, y2) = place[a], place[b]
        if y1 == y2:
            start, end = (x1 + (box if x2 > x1 else 0), y1 + tall / 2), (x2 + (0 if x2 > x1 else box), y2 + tall / 2)
        else:
            start, end = (x1 + box / 2, y1 + tall), (x2 + box / 2, y2)
        bend = (end[1] - start[1]) / 2
        parts.append(
            f'<path d="M{start[0]:.0f} {start[1]:.0f} C{start[0]:.0f} {start[1] + bend:.0f} {end[0]:.0f} '
            f'{end[1] - bend:.0f} {end[0]:.0f} {end[1]:.0f}" fill="none" stroke="#7a869a" stroke-width="1.4" '
            'marker-end="url(#a)"/>'
        )
    for name, (x, y) in place.items():
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{box}" height="{tall}" rx="7" fill="#fff" stroke="#3b5b8c"/>'
            f'<text x="{x + box / 2:.0f}" y="{y + 21:.0f}" text-anchor="middle" font-size="15" font-weight="bold" '
            f'fill="#1d2f4f">{html.escape(name)}</text>'
            f'<text x="{x + box / 2:.0f}" y="{y + 39:.0f}" text-anchor="middle" font-size="12" '
            f'fill="#44516b">{html.escape(LINES[name])}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(svg(reduced(imports())), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
