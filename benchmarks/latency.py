"""The latency of a status while ten uploads keep the disk busy.

Sends fifty status requests a second, each on its own connection, as plain clients do: first with
nothing else going on, then while ten clients upload as fast as they can to the folder's disk. It
asks for the status of a running task (answered from memory) and of a finished one (from the store).
Run it from a checkout, on the disk that matters: ``python -m benchmarks.latency --dir FOLDER``.
With ``--slow-disk`` the writer is slowed down instead. Linux only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.load import connect, long_film, mmp_upload, run_streams
from benchmarks.memory import SlowDiskServer, place_film, place_result
from support.server_process import PlainClient, ServerProcess, receive, send
from vidproc.units import format_size, parse_size

UPLOADS = 10
PERIOD = 0.02
"""Seconds between status requests."""
LIMIT = 0.05


def ask(port: int, task_ids: list[str], seconds: float) -> dict[str, list[float]]:
    """Ask the tasks' status in turn; return the seconds that each answer took, by task."""
    took: dict[str, list[float]] = {task_id: [] for task_id in task_ids}
    end = time.monotonic() + seconds
    number = 0
    while (start := time.monotonic()) < end:
        task_id = task_ids[number % len(task_ids)]
        number += 1
        with connect(port, "127.0.0.3") as connection:
            send(connection, {"action": "status", "task_id": task_id})
            answer = receive(connection)[0]
        took[task_id].append(time.monotonic() - start)
        if "error" in answer and answer["error"] is not None:
            raise SystemExit(f"the status was refused: {answer}")
        time.sleep(max(0.0, start + PERIOD - time.monotonic()))
    return took


def keep_uploading(port: int, source: Path, size: int, address: str, seconds: float) -> int:
    """Upload and cancel until the time is over; return the bytes that were accepted."""
    end = time.monotonic() + seconds
    client = PlainClient(port, address)
    total = 0
    while time.monotonic() < end:
        task_id = mmp_upload(port, source, size, address=address)
        total += size
        client.request({"action": "cancel", "task_id": task_id})
    return total


def percentile(values: list[float], part: float) -> float:
    """Return the value below which this part (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def show(name: str, values: list[float]) -> float:
    """Print a line of figures; return the p99 in seconds."""
    p99 = percentile(values, 0.99)
    print(
        f"{name:44}{len(values):6}{percentile(values, 0.5) * 1e3:8.1f}{p99 * 1e3:8.1f}"
        f"{max(values) * 1e3:8.1f}",
        flush=True,
    )
    return p99


def under_load(
    server: ServerProcess, source: Path, size: int, tasks: list[str], seconds: float
) -> tuple[dict[str, list[float]], int, float]:
    """Ask while ten uploads run; return the answers' times, the bytes uploaded, MB/s to disk."""
    found: dict[str, list[float]] = {}

    def asking() -> None:
        time.sleep(1.0)  # until the uploads are in progress
        found.update(ask(server.port, tasks, seconds))

    asker = threading.Thread(target=asking)
    written = psutil.disk_io_counters()
    asker.start()
    elapsed, totals = run_streams(
        UPLOADS,
        lambda index: keep_uploading(
            server.port, source, size, f"127.0.0.{20 + index}", seconds + 1.5
        ),
    )
    asker.join()
    after = psutil.disk_io_counters()
    rate = 0.0
    if written is not None and after is not None:
        rate = (after.write_bytes - written.write_bytes) / elapsed / 1e6
    return found, sum(totals), rate


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help="of each part (30; quick: 5)")
    parser.add_argument("--size", type=parse_size, default="256M", help="bytes of an upload (256M)")
    parser.add_argument("--dir", type=Path, help="a folder on the disk to use")
    parser.add_argument("--slow-disk", action="store_true", help="slow the writer down instead")
    parser.add_argument("--quick", action="store_true", help="half a minute instead of two")
    options = parser.parse_args()
    seconds = options.seconds or (5.0 if options.quick else 30.0)
    size = options.size
    with tempfile.TemporaryDirectory(prefix="vidproc-latency-", dir=options.dir) as folder:
        root = Path(folder)
        kind: Callable[..., ServerProcess] = SlowDiskServer if options.slow_disk else ServerProcess
        server = kind(root / "server", "--max-concurrent=1").start()
        server.stop()
        finished = place_result(server, 1 << 20)
        source = root / "source"
        with source.open("wb") as file:
            file.truncate(size)
            for _ in range(0 if options.slow_disk else size >> 20):
                file.write(os.urandom(1 << 20))
        film = long_film(root / "film.mp4")
        server.start()
        try:
            print(f"{'status of':44}{'asked':>6}{'p50':>8}{'p99':>8}{'worst':>8}  ms")
            idle = ask(server.port, [finished], seconds)
            show("a finished task, nothing going on", idle[finished])
            server.stop()
            # It occupies the only place, so the uploads' tasks wait and use no CPU time.
            running = place_film(server, film)
            server.start()
            alone = ask(server.port, [running, finished], seconds)
            show("a running task, one film encoding", alone[running])
            show("a finished task, one film encoding", alone[finished])
            found, total, rate = under_load(server, source, size, [running, finished], seconds)
            first = show("a running task, and ten uploads", found[running])
            second = show("a finished task, and ten uploads", found[finished])
        finally:
            server.stop()
        print(f"uploaded {format_size(total)}, {rate:.0f} MB/s to the machine's disks meanwhile")
    print("within" if max(first, second) < LIMIT else "ABOVE", f"{LIMIT * 1e3:.0f} ms (p99)")


if __name__ == "__main__":
    main()
