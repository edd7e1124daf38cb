"""Twenty mixed tasks from twenty addresses, compared with the bare commands one after another.

Five operations (all except compress) on four videos. The bare commands are the FFmpeg commands of
the operations, with the same arguments and all cores, but without probes, checks and server. They
are compared with the same tasks on a running server, all sent at the same time from different
loopback addresses, from the first connect to the last result. Both alternate; the totals, their
medians and the ratio are printed. Exit status 1 if the server is not faster. Run it from a
checkout: ``python -m benchmarks.mixed``. Linux only (other systems lack the addresses).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.job import RealJob, probe, run_operation
from support.server_process import PlainClient, ServerProcess, receive, send
from vidproc.app.measuring import usable_cores
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.operations.parameters import parse_parameters
from vidproc.operations.registry import get_operation

MEDIA = Path(__file__).parent.parent / "tests" / "media"
FILMS = (
    "flower-540p-aac.mp4",
    "friday-480p-aac.mp4",
    "fire-720p-vfr-rot180.mp4",
    "mpeg4asp-mp3.avi",
)
OPERATIONS: dict[str, dict[str, Any]] = {
    "resolution": {"width": 1280, "height": 720},
    "gif": {"start_time": 0, "duration": 2},
    "extract_audio": {},
    "webm": {"start_time": 0, "duration": 2},
    "aspect_ratio": {"aspect_ratio": "4:3"},
}


@dataclass(frozen=True, slots=True)
class Work:
    """One task: an operation and its film."""

    operation: str
    fields: dict[str, Any]
    film: Path


def tasks() -> list[Work]:
    """Return the twenty tasks in order."""
    return [
        Work(operation, fields, MEDIA / film)
        for film in FILMS
        for operation, fields in OPERATIONS.items()
    ]


def bare(works: list[Work]) -> float:
    """Run the commands of all tasks one after another; return the seconds in all."""
    films = {work.film: probe(work.film) for work in works}
    total = 0.0
    for work in works:
        with tempfile.TemporaryDirectory(prefix="vidproc-mixed-") as folder:
            parameters, _ = parse_parameters(work.operation, work.fields)
            job = RealJob(
                work.film,
                Path(folder),
                parameters,
                ffmpeg=find_ffmpeg(),
                media=films[work.film],
                threads=usable_cores(),
            )
            run_operation(get_operation(work.operation), job)
            total += sum(job.times)
    return total


def through_server(port: int, works: list[Work]) -> float:
    """Send all tasks at once, each from its own address; return the seconds until all are done."""

    def one(pair: tuple[int, Work]) -> None:
        number, work = pair
        client = PlainClient(port, f"127.0.3.{number}")
        request = {"action": "upload", "type": work.operation, "parameters": work.fields}
        with client.connect() as connection:
            connection.settimeout(None)
            send(connection, request, work.film.read_bytes(), work.film.suffix[1:])
            accepted = receive(connection)[0]
            if "task_id" not in accepted:
                raise SystemExit(f"the upload was refused: {accepted}")
            task = {"task_id": accepted["task_id"]}
            send(connection, {"action": "watch", "interval": 60, **task})
            while (status := receive(connection)[0])["status"] in ("queued", "processing"):
                pass
            if status["status"] != "completed":
                raise SystemExit(f"{work.operation} of {work.film.name}: {status}")

    start = time.monotonic()
    with ThreadPoolExecutor(len(works)) as pool:
        list(pool.map(one, enumerate(works, 1)))
    return time.monotonic() - start


def main() -> None:
    """Run the benchmark; exit status 1 if the server is not faster."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, help="turns (3; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="one turn")
    options = parser.parse_args()
    repeat = options.repeat or (1 if options.quick else 3)
    works = tasks()
    alone, served = [], []
    print(f"{len(works)} tasks, {usable_cores()} cores, seconds")
    for turn in range(1, repeat + 1):
        alone.append(bare(works))
        with tempfile.TemporaryDirectory(prefix="vidproc-mixed-") as folder:
            server = ServerProcess(Path(folder)).start()
            try:
                served.append(through_server(server.port, works))
            finally:
                server.stop()
        print(f"turn {turn}: bare {alone[-1]:.2f}, server {served[-1]:.2f}", flush=True)
    before, after = statistics.median(alone), statistics.median(served)
    print(f"median: bare {before:.2f}, server {after:.2f}, ratio {after / before:.3f}")
    print("sooner than one after another" if after < before else "NOT SOONER")
    raise SystemExit(0 if after < before else 1)


if __name__ == "__main__":
    main()
