"""How long somebody who has just cloned vidproc takes to a first GIF, by the page.

Clones this checkout's last commit, runs ``make serve`` there, opens the address that it prints in
Chromium, and does what a person would: choose a clip, press "Make a GIF", start, download. Nothing
else is filled in. A person is slower at this by some seconds of looking. Needs the network, to
install, the ports 9980 and 9999, and Chromium: ``python -m benchmarks.first_gif``.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests_page.browser import chromium
from tests_page.case import FRIDAY, PATIENCE

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 60.0
"""Seconds from the open page to the file."""


def serve(clone: Path) -> tuple[subprocess.Popen[str], str]:
    """Run ``make serve``; return its process and the address that it prints, once that serves."""
    output = clone.parent / "output"
    with output.open("w") as file:
        server = subprocess.Popen(
            ["make", "serve"], cwd=clone, stdout=file, stderr=file, text=True, process_group=0
        )
    while server.poll() is None:
        text = output.read_text()
        found = re.search(r"http://localhost:\d+/", text)
        if found and re.search(r"serves tcp", text):
            return server, found[0]
        time.sleep(0.1)
    raise SystemExit(output.read_text())


def first_gif(url: str) -> Path:
    """Make a GIF by the page and return where the browser has put it."""
    page = chromium().new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="choose files").click()
    chooser.value.set_files(FRIDAY)
    page.get_by_role("radio", name="Make a GIF").check()
    page.locator("button.start").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    return Path(download.value.path())


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="vidproc-") as folder:
        clone = Path(folder) / "vidproc"
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
        began = time.monotonic()
        server, url = serve(clone)
        try:
            ready = time.monotonic()
            gif = first_gif(url)
            took = time.monotonic() - ready
            if gif.read_bytes()[:4] != b"GIF8":
                raise SystemExit("what was downloaded is no GIF")
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)
    print(f"make serve, with the installation: {ready - began:.0f} s")
    print(f"from the open page to the GIF: {took:.1f} s; load {os.getloadavg()[0]:.1f}")
    return 0 if took < LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
