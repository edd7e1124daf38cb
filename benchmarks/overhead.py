"""What the service adds to FFmpeg: each operation compared with its bare commands.

The bare commands are the FFmpeg commands of the operation, with the same arguments and threads, one
after another and without a server. They are compared with the same work on a running server, from
connect to last byte, and with the command-line client, including its startup. All alternate; the
medians are printed. The budget is 5 % + 0.5 s, or 5 % + 1.0 s with the client. Run it from a
checkout: ``python -m benchmarks.overhead``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.job import RealJob, probe, run_operation
from support.server_process import PlainClient, ServerProcess, receive, send
from vidproc.app.measuring import usable_cores
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.operations.parameters import parse_parameters
from vidproc.operations.registry import get_operation

MEDIA = Path(__file__).parent.parent / "tests" / "media"
CLIP = MEDIA / "flower-540p-aac.mp4"
SHARE, FIXED, CLIENT_FIXED = 0.05, 0.5, 1.0

CASES: dict[str, dict[str, Any]] = {
    "extract_audio": {},
    "gif": {"start_time": 0, "duration": 3},
    "resolution": {"width": 1280, "height": 720},
    "aspect_ratio": {"aspect_ratio": "4:3"},
    "webm": {"start_time": 0, "duration": 4},
    "compress": {"preset": "fast"},
}


def bare(clip: Path, name: str, fields: dict[str, Any], folder: Path) -> float:
    """Run an operation's commands; return their seconds."""
    folder.mkdir()
    parameters, _ = parse_parameters(name, fields)
    ffmpeg = find_ffmpeg()
    job = RealJob(
        clip, folder, parameters, ffmpeg=ffmpeg, media=probe(clip), threads=usable_cores()
    )
    run_operation(get_operation(name), job)
    return sum(job.times)


def through_server(port: int, clip: Path, name: str, fields: dict[str, Any], address: str) -> float:
    """Upload, watch, download on one connection; return the seconds from connect to last byte."""
    content = clip.read_bytes()
    request = {"action": "upload", "type": name, "parameters": fields}
    client = PlainClient(port, address)
    start = time.monotonic()
    with client.connect() as connection:
        send(connection, request, content, clip.suffix[1:])
        accepted = receive(connection)[0]
        if "task_id" not in accepted:
            raise SystemExit(f"the upload was refused: {accepted}")
        task = {"task_id": accepted["task_id"]}
        send(connection, {"action": "watch", "interval": 60, **task})
        while (status := receive(connection)[0])["status"] in ("queued", "processing"):
            pass
        if status["status"] != "completed":
            raise SystemExit(f"{name}: {status}")
        send(connection, {"action": "download", **task})
        receive(connection)
    elapsed = time.monotonic() - start
    client.request({"action": "delete", **task})
    return elapsed


def through_client(port: int, clip: Path, name: str, fields: dict[str, Any], folder: Path) -> float:
    """Run the command-line client; return its seconds, start and end included."""
    folder.mkdir()
    options = [f"--{key.replace('_', '-')}={value}" for key, value in fields.items()]
    start = time.monotonic()
    subprocess.run(
        [
            *(sys.executable, "-m", "vidproc.client", str(clip), f"--type={name}", *options),
            *(f"--port={port}", f"--output={folder / 'result'}", f"--log-dir={folder}"),
        ],
        check=True,
        capture_output=True,
    )
    return time.monotonic() - start


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, help="runs of each (5; quick: 1)")
    parser.add_argument("--clip", type=Path, default=CLIP, help="the film to process")
    parser.add_argument("--only", help="this operation only", choices=sorted(CASES))
    parser.add_argument("--quick", action="store_true", help="one run of each")
    options = parser.parse_args()
    repeat = options.repeat or (1 if options.quick else 5)
    clip = options.clip.absolute()
    over = False
    print(f"{clip.name}, {repeat} runs each in turn, {usable_cores()} cores, seconds")
    print(f"{'':16}{'bare':>8}{'server':>8}{'added':>8}{'client':>8}{'added':>8}")
    with tempfile.TemporaryDirectory(prefix="vidproc-overhead-") as root:
        server = ServerProcess(Path(root) / "server").start()
        try:
            for name, fields in CASES.items():
                if options.only in (None, name):
                    over |= case(server.port, clip, name, fields, Path(root), repeat)
        finally:
            server.stop()
    print(
        "ABOVE" if over else "within",
        f"{SHARE:.0%} + {FIXED} s, with the client's start {SHARE:.0%} + {CLIENT_FIXED} s",
    )


def case(port: int, clip: Path, name: str, fields: dict[str, Any], root: Path, repeat: int) -> bool:
    """Measure one operation and print a line; return whether it is over the budget."""
    times: dict[str, list[float]] = {"bare": [], "server": [], "client": []}
    runs: dict[str, Callable[[Path], float]] = {
        "bare": lambda folder: bare(clip, name, fields, folder),
        "server": lambda _: through_server(port, clip, name, fields, "127.0.0.5"),
        "client": lambda folder: through_client(port, clip, name, fields, folder),
    }
    for number in range(repeat):
        for kind, run in runs.items():
            times[kind].append(run(root / f"{name}-{kind}-{number}"))
    bare_time, server, client = (statistics.median(times[kind]) for kind in runs)
    print(
        f"{name:16}{bare_time:8.2f}{server:8.2f}{server - bare_time:+8.2f}"
        f"{client:8.2f}{client - bare_time:+8.2f}",
        flush=True,
    )
    allowed = bare_time * (1 + SHARE)
    return server > allowed + FIXED or client > allowed + CLIENT_FIXED


if __name__ == "__main__":
    main()
