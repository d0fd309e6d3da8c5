"""Take the pictures of docs/how-to/explore.md: `python -m scripts.explorer_pictures` (needs playwright and Chromium).

The models are the embedded one before and after `npo_gdr`, seed 0, and the retrained one.
"""

from __future__ import annotations

import io
import shutil
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import unpact_lens as ul
from unpact_lens.explorer import ExplorerServer, ExplorerSession

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLOURS = 200
"""Number of colours of a picture; a few are enough and keep the file small."""


def main() -> None:
    """Take both pictures."""
    before, control = (ul.load_model(name, wrap="auto") for name in ("builtin", "builtin-retrain"))
    bench = ul.load_benchmark("builtin")
    after = ul.unlearn(before, bench, method="npo_gdr", stop_at=0.02, lr=3e-4, steps=150, alpha=5.0).model
    sources = {"before": "builtin", "after": "runs/npo", "control": "builtin-retrain"}
    with ExplorerServer(ExplorerSession(before, after, control, bench, sources=sources)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            wide = browser.new_page(viewport={"width": 1280, "height": 1180}, color_scheme="light")
            keep(shown(wide, server.url), "explorer-light.png")
            narrow = browser.new_page(viewport={"width": 420, "height": 1500}, color_scheme="dark")
            shown(narrow, server.url).evaluate("document.querySelector('section[aria-label=Heads]').scrollIntoView()")
            keep(narrow, "explorer-dark-narrow.png")
            browser.close()
        server.shutdown()


def shown(page: Page, url: str) -> Page:
    """Open the first fact, look at its last but one answer token, and patch a head back."""
    page.goto(url)
    page.wait_for_selector("section.inner .bars")
    page.wait_for_selector("[aria-busy]", state="detached")
    page.get_by_role("region", name="Answer", exact=True).get_by_role("button", name="answer token").nth(-2).click()
    page.wait_for_selector("[aria-busy]", state="detached")
    page.get_by_role("button", name="Patch L").click()
    page.wait_for_selector("table.patches .last")
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    return page


def keep(page: Page, name: str) -> None:
    """Write a picture of what the window shows, with few colours."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)
    print(IMAGES / name, (IMAGES / name).stat().st_size)


if __name__ == "__main__":
    main()
