"""Check the built documentation: `python -m scripts.check_site [site]`. Standard library only.

Nothing is loaded from another host, every internal link leads to a page and an anchor, every picture has a text,
formulas will be typeset by the MathJax that is shipped, and a search for usual words finds pages.
"""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

WORDS = (
    "png",
    "jupyter",
    "lora",
    "svg",
    "gguf",
    "peft",
    "captum",
    "inseq",
    "nnsight",
    "muse",
    "tofu",
    "hook_resid_post",
)
"""Words that a search must find."""

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}
"""Attributes from which a browser loads something without a click. `link` is one unless it only names an address."""


class Page(HTMLParser):
    """Collect what a page links to, loads and defines."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.without_text: list[str] = []
        self.raw: list[str] = []
        self._typeset, self._code = 0, 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note links, loaded files and anchors."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "alternate") and "href" in given:
            self.loaded.append(given["href"])
        self.loaded += [given[name] for kind, name in LOADED if kind == tag and name in given]
        if tag == "img" and not given.get("alt"):
            self.without_text.append(given.get("src", ""))
        if tag in ("code", "pre", "script", "style"):
            self._code += 1
        if "arithmatex" in given.get("class", "").split():
            self._typeset += 1

    def handle_endtag(self, tag: str) -> None:
        """Leave code and formulas."""
        if tag in ("code", "pre", "script", "style"):
            self._code -= 1
        if tag in ("span", "div"):
            self._typeset = 0

    def handle_data(self, data: str) -> None:
        """Note LaTeX that no formula holds."""
        if not self._typeset and not self._code:
            self.raw += re.findall(r"\\(?:frac|sum|mathrm|log|theta|sigma|Delta)\b.{0,30}", data)


def problems(site: Path) -> list[str]:
    """Return what is wrong with a built site.

    Args:
        site: Directory that mkdocs wrote.
    """
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        name = file.relative_to(site).as_posix()
        found += [f"{name} loads {url} from another host" for url in page.loaded if urlsplit(url).netloc]
        found += [f"{name} has a picture without a text: {source}" for source in page.without_text]
        found += [f"{name} shows a formula as text: {text}" for text in page.raw]
        for url in [*page.links, *page.loaded]:
            found += [f"{name} links to {url}: {why}" for why in broken(url, file, site, pages)]
    for file in [*site.rglob("*.css"), *site.glob("assets/*.js")]:
        text = file.read_text(encoding="utf-8")
        found += [
            f"{file.name} imports {url}" for url in re.findall(r"(?:@import|url\()\s*[\"']?(https?://[^\"')]+)", text)
        ]
    return found + unfound(site)


def broken(url: str, file: Path, site: Path, pages: dict[Path, Page]) -> list[str]:
    """Return why a link leads nowhere, or nothing."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return []
    target = file
    if parts.path:
        start = site if parts.path.startswith("/") else file.parent
        target = (start / unquote(parts.path).lstrip("/")).resolve()
        target = target / "index.html" if target.is_dir() else target
    if file.name == "404.html" or (target == site.resolve() / "404.html"):
        return []
    if not target.exists():
        return ["no such file"]
    known = {page.resolve(): content.anchors for page, content in pages.items()}
    if (
        parts.fragment
        and target.suffix == ".html"
        and unquote(parts.fragment) not in known.get(target.resolve(), set())
    ):
        return ["no such anchor"]
    return []


def unfound(site: Path) -> list[str]:
    """Return the words that a search does not find."""
    documents = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    text = " ".join(f"{d['title']} {d['text']}" for d in documents).lower()
    return [f"a search for {word!r} finds nothing" for word in WORDS if not re.search(rf"\b{word}", text)]


def main(arguments: list[str]) -> None:
    """Print what is wrong and end with status 1, or say how much was checked."""
    site = Path(arguments[0] if arguments else "site")
    found = problems(site)
    for line in found:
        print(line)
    print(f"{len(list(site.rglob('*.html')))} pages checked, {len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(sys.argv[1:])
