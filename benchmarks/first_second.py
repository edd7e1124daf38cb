"""The overhead of short tasks: audio, GIF and resolution of an 8 s clip.

The bare FFmpeg commands of each operation, with the same arguments and threads but neither server
nor sandbox, alternate with the command-line client and a running server, from the client's start to
its end. The medians are printed, and where the CPU time went: that tells something on a busy
machine too. The goal is at most 0.4 s more than the bare commands. Run it from a checkout:
``python -m benchmarks.first_second``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from support.job import RealJob, bundled_ffmpeg, probe, run_operation
from support.server_process import ServerProcess
from vidproc.app.measuring import usable_cores
from vidproc.operations.parameters import parse_parameters
from vidproc.operations.registry import get_operation
from vidproc.runners.local import ffmpeg_argv

SOURCE = Path(__file__).parent.parent / "tests" / "media" / "flower-540p-aac.mp4"
SECONDS = 8
GOAL = 0.4
CASES: dict[str, dict[str, Any]] = {
    "extract_audio": {},
    "gif": {"start_time": 0, "duration": 3},
    "resolution": {"width": 640, "height": 360},
}
PARTS = ("client", "service", "probes", "ffmpeg")
"""Whose CPU time is told: the client; the server process; the forked probes; FFmpeg with its
launcher."""
_FLAGS = ("-hide_banner", "-nostdin", "-y", "-loglevel", "error")


def make_clip(folder: Path) -> Path:
    """Return a clip of 8 s."""
    clip = folder / "clip.mp4"
    command = [bundled_ffmpeg().path, *_FLAGS, "-stream_loop", "3", "-i", str(SOURCE)]
    subprocess.run([*command, "-t", str(SECONDS), "-c", "copy", str(clip)], check=True)
    return clip


def run(argv: Sequence[str], cwd: Path | None = None) -> tuple[float, float]:
    """Run a program that must succeed; return its wall time and CPU time in seconds."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=cwd)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.monotonic() - start
        if child.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{argv[0]}: {said.read().decode(errors='replace')[-2000:]}")
    return elapsed, used.ru_utime + used.ru_stime


def bare_commands(clip: Path, name: str, fields: dict[str, Any], folder: Path) -> list[list[str]]:
    """Return the FFmpeg commands of an operation; they write to `folder`, where they run once."""
    folder.mkdir()
    parameters, _ = parse_parameters(name, fields)
    job = RealJob(clip, folder, parameters, media=probe(clip), threads=usable_cores())
    run_operation(get_operation(name), job)
    ffmpeg = job.runner.capabilities
    return [
        ffmpeg_argv(
            ffmpeg,  # type: ignore[arg-type]
            command,
            command.resolve(lambda name: str(job.path_of(name)), usable_cores()),
            _FLAGS,
        )
        for command in job.commands
    ]


def cpu_of(server: ServerProcess) -> dict[str, float]:
    """Return the CPU seconds so far of a server's process, its probes and its FFmpegs."""
    own = psutil.Process(server.pid).cpu_times()
    found = {"service": own.user + own.system, "ffmpeg": own.children_user + own.children_system}
    found["probes"] = 0.0
    for child in server.descendants():
        times = child.cpu_times()
        found["probes"] += times.children_user + times.children_system
    return found


def through_client(
    server: ServerProcess, clip: Path, name: str, fields: dict[str, Any], folder: Path
) -> tuple[float, dict[str, float]]:
    """Run the client; return its wall time, and the CPU time of each of `PARTS`."""
    folder.mkdir()
    options = [f"--{key.replace('_', '-')}={value}" for key, value in fields.items()]
    before = cpu_of(server)
    elapsed, used = run(
        [
            *(sys.executable, "-m", "vidproc.client", str(clip), f"--type={name}", *options),
            *(f"--port={server.port}", f"--output={folder / 'result'}", f"--log-dir={folder}"),
        ]
    )
    after = cpu_of(server)
    return elapsed, {"client": used, **{part: after[part] - before[part] for part in before}}


def case(
    server: ServerProcess, clip: Path, name: str, fields: dict[str, Any], root: Path, repeat: int
) -> float:
    """Measure one operation and print a line; return the seconds that it adds."""
    commands = bare_commands(clip, name, fields, root / name)
    bare: list[tuple[float, float]] = []
    client: list[tuple[float, dict[str, float]]] = []
    for number in range(repeat):
        times = [run(argv, root / name) for argv in commands]
        bare.append((sum(wall for wall, _ in times), sum(cpu for _, cpu in times)))
        client.append(through_client(server, clip, name, fields, root / f"{name}-{number}"))

    def median(of: Callable[[int], float]) -> float:
        return statistics.median(of(n) for n in range(repeat))

    bare_time, client_time = median(lambda n: bare[n][0]), median(lambda n: client[n][0])
    parts = "".join(f"{median(lambda n, p=part: client[n][1][p]):9.3f}" for part in PARTS)  # type: ignore[misc]
    print(
        f"{name:14}{bare_time:8.3f}{client_time:8.3f}{client_time - bare_time:+8.3f}"
        f"{median(lambda n: bare[n][1]):10.3f}{parts}",
        flush=True,
    )
    return client_time - bare_time


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, help="runs of each (10; quick: 1)")
    parser.add_argument("--clip", type=Path, help="the film to process")
    parser.add_argument("--only", help="this operation only", choices=sorted(CASES))
    parser.add_argument("--quick", action="store_true", help="one run of each")
    options = parser.parse_args()
    repeat = options.repeat or (1 if options.quick else 10)
    load = os.getloadavg()[0]
    print(f"medians of {repeat}, bare and client in turn, {usable_cores()} cores, load {load:.1f}")
    print(f"{'':14}{'seconds':>16}{'':8}{'CPU seconds':>20}")
    heads = "".join(f"{part:>9}" for part in PARTS)
    print(f"{'':14}{'bare':>8}{'client':>8}{'added':>8}{'bare':>10}{heads}")
    added = []
    with tempfile.TemporaryDirectory(prefix="vidproc-first-second-") as folder:
        root = Path(folder)
        clip = options.clip.absolute() if options.clip else make_clip(root)
        server = ServerProcess(root / "server").start()
        try:
            for name, fields in CASES.items():
                if options.only in (None, name):
                    added.append(case(server, clip, name, fields, root, repeat))
        finally:
            server.stop()
    print(f"at most {max(added):+.3f} s: {'within' if max(added) <= GOAL else 'ABOVE'} {GOAL} s")


if __name__ == "__main__":
    main()
