"""Process one long film on a cluster, kill a worker in the middle, and check the result.

    python scripts/cluster_demo.py

Starts a Dask scheduler, two workers and a server on this machine, sends a film of a minute with the
command-line client, kills one worker when it has done its first segment, decodes the result, prints
who did what and stops everything. The result stays in demo-output/. Exit status 0 only if it is
valid.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import av
import imageio_ffmpeg

from support.cluster import Worker, wait_until
from support.local_cluster import LocalCluster
from support.server_process import ServerProcess
from vidproc.units import format_duration, format_size

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "tests" / "media" / "flower-540p-aac.mp4"
RESULT = ROOT / "demo-output" / "cluster.mp4"
LENGTH = 60
SIZE = (640, 360)
CLIENT_TIMEOUT = 1800.0

_DONE = re.compile(r"worker (\S+): (\S+) took ([\d.]+) s, ([\d.]+) s of CPU time, (\d+) bytes")


def make_film(path: Path) -> None:
    """Repeat the clip until it is a minute long."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    options = ["-v", "error", "-stream_loop", "-1", "-i", str(CLIP), "-t", str(LENGTH)]
    subprocess.run([ffmpeg, *options, "-c", "copy", str(path)], check=True)


def frames_of(path: Path) -> int:
    """Decode a film to its end; return the number of its frames."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def run(root: Path, stack: contextlib.ExitStack) -> int:
    """Run the demo below `root`; return the exit status."""
    cluster = LocalCluster(root)
    stack.callback(cluster.close)
    film = root / "film.mp4"
    make_film(film)
    print(f"A film of {LENGTH} s; a scheduler, two workers and a server are starting.")
    scheduler = cluster.start_scheduler()
    workers = cluster.start_workers([cluster.worker() for _ in range(2)])
    server = ServerProcess(
        root / "server", f"--cluster={scheduler.address}", f"--object-store={cluster.store}"
    )
    stack.callback(server.stop)
    server.start()
    wait_until(
        lambda: (
            "the object store is ours" in server.log("performance.log")
            and all(f"-{each.pid}-" in server.log("performance.log") for each in workers)
        )
    )
    RESULT.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    client = stack.enter_context(
        subprocess.Popen(
            [
                *(sys.executable, "-m", "vidproc.client", str(film), "--type", "resolution"),
                *("--width", str(SIZE[0]), "--height", str(SIZE[1]), "--output", str(RESULT)),
                *("--port", str(server.port), "--log-dir", str(root / "client-logs")),
                *("--check-interval", "5", "--force"),
            ],
            stdin=subprocess.DEVNULL,
        )
    )
    stack.callback(client.kill)
    victim = workers[0]
    wait_until(
        lambda: f"-{victim.pid}-" in _lines_of_work(server) or client.poll() is not None,
        CLIENT_TIMEOUT,
    )
    victim.kill()
    print(f"{victim.name} has done a command; it was killed (process {victim.pid}).")
    status = client.wait(CLIENT_TIMEOUT)
    elapsed = time.monotonic() - began
    table(server, workers, victim)
    left = cluster.left_on_disk()
    found, expected = frames_of(RESULT) if status == 0 else 0, frames_of(film)
    print(
        f"{found} of {expected} frames after {format_duration(elapsed)};"
        f" {len(left)} files left in the object store"
    )
    ok = status == 0 and found == expected and not left
    print("The result is valid: demo-output/cluster.mp4" if ok else "THE RESULT IS NOT VALID")
    return 0 if ok else 1


def _lines_of_work(server: ServerProcess) -> str:
    lines = server.log("performance.log").splitlines()
    return "\n".join(line for line in lines if " took " in line)


def table(server: ServerProcess, workers: list[Worker], victim: Worker) -> None:
    """Print what each worker did."""
    commands: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    fetched: Counter[str] = Counter()
    for worker, _, _, cpu, size in _DONE.findall(_lines_of_work(server)):
        commands[worker] += 1
        seconds[worker] += float(cpu)
        fetched[worker] += int(size)
    print(f"{'worker':<12}{'commands':>10}{'CPU time':>12}{'fetched':>12}")
    for each in workers:
        name = next((name for name in commands if f"-{each.pid}-" in name), "")
        print(
            f"{each.name:<12}{commands[name]:>10}{seconds[name]:>10.1f} s"
            f"{format_size(fetched[name]):>12}{'  killed' if each is victim else ''}"
        )


def main() -> int:
    """Run the demo; return the exit status."""
    root = Path(tempfile.mkdtemp(prefix="vidproc-cluster-demo-")).resolve()
    try:
        with contextlib.ExitStack() as stack:
            return run(root, stack)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
