"""The speed of the page's upload of a large film compared with curl's, and the page's memory.

What the browser itself can do is measured as well: a document without any script of ours sends the
same file to the same server by one plain request. The film is sparse, so that reading it costs
nothing, and not a video, so that its task fails at once. All take turns, on loopback and tmpfs. The
page's memory is the unique set size of its renderer process, the largest seen. Run it from a
checkout, with Chromium: ``python -m benchmarks.page_upload``.
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
TARGET = "/api/v1/tasks?type=compress"
ADD_INPUT = """() => {
  const input = document.body.appendChild(document.createElement("input"));
  input.type = "file";
}"""
BARE = {
    "fetch": "(url, file) => fetch(url, { method: 'PUT', body: file }).then((r) => r.json())",
    "XMLHttpRequest": """(url, file) => new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("PUT", url);
      request.responseType = "json";
      request.onload = () => resolve(request.response);
      request.onerror = reject;
      request.send(file);
    })""",
}
"""The ways in which a script can send a file, by name. Chromium reads it in the browser process for
`fetch`, and in the network process for `XMLHttpRequest`."""
TIMED = """async ([url, send]) => {
  const file = document.querySelector("input").files[0];
  const began = performance.now();
  const answer = await eval(send)(url, file);
  return [(performance.now() - began) / 1000, answer.task_id];
}"""
"""Returns the seconds that a request took, and its task."""


def wait_for_end(page: Page, task_id: str) -> None:
    """Wait until a task has ended: the next upload needs its slot."""
    while True:
        answer = page.evaluate(f"() => fetch('/api/v1/tasks/{task_id}').then((r) => r.json())")
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
        ["curl", "-sS", "--fail-with-body", "-T", film, f"{url.rstrip('/')}{TARGET}"],
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


def by_browser_alone(url: str, film: Path, page: Page, send: str) -> float:
    """Upload from a document without scripts; return the seconds."""
    page.goto(f"{url}healthz")
    page.evaluate(ADD_INPUT)
    page.set_input_files("input", film)
    took, task_id = page.evaluate(TIMED, [TARGET, send])
    wait_for_end(page, task_id)
    return float(took)


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
            # The server lets documents other than the page send nothing.
            bare = chromium().new_context(bypass_csp=True).new_page()
            seconds: dict[str, list[float]] = {}
            memory = 0
            for number in range(repeat):
                run = {"curl": by_curl(url, film, page)}
                run["page"], most = by_page(url, film, page)
                memory = max(memory, most)
                for name, send in BARE.items():
                    run[f"{name} alone"] = by_browser_alone(url, film, bare, send)
                for name, took in run.items():
                    seconds.setdefault(name, []).append(took)
                speeds = ", ".join(f"{name} {size / took / 1e6:.0f}" for name, took in run.items())
                print(f"run {number + 1}, MB/s: {speeds}", flush=True)
        finally:
            server.stop()
    print(f"{format_size(size)}, {repeat} runs each in turn, load {os.getloadavg()[0]:.1f}")
    of_curl = {
        name: statistics.median(c / t for c, t in zip(seconds["curl"], times, strict=True))
        for name, times in seconds.items()
    }
    for name, times in seconds.items():
        speed = size / statistics.median(times) / 1e6
        print(f"{name}: {speed:.0f} MB/s, {of_curl[name]:.2f} of curl's")
    print(f"page's memory: {memory / 1e6:.0f} MB at most")
    return 0 if of_curl["page"] >= 0.5 and memory < LIMIT_MEMORY else 1


if __name__ == "__main__":
    raise SystemExit(main())
