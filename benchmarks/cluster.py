"""A cluster on this machine: two workers against one, the overhead of a remote command, and kills.

    python -m benchmarks.cluster [--quick] [--only scaling|overhead|kills] [--plot FILE]
        [--operation NAME] [--rounds N] [--minutes N] [--timeline]

scaling   each worker has a core of its own (pinned). Two plain FFmpegs, pinned alike, are the
          yardstick of the same run: two cores of a busy or virtual machine are not twice one.
          "By CPU time" is what the commands alone would reach on idle cores: what runs on this
          machine, and what the busiest worker runs. --timeline says where each command's time went.
          --plot draws the table, and --write docs/performance.md puts it into that page.
overhead  a short command on a worker, and the same one here, in turns.
kills     twenty tasks on a real server while workers and the scheduler are killed ten times.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ffmpeg

from support.blocking import wait_for
from support.cluster import wait_until
from support.job import RealJob, bundled_ffmpeg, key_of_path, local_runner, run_operation
from support.local_cluster import LocalCluster, close_runner, media_processes
from support.server_process import PlainClient, ServerProcess
from vidproc.cluster.messages import Outcome
from vidproc.cluster.runner import ClusterRunner
from vidproc.cluster.running import RemoteRunning
from vidproc.cluster.workers import Worker
from vidproc.ffmpeg.command import (
    SOURCE,
    THREADS,
    Command,
    Completed,
    Workspace,
    ffmpeg_command,
    input_file,
    output_file,
)
from vidproc.ffmpeg.sandbox import NICE
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

    def ready_runner(self, kind: type[ClusterRunner] = ClusterRunner) -> ClusterRunner:
        """Return a runner that sees all workers."""
        runner = self.runner(kind=kind)
        self.wait_for_workers(runner, len(self.workers))
        return runner


def make_film(path: Path, seconds: int) -> Path:
    """Repeat a clip until it is so long."""
    options = ["-v", "error", "-stream_loop", "-1", "-i", str(FLOWER), "-t", str(seconds)]
    subprocess.run([bundled_ffmpeg().path, *options, "-c", "copy", str(path)], check=True)
    return path


# --- scaling -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Step:
    """A command of a task: seconds from the task's start, where it ran, and its CPU time."""

    stage: str
    place: str
    began: float
    ended: float
    cpu_time: float
    way: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    """A task that was run: how long it took, and its commands."""

    seconds: float
    steps: list[Step]

    @property
    def critical(self) -> float:
        """CPU seconds that it takes at least, with a core for each worker: what runs here, and
        what the busiest worker runs."""
        here = sum(step.cpu_time for step in self.steps if not step.way)
        workers: dict[str, float] = {}
        for step in self.steps:
            if step.way:
                workers[step.place] = workers.get(step.place, 0.0) + step.cpu_time
        return here + max(workers.values(), default=0.0)

    def timeline(self) -> str:
        """Return a table with a line for each command, in the order of their ends."""
        lines = [f"{'ended':>7} {'began':>7} {'CPU':>6}  stage, place, where its time went"]
        for step in sorted(self.steps, key=lambda each: each.ended):
            way = ", ".join(f"{part} {seconds:.2f}" for part, seconds in step.way.items())
            lines.append(
                f"{step.ended:7.2f} {step.began:7.2f} {step.cpu_time:6.2f}"
                f"  {step.stage}, {step.place}{': ' if way else ''}{way}"
            )
        return "\n".join([*lines, f"{self.seconds:7.2f} the end"])


class TimedRunner(ClusterRunner):
    """A runner that notes what workers have done."""

    steps: list[Step]
    began: float

    def tell_done(self, running: RemoteRunning, outcome: Outcome, worker: Worker) -> None:
        """Note it."""
        super().tell_done(running, outcome, worker)
        journey = running.journey
        self.steps.append(
            Step(
                running.command.stage,
                worker.facts.id.split("-")[-2],
                journey.began - self.began,
                journey.back - self.began,
                outcome.cpu_time,
                journey.spent(outcome),
            )
        )


class TimedJob(RealJob):
    """A job that notes what runs here."""

    async def run_together(self, commands: Sequence[Command]) -> list[Completed]:
        """Run commands at once, and note those that run here; the first has all their CPU time."""
        runner: Any = self.runner
        began, used = runner.workers.now() - runner.began, _children_time()
        done = await super().run_together(commands)
        used = _children_time() - used
        for command, each in zip(commands, done, strict=True):
            if command.near or command.program != "ffmpeg":
                step = Step(command.stage, "here", began, began + each.elapsed, used)
                runner.steps.append(step)
                used = 0.0
        return done


def _children_time() -> float:
    """Return the CPU time in seconds of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


@dataclass(frozen=True, slots=True)
class Row:
    """An operation with one worker and with two: median seconds, how many times as fast two are
    (by the clock, and by the CPU time on the longest way), and what two plain FFmpegs reach."""

    name: str
    one: float
    two: float
    by_cpu: float
    plain: float
    runs: int

    @classmethod
    def of(cls, name: str, runs: Sequence[tuple[Run, Run, float]]) -> Row:
        """Return the medians of runs with one worker, with two, and of two FFmpegs."""
        return cls(
            name,
            statistics.median(one.seconds for one, _, _ in runs),
            statistics.median(two.seconds for _, two, _ in runs),
            statistics.median(one.critical / two.critical for one, two, _ in runs),
            statistics.median(plain for _, _, plain in runs),
            len(runs),
        )

    @property
    def ratio(self) -> float:
        """How many times as fast two workers are."""
        return self.one / self.two

    @property
    def wanted(self) -> float:
        """How many times as fast they have to be."""
        return min(WANTED, YARDSTICK * self.plain)

    def __str__(self) -> str:
        return (
            f"| {self.name} | {self.one:.1f} | {self.two:.1f} | {self.ratio:.2f} |"
            f" {self.by_cpu:.2f} | {self.plain:.2f} | {self.wanted:.2f}"
            f"{'' if self.ratio >= self.wanted else ' (missed)'} | {self.runs} |"
        )


TABLE = """\
| 60 s of | one worker, s | two, s | times as fast | by CPU time | two FFmpegs | wanted | runs |
|---|---|---|---|---|---|---|---|"""


def scaling(root: Path, options: argparse.Namespace) -> list[Row]:
    """Print and return rows."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        print("scaling needs two cores")
        return []
    seconds, rounds = (30, 1) if options.quick else (60, options.rounds)
    film = make_film(root / "film.mp4", seconds)
    work: dict[str, Parameters] = {
        "resolution": Resolution(width=640, height=360),
        "webm": WebM(start_time=0.0, duration=float(seconds), width=640),
        "compress": Compress(),
    }
    names = [name for name in work if options.operation in (None, name)]
    runs: dict[str, list[tuple[Run, Run, float]]] = {name: [] for name in names}
    end = time.monotonic() + 60 * options.minutes
    took: dict[str, float] = {}
    for number in range(rounds):
        for name in names:
            began = time.monotonic()
            if began + took.get(name, 0.0) > end:
                continue  # there is no time for another round of this one
            ones_and_twos = []
            for workers in (1, 2):
                # One cluster at a time: an idle one takes time, too.
                cluster = Cluster(_folder(root / f"{name}-{number}-{workers}"), cores[:workers])
                try:
                    run = one_run(cluster, name, work[name], film)
                finally:
                    cluster.close()
                ones_and_twos.append(run)
                if options.timeline:
                    print(f"{name}, {workers} workers", run.timeline(), sep="\n", flush=True)
            one, two = ones_and_twos
            runs[name].append((one, two, plain_pair(film, cores)))
            took[name] = time.monotonic() - began
            print(
                f"{name}: {one.seconds:.1f} s, {two.seconds:.1f} s,"
                f" plain {runs[name][-1][2]:.2f}; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    rows = [Row.of(name, found) for name, found in runs.items() if found]
    table = TABLE.replace("60 s", f"{seconds} s")
    print("", table, *rows, "", sep="\n", flush=True)
    return rows


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def one_run(cluster: Cluster, name: str, parameters: Parameters, film: Path) -> Run:
    """Run an operation on a cluster, and time it."""
    folder = _folder(cluster.root / "task" / "1")
    runner = cluster.ready_runner(TimedRunner)
    assert isinstance(runner, TimedRunner)
    try:
        runner.steps = []
        runner.began = runner.workers.now()
        job = TimedJob(film, folder, parameters, runner=runner, threads=2)
        run_operation(OPERATIONS[name], job)
        return Run(runner.workers.now() - runner.began, runner.steps)
    finally:
        runner.release(Workspace(key_of_path(film), key_of_path(folder)))
        close_runner(runner)
        shutil.rmtree(folder)


def plain_pair(film: Path, cores: list[int]) -> float:
    """Return how many times as fast two pinned FFmpegs do two jobs as one does them in turn."""

    def prepare(core: int) -> None:
        os.sched_setaffinity(0, {core})
        os.nice(NICE)  # as the workers' are

    def start(core: int) -> subprocess.Popen[bytes]:
        arguments = ["-v", "error", "-nostdin", "-t", "20", "-i", str(film), "-an", "-threads", "1"]
        arguments += ["-c:v", "libx264", "-f", "null", "-"]
        return subprocess.Popen(
            [bundled_ffmpeg().path, *arguments], preexec_fn=partial(prepare, core)
        )

    began = time.monotonic()
    start(cores[0]).wait()
    alone = time.monotonic() - began
    began = time.monotonic()
    for process in [start(core) for core in cores]:
        process.wait()
    return 2 * alone / (time.monotonic() - began)


def plot(rows: list[Row], path: Path) -> None:
    """Draw the rows of `scaling`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "vidproc"
    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    axes.plot([1, 2], [1, 2], color="#999999", linestyle=":", label="ideal")
    plain = statistics.median(row.plain for row in rows)
    axes.plot([1, 2], [1, plain], color="#cc3311", linestyle="--", label="two plain FFmpegs")
    for row, marker in zip(rows, "osv^", strict=False):
        axes.plot([1, 2], [1, row.ratio], marker=marker, label=f"{row.name} ({row.ratio:.2f})")
    axes.set_xticks([1, 2])
    axes.set_xlabel("workers, with a core each")
    axes.set_ylabel("times as fast as one")
    axes.set_title("A video of 60 s on one worker and on two")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def write(rows: list[Row], seconds: int, page: Path, drawing: Path) -> None:
    """Put the table and the drawing where a page has the ones before."""
    text = page.read_text()
    image = f"![Two workers against one]({drawing.name})"
    table = "\n".join([TABLE, *map(str, rows), ""])
    found = re.search(r"\| 60 s of \|.*?\n\n", text, re.DOTALL)
    if seconds != 60 or found is None:
        raise SystemExit(f"{page} has no table for a video of {seconds} s")
    before, after = text[: found.start()], text[found.end() :]
    lines = "" if image in text else f"{image}\n\n"
    page.write_text(f"{before}{table}\n{lines}{after}")


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
        ended = [client.wait(task_id) for task_id in ids]
        for status in ended:
            if status["status"] != "completed":
                print(f"{status['task_id']}: {status['status']}, {status['error']}")
        states = [status["status"] for status in ended]
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
    parser.add_argument("--operation", choices=["resolution", "webm", "compress"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=11.0, help="begin no run that would end later (11)"
    )
    parser.add_argument("--timeline", action="store_true", help="print each command of each task")
    parser.add_argument("--write", type=Path, help="put both into this page, beside FILE")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.write is not None and options.plot is None:
        parser.error("--write needs --plot")
    if options.plot is not None:
        import matplotlib  # noqa: F401 - pip install -e ".[bench]"; better now than after all runs
    root = Path(tempfile.mkdtemp(prefix="vidproc-bench-cluster-")).resolve()
    ok = True
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")
    try:
        if options.only in (None, "overhead"):
            overhead(root, 5 if options.quick else 15)
        if options.only in (None, "scaling"):
            rows = scaling(root, options)
            if options.plot is not None and rows:
                plot(rows, options.plot)
                if options.write is not None:
                    write(rows, 30 if options.quick else 60, options.write, options.plot)
        if options.only in (None, "kills"):
            ok = kills(root, *((6, 3) if options.quick else (20, 10)), options.seed)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
