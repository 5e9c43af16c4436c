"""Makes the pictures of the documentation: a report, light and dark, and the drawing of a network.

    pip install -e ".[report]" playwright
    python docs/_site/screenshots.py RUN [--chromium /usr/bin/chromium]

RUN is a finished search. Pictures are written to docs/images as PNG files of few colours, and as SVG.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import nas_agg
from nas_agg.report.drawing import draw
from nas_agg.report.html.reports import write_report

IMAGES = Path(__file__).parents[1] / "images"
WIDTH, HEIGHT = 1200, 900
NETWORK = "microdense/30a64"


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "network.svg").write_text(draw(nas_agg.load(NETWORK), NETWORK), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = write_report([options.run], Path(folder) / "report.html")
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(page_file.as_uri())
            page.wait_for_timeout(1500)
            write_small(page.screenshot(), IMAGES / f"report-{scheme}.png")
            page.locator("#history").scroll_into_view_if_needed()
            page.evaluate("document.querySelector('#history').scrollIntoView({behavior: 'instant'})")
            page.wait_for_timeout(300)
            write_small(page.screenshot(), IMAGES / f"report-figures-{scheme}.png")
        browser.close()


def write_small(picture: bytes, path: Path) -> None:
    """Write a PNG file of 64 colours."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(64)
    image.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
