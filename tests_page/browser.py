"""Chromium: one instance for all tests of a process.

    python -m tests_page.browser    check that it can be driven; if not, say what to install

The environment variable CHROMIUM names a program to use instead of the usual ones.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
from functools import cache

from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Browser, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REBOUND = "rebound.example"
"""Somebody else's host name that resolves to this machine, as any name may."""
FLAGS = (
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
)
MISSING = (
    "The tests of the page need Chromium. On Debian and Ubuntu: apt-get install chromium.\n"
    "If it is installed under another name or path: make test-page CHROMIUM=/path/to/chrome"
)
NO_DRIVER = (
    "Playwright's Node.js, which drives Chromium, does not run:\n{}\n"
    "If libatomic.so.1 is missing, on Debian and Ubuntu: apt-get install libatomic1"
)


def find_chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    named = os.environ.get("CHROMIUM")
    for name in (named,) if named else PROGRAMS:
        path = shutil.which(name)
        if path is not None:
            return path
    return None


@cache
def chromium() -> Browser:
    """Return the browser. It runs until the process ends."""
    path = find_chromium()
    if path is None:
        raise AssertionError(MISSING)
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    playwright = sync_playwright().start()
    browser = playwright.chromium.launch(executable_path=path, headless=True, args=flags)

    def stop() -> None:
        browser.close()
        playwright.stop()

    atexit.register(stop)
    return browser


def driver_problem() -> str | None:
    """Return the error message of Playwright's driver if it does not run, or None."""
    done = subprocess.run([*compute_driver_executable(), "--version"], capture_output=True)
    return done.stderr.decode(errors="replace").strip() if done.returncode else None


def main() -> int:
    if find_chromium() is None:
        print(MISSING, file=sys.stderr)
        return 1
    problem = driver_problem()
    if problem is not None:
        print(NO_DRIVER.format(problem), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
