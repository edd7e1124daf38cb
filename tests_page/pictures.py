"""Screenshots of the page for the documentation: ``make page-pictures`` writes docs/page*.png."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe
from playwright.sync_api import Page, expect

from tests_page.browser import chromium
from tests_page.case import FLOWER, FRIDAY, PATIENCE, PageServer

DOCS = Path(__file__).resolve().parents[1] / "docs"


def take(page: Page, name: str) -> None:
    """Write a screenshot in 256 colours, which is a third of its size."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        page.screenshot(path=raw)
        graph = "split[a][b];[a]palettegen=max_colors=200[p];[b][p]paletteuse=dither=none"
        subprocess.run(
            [get_ffmpeg_exe(), "-v", "error", "-y", "-i", raw, "-vf", graph, DOCS / name],
            check=True,
        )


def cut(film: Path, folder: Path, name: str) -> Path:
    """Return the first two seconds of a film, under another name."""
    path = folder / name
    arguments = ["-i", str(film), "-t", "2", "-c", "copy", str(path)]
    subprocess.run([get_ffmpeg_exe(), "-v", "error", "-y", *arguments], check=True)
    return path


def run(page: Page, folder: Path) -> None:
    """Have two films done, compare one, and take the pictures."""
    films = [cut(FLOWER, folder, "garden.mp4"), cut(FRIDAY, folder, "friday.mp4")]
    page.set_default_timeout(PATIENCE)
    page.wait_for_selector("body.ready")
    page.set_input_files("#files", films)
    page.check("input[value=resolution]", force=True)
    page.fill("#field-width", "640")
    page.fill("#field-height", "360")
    page.click(".start")
    for path in reversed(films):
        card = page.locator(".film", has=page.get_by_role("heading", name=path.name, exact=True))
        expect(card).to_have_attribute("data-state", "done", timeout=PATIENCE)
    card.get_by_role("button", name="Compare").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.stage video')].every((v) => v.readyState > 2)"
    )
    card.get_by_role("slider", name="Position").fill("1")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.stage video')].every((v) => !v.seeking)"
    )
    page.mouse.move(0, 0)
    take(page, "page.png")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("() => document.querySelector('.stage').scrollIntoView({ block: 'center' })")
    take(page, "page-phone.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = PageServer(Path(folder)).start()
        try:
            context = chromium().new_context(viewport={"width": 1000, "height": 900})
            page = context.new_page()
            page.goto(server.url)
            run(page, Path(folder))
            context.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
