"""The speed of the page's upload of a large film compared with curl's, and the page's memory.

The film is sparse, so that reading it costs nothing, and not a video, so that its task fails at
once. curl and the page take turns, on loopback and tmpfs. The page's memory is the unique set size
of its renderer process, the largest seen. Run it from a checkout, with Chromium: ``python -m
benchmarks.page_upload``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Page

from benchmarks.transfer import TMPFS
from support.http_server import HTTPServerProcess
from tests_page.browser import chromium
from vidproc.units import format_size, parse_size

LIMIT_MEMORY = 300e6
"""The most memory that the page may use, in bytes."""
ENDED = ("completed", "failed")
START = "() => { document.querySelector('.start').click(); return performance.now(); }"
"""Starts the film; returns when, in milliseconds."""
SENT = """() => Math.max(...performance.getEntriesByType("resource")
  .filter((entry) => entry.name.includes("/api/v1/uploads/")).map((entry) => entry.responseEnd))"""
"""Returns when the last answer to the upload had come, by the same clock."""
ACCEPTED = """() => {
  const kept = Object.values(localStorage).find((text) => text.startsWith("{"));
  return kept && JSON.parse(kept).taskId;
}"""


def wait_for_end(page: Page, task_id: str) -> None:
    """Wait until a task has ended: the next upload needs its slot."""
    while True:
        answer = page.evaluate(f"() => fetch('api/v1/tasks/{task_id}').then((r) => r.json())")
        if answer["status"] in ENDED:
            return
        time.sleep(0.1)


def renderer_memory() -> int:
    """Return the largest unique set size of this process' browser's renderers, in bytes."""
    sizes = [0]
    for process in psutil.Process().children(recursive=True):
        try:
            if "--type=renderer" in process.cmdline():
                sizes.append(process.memory_full_info().uss)
        except psutil.Error:
            continue
    return max(sizes)


def by_curl(url: str, film: Path, page: Page) -> float:
    """Upload with curl; return the seconds."""
    began = time.monotonic()
    done = subprocess.run(
        ["curl", "-sS", "--fail-with-body", "-T", film, f"{url}api/v1/tasks?type=compress"],
        check=True,
        capture_output=True,
    )
    took = time.monotonic() - began
    wait_for_end(page, json.loads(done.stdout)["task_id"])
    return took


def by_page(url: str, film: Path, page: Page) -> tuple[float, int]:
    """Upload with the page; return the seconds and the page's peak memory in bytes."""
    page.evaluate("() => localStorage.clear()")
    page.goto(url)
    page.wait_for_selector("body.ready")
    page.set_input_files("#files", film)
    began = page.evaluate(START)
    memory = 0
    while not (found := page.evaluate(ACCEPTED)):
        memory = max(memory, renderer_memory())
        page.wait_for_timeout(1000)
    took = (page.evaluate(SENT) - began) / 1000
    wait_for_end(page, found)
    return took, memory


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the page's uploads against curl's.")
    parser.add_argument("--size", type=parse_size, default=2 << 30)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="256M, once")
    options = parser.parse_args()
    size = 256 << 20 if options.quick else options.size
    repeat = 1 if options.quick else options.repeat
    with tempfile.TemporaryDirectory(prefix="vidproc-", dir=TMPFS) as name:
        root = Path(name)
        root.chmod(0o755)
        film = root / "film.mp4"
        with film.open("wb") as file:
            file.truncate(size)
        server = HTTPServerProcess(root / "server").start()
        try:
            page = chromium().new_context().new_page()
            url = f"http://127.0.0.1:{server.http_port}/"
            page.goto(url)
            curl, ours, memory = [], [], 0
            for number in range(repeat):
                curl.append(by_curl(url, film, page))
                took, most = by_page(url, film, page)
                ours.append(took)
                memory = max(memory, most)
                speeds = (size / seconds / 1e6 for seconds in (curl[-1], took))
                print("run {}: curl {:.0f} MB/s, page {:.0f} MB/s".format(number + 1, *speeds))
        finally:
            server.stop()
    ratio = statistics.median(c / o for c, o in zip(curl, ours, strict=True))
    print(f"{format_size(size)}, {repeat} runs each in turn, load {os.getloadavg()[0]:.1f}")
    print(f"curl {size / statistics.median(curl) / 1e6:.0f} MB/s")
    print(f"page {size / statistics.median(ours) / 1e6:.0f} MB/s, {ratio:.2f} of curl's")
    print(f"page's memory: {memory / 1e6:.0f} MB at most")
    return 0 if ratio >= 0.5 and memory < LIMIT_MEMORY else 1


if __name__ == "__main__":
    raise SystemExit(main())
