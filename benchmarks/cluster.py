"""A cluster on this machine: two workers against one, the overhead of a remote command, and kills.

    python -m benchmarks.cluster [--quick] [--only scaling|overhead|kills] [--plot FILE]

scaling   each worker has a core of its own (pinned). Two plain FFmpegs, pinned alike, are the
          yardstick of the same run: two cores of a busy or virtual machine are not twice one.
overhead  a short command on a worker, and the same one here, in turns.
kills     twenty tasks on a real server while workers and the scheduler are killed ten times.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ffmpeg

from support.blocking import wait_for
from support.cluster import wait_until
from support.job import RealJob, bundled_ffmpeg, key_of_path, local_runner, run_operation
from support.local_cluster import LocalCluster, close_runner, media_processes
from support.server_process import PlainClient, ServerProcess
from vidproc.cluster.runner import ClusterRunner
from vidproc.ffmpeg.command import (
    SOURCE,
    THREADS,
    Command,
    Workspace,
    ffmpeg_command,
    input_file,
    output_file,
)
from vidproc.operations.parameters import Compress, Parameters, Resolution, WebM
from vidproc.operations.registry import OPERATIONS

MEDIA = Path(__file__).resolve().parents[1] / "tests" / "media"
FLOWER = MEDIA / "flower-540p-aac.mp4"
WANTED, YARDSTICK, OVERHEAD = 1.75, 0.9, 0.3


class Cluster(LocalCluster):
    """A running scheduler, and a worker pinned to each of `cores`."""

    def __init__(self, root: Path, cores: list[int]) -> None:
        super().__init__(root)
        self.start_scheduler()
        self.start_workers([self.worker(cpus=[core]) for core in cores])

    def ready_runner(self) -> ClusterRunner:
        """Return a runner that sees all workers."""
        runner = self.runner()
        self.wait_for_workers(runner, len(self.workers))
        return runner


def make_film(path: Path, seconds: int) -> Path:
    """Repeat a clip until it is so long."""
    options = ["-v", "error", "-stream_loop", "-1", "-i", str(FLOWER), "-t", str(seconds)]
    subprocess.run([bundled_ffmpeg().path, *options, "-c", "copy", str(path)], check=True)
    return path


# --- scaling -------------------------------------------------------------------------------------


def scaling(root: Path, seconds: int, rounds: int) -> list[tuple[str, float, float, float, float]]:
    """Print and return rows: operation, seconds with one and two workers, their ratio, the bar."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        print("scaling needs two cores")
        return []
    film = make_film(root / "film.mp4", seconds)
    work: dict[str, Parameters] = {
        "resolution": Resolution(width=640, height=360),
        "webm": WebM(start_time=0.0, duration=float(seconds)),
        "compress": Compress(),
    }
    clusters = [Cluster(_folder(root / f"cluster-{n}"), cores[:n]) for n in (1, 2)]
    rows = []
    try:
        for name, parameters in work.items():
            times: list[list[float]] = [[], []]
            plain: list[float] = []
            for _ in range(rounds):
                for number, cluster in enumerate(clusters):
                    times[number].append(one_run(cluster, name, parameters, film))
                plain.append(plain_pair(film, cores))
            one, two = (statistics.median(each) for each in times)
            bar = min(WANTED, YARDSTICK * statistics.median(plain))
            rows.append((name, one, two, one / two, bar))
            print(
                f"{name:<12} one worker {one:6.1f} s, two {two:6.1f} s: {one / two:.2f} times as"
                f" fast; two plain FFmpegs {statistics.median(plain):.2f}, wanted {bar:.2f}"
                f" {'ok' if one / two >= bar else 'TOO SLOW'}",
                flush=True,
            )
    finally:
        for cluster in clusters:
            cluster.close()
    return rows


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def one_run(cluster: Cluster, name: str, parameters: Parameters, film: Path) -> float:
    """Return the seconds that an operation takes on a cluster."""
    folder = _folder(cluster.root / "task" / "1")
    runner = cluster.ready_runner()
    try:
        job = RealJob(film, folder, parameters, runner=runner, threads=2)
        began = time.monotonic()
        run_operation(OPERATIONS[name], job)
        return time.monotonic() - began
    finally:
        runner.release(Workspace(key_of_path(film), key_of_path(folder)))
        close_runner(runner)
        shutil.rmtree(folder)


def plain_pair(film: Path, cores: list[int]) -> float:
    """Return how many times as fast two pinned FFmpegs do two jobs as one does them in turn."""

    def start(core: int) -> subprocess.Popen[bytes]:
        arguments = ["-v", "error", "-nostdin", "-t", "20", "-i", str(film), "-an", "-threads", "1"]
        arguments += ["-c:v", "libx264", "-f", "null", "-"]
        return subprocess.Popen(
            [bundled_ffmpeg().path, *arguments],
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    began = time.monotonic()
    start(cores[0]).wait()
    alone = time.monotonic() - began
    began = time.monotonic()
    for process in [start(core) for core in cores]:
        process.wait()
    return 2 * alone / (time.monotonic() - began)


def plot(rows: list[tuple[str, float, float, float, float]], path: Path) -> None:
    """Draw the rows of `scaling`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(6, 3))
    names = [row[0] for row in rows]
    axes.bar(names, [row[3] for row in rows], color="#4477aa", label="two workers")
    for number, row in enumerate(rows):
        axes.plot([number - 0.4, number + 0.4], [row[4]] * 2, color="#cc3311")
    axes.axhline(2.0, color="#bbbbbb", linestyle=":")
    axes.set_ylabel("times as fast as one worker")
    axes.set_title("Two pinned workers; the red line is what is wanted")
    pyplot.tight_layout()
    pyplot.savefig(path)


# --- overhead ------------------------------------------------------------------------------------


def short_command() -> Command:
    """Return a command of about half a second."""
    graph = ffmpeg.output(
        ffmpeg.input(input_file(SOURCE), t=1)["v:0"],
        output_file("out.mp4"),
        vcodec="libx264",
        preset="veryfast",
        threads=THREADS,
    )
    return ffmpeg_command(graph, stage="encoding", cpus=1.0, memory=256 << 20)


def overhead(root: Path, rounds: int) -> None:
    """Print what a remote command costs over a local one, in seconds."""
    cluster = Cluster(_folder(root / "overhead"), sorted(os.sched_getaffinity(0))[:1])
    try:
        runner = cluster.ready_runner()
        folder = _folder(cluster.root / "task" / "1")
        workspace = Workspace(key_of_path(FLOWER), key_of_path(folder))
        times: dict[str, list[float]] = {"here": [], "away": []}
        for number in range(rounds + 1):
            for name, each in (("here", local_runner()), ("away", runner)):
                began = time.monotonic()
                wait_for(each.start(short_command(), workspace, 1, lambda _: None).result)
                if number:  # the first has the input to send
                    times[name].append(time.monotonic() - began)
        here, away = (statistics.median(times[name]) for name in ("here", "away"))
        print(
            f"a command here {here:.3f} s, on a worker {away:.3f} s:"
            f" {away - here:+.3f} s {'ok' if away - here <= OVERHEAD else 'TOO MUCH'}"
        )
        runner.release(workspace)
        close_runner(runner)
    finally:
        cluster.close()


# --- kills ---------------------------------------------------------------------------------------


def kills(root: Path, tasks: int, count: int, seed: int) -> bool:
    """Kill workers and the scheduler at random while tasks run; return whether all is well."""
    chance = random.Random(seed)
    cluster = Cluster(_folder(root / "kills"), sorted(os.sched_getaffinity(0))[:2])
    server = ServerProcess(
        root / "kills" / "server",
        f"--cluster={cluster.scheduler.address}",
        f"--object-store={cluster.store}",
        f"--tasks-per-ip={tasks}",
    )
    try:
        server.start()
        wait_until(lambda: "the object store is ours" in server.log("performance.log"))
        client = PlainClient(server.port)
        parameters = {"width": 480, "height": 270}
        ids = [client.upload(FLOWER, "resolution", parameters)["task_id"] for _ in range(tasks)]
        killed = []
        for _ in range(count):
            time.sleep(chance.uniform(0.5, 3.0))
            victim: Any = chance.choice([*cluster.workers, cluster.scheduler])
            victim.kill()
            time.sleep(chance.uniform(0.0, 1.0))
            victim.start()
            killed.append(victim.name)
        states = [client.wait(task_id)["status"] for task_id in ids]
        wait_until(lambda: not cluster.left_on_disk(), what="objects are left")
        server.stop()
        wait_until(lambda: not media_processes(root), what="processes are left")
        done = sum(state == "completed" for state in states)
        print(f"{done} of {tasks} tasks completed; killed {', '.join(killed)}; nothing is left")
        return bool(done == tasks)
    finally:
        server.stop()
        cluster.close()


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter films, fewer rounds")
    parser.add_argument("--only", choices=["scaling", "overhead", "kills"])
    parser.add_argument("--plot", type=Path, help="draw the scaling table to this file")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="vidproc-bench-cluster-")).resolve()
    ok = True
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")
    try:
        if options.only in (None, "overhead"):
            overhead(root, 5 if options.quick else 15)
        if options.only in (None, "scaling"):
            rows = scaling(root, *((30, 1) if options.quick else (60, 3)))
            if options.plot is not None and rows:
                plot(rows, options.plot)
        if options.only in (None, "kills"):
            ok = kills(root, *((6, 3) if options.quick else (20, 10)), options.seed)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
