"""Screenshots of the page for the documentation: ``make page-pictures`` writes docs/page*.webp.

Each shows one state: no films yet, the form, an upload, a running task, a result compared with its
source, an error, the server's figures, a phone, and dark mode.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from imageio_ffmpeg import get_ffmpeg_exe
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests_page.browser import chromium
from tests_page.case import COCKATOO, FLOWER, FRIDAY, FULL_SPEED, PATIENCE, PageServer, throttle

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDE: ViewportSize = {"width": 1000, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
SLOW = 100_000
"""A speed, in bytes a second, at which an upload can be seen."""
SENT_SOME = "() => document.querySelector('.film progress:not([hidden])')?.value > 0.4"
AT_WORK = """() => [...document.querySelectorAll(".film[data-state=busy]")].some((card) =>
  /setting|Encoding/.test(card.textContent) && card.querySelector("progress").value > 0.1)"""
VIDEOS = "[...document.querySelectorAll('.stage video')]"


def take(page: Page, name: str, *, whole: bool = False) -> None:
    """Write a screenshot of what fits the window, or of the `whole` page."""
    page.mouse.move(0, 0)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        page.screenshot(path=raw, full_page=whole)
        ffmpeg("-i", raw, "-c:v", "libwebp", "-quality", "85", DOCS / name)


def ffmpeg(*arguments: object) -> None:
    subprocess.run([get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)


def cut(film: Path, folder: Path, name: str) -> Path:
    """Return the first two seconds of a film, under another name."""
    path = folder / name
    ffmpeg("-i", film, "-t", "2", "-c", "copy", path)
    return path


def card(page: Page, film: Path) -> Any:
    """Return the card of a film."""
    return page.locator(".film", has=page.get_by_role("heading", name=film.name, exact=True))


def wait_until(page: Page, film: Path, state: str) -> None:
    expect(card(page, film)).to_have_attribute("data-state", state, timeout=PATIENCE)


def add(page: Page, operation: str, *films: Path) -> None:
    page.set_input_files("#files", list(films))
    page.check(f"input[value={operation}]", force=True)


def opened(browser: Browser, server: PageServer) -> Page:
    """Open the page in a fresh profile."""
    page = browser.new_context(viewport=WIDE).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    page.wait_for_selector("body.ready")
    return page


def compare(page: Page, film: Path) -> None:
    """Open the comparison of a film, and move it to a second after the start."""
    card(page, film).get_by_role("button", name="Compare").click()
    page.wait_for_function(f"() => {VIDEOS}.every((v) => v.readyState > 2)")
    card(page, film).get_by_role("slider", name="Position").fill("1")
    page.wait_for_function(f"() => {VIDEOS}.every((v) => !v.seeking)")


def run(page: Page, folder: Path) -> None:
    """Process films, and take the screenshots on the way."""
    garden, friday = cut(FLOWER, folder, "garden.mp4"), cut(FRIDAY, folder, "friday.mp4")
    cockatoo = cut(COCKATOO, folder, "cockatoo.mp4")
    notes = folder / "notes.mp4"
    notes.write_text("This is not a video.\n" * 1000)
    take(page, "page-empty.webp")
    add(page, "gif", friday, garden)
    take(page, "page-form.webp", whole=True)
    page.check("input[value=resolution]", force=True)
    page.fill("#field-width", "640")
    page.fill("#field-height", "360")
    page.click(".start")
    for film in (garden, friday):
        wait_until(page, film, "done")
    add(page, "compress", notes)
    page.click(".start")
    wait_until(page, notes, "failed")
    take(page, "page-error.webp")
    card(page, notes).get_by_role("button", name="Remove").click()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    throttle(session, SLOW)
    add(page, "compress", cockatoo)
    page.click(".start")
    page.wait_for_function(SENT_SOME)
    take(page, "page-uploading.webp")
    throttle(session, FULL_SPEED)
    page.wait_for_function(AT_WORK)
    take(page, "page-processing.webp")
    page.get_by_role("button", name="Server").click()
    expect(page.locator(".spark-line")).to_have_count(6)
    take(page, "page-server.webp")
    page.get_by_role("button", name="Server").click()
    card(page, cockatoo).get_by_role("button", name="Cancel").click()
    wait_until(page, cockatoo, "over")
    card(page, cockatoo).get_by_role("button", name="Remove").click()
    expect(card(page, cockatoo)).to_have_count(0)
    compare(page, garden)
    take(page, "page.webp")
    page.emulate_media(color_scheme="dark")
    take(page, "page-dark.webp")
    page.set_viewport_size(PHONE)
    page.evaluate("() => document.querySelector('.stage').scrollIntoView({ block: 'center' })")
    take(page, "page-phone.webp")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = PageServer(Path(folder)).start()
        try:
            run(opened(chromium(), server), Path(folder))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
