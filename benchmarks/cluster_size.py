"""What a large cluster costs: the scheduler, and the server's own bookkeeping.

    python -m benchmarks.cluster_size [--only workers|memory|films] [--workers 1000]
        [--gigabytes 8] [--minutes 1]

The scheduler and the server's runner are real, and so are the connections. The workers are Dask's
own, many in a process; in place of FFmpeg they wait `--command` seconds, and report progress twice
a second as real ones do. So what is measured is what the cluster itself costs: CPU and memory of
the scheduler and of the server's runner, idle and with a command on every worker, how long placing
takes, and how large the answer to `vidproc --server-info` gets.

`memory` is what a server has in memory while it puts a large input into the object store, and what
a worker has while it fetches a part of it and then all of it.

`films` is what a film of a minute takes of real workers: CPU time, and bytes that segments move.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil

from support.cluster import Scheduler
from support.job import RealJob, bundled_ffmpeg, key_of_path, run_operation, sandbox
from support.local_cluster import LocalCluster, close_runner, turn, turn_until
from vidproc import __version__
from vidproc.app.cluster_figures import ClusterFigures
from vidproc.cluster import entry, messages
from vidproc.cluster.messages import Outcome, Report, ShippedFile, WorkerFacts, WorkerState
from vidproc.cluster.object_store import ObjectStore, never
from vidproc.cluster.runner import ClusterRunner
from vidproc.cluster.scratch import Scratch
from vidproc.cluster.worker import REPORT_EVERY
from vidproc.ffmpeg.command import SOURCE, Command, Workspace
from vidproc.operations.parameters import Compress, Parameters, Resolution, WebM
from vidproc.operations.registry import OPERATIONS

FLOWER = Path(__file__).resolve().parents[1] / "tests" / "media" / "flower-540p-aac.mp4"
PROCESSES = 4
"""Processes that have the workers: a single one could not answer for all of them in time."""
CORES, MEMORY = 8, 32 << 30
MOST_GROWTH = 150 << 20
"""Bytes: parts of a multipart upload, and pieces on their way."""


class Waiting:
    """In place of `vidproc.cluster.worker.WorkerService`: waits instead of running commands."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.workers: list[Any] = []

    async def run(self, order: bytes) -> bytes:
        """Wait, and report."""
        decoded = messages.decode_order(order)
        reporter = self.workers[hash(decoded.key) % len(self.workers)]
        began = time.monotonic()
        while (passed := time.monotonic() - began) < self.seconds:
            report = Report(decoded.key, passed, int(25 * passed), 1.0, True)
            reporter.log_event(decoded.topic, messages.encode(report))
            await asyncio.sleep(REPORT_EVERY)
        return messages.encode(Outcome("completed", elapsed=self.seconds))

    async def stop_command(self, key: str) -> bool:
        """Nothing is stopped here."""
        return False


def serve(address: str, count: int, first: int, seconds: float, folder: str, up: Any) -> None:
    """Be `count` workers, in a process of their own, until it is killed."""
    # So many workers in one process are late now and then, and say so.
    logging.disable(logging.CRITICAL)
    asyncio.run(_serve(address, count, first, seconds, folder, up))


async def _serve(
    address: str, count: int, first: int, seconds: float, folder: str, up: Any
) -> None:
    import distributed
    from distributed.worker import DEFAULT_METRICS, DEFAULT_STARTUP_INFORMATION

    entry.service = waiting = Waiting(seconds)
    state = messages.encode(WorkerState(True, 50 << 30))
    for number in range(first, first + count):
        facts = messages.encode(_facts(number))
        make: Any = distributed.Worker
        worker = make(
            address,
            name=f"worker-{number}",
            nthreads=CORES,
            host="127.0.0.1",
            resources={"cores": CORES, "memory": MEMORY},
            memory_limit=0,
            local_directory=folder,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            startup_information={
                **DEFAULT_STARTUP_INFORMATION,
                "vidproc": partial(_first, facts),
            },
            metrics={**DEFAULT_METRICS, "vidproc": partial(_first, state)},
        )
        await worker
        waiting.workers.append(worker)
        with up.get_lock():
            up.value += 1
    await asyncio.Event().wait()


def _first(value: bytes, _: object) -> bytes:
    return value


def _facts(number: int) -> WorkerFacts:
    ffmpeg = bundled_ffmpeg()
    return WorkerFacts(
        id=f"encoder-{number:04d}-{os.getpid()}-{number:06x}",
        host=f"10.0.{number // 256}.{number % 256}",
        pid=os.getpid(),
        version=__version__,
        protocol=messages.PROTOCOL,
        ffmpeg=ffmpeg.version,
        features=messages.features_of(ffmpeg),
        layers=tuple(sorted(sandbox().layers)),
        cores=CORES,
        memory=MEMORY,
    )


class Meter:
    """The CPU time of this process and of the scheduler, and how long placing takes."""

    def __init__(self, scheduler: Scheduler, runner: ClusterRunner) -> None:
        self._processes = {
            "scheduler": psutil.Process(scheduler.pid),
            "server's runner": psutil.Process(),
        }
        self._place = runner.placing.place
        runner.placing.place = self._timed_place  # type: ignore[method-assign]
        self.placing = 0.0
        self.longest = 0.0
        self.calls = 0

    def _timed_place(self) -> None:
        began = time.perf_counter()
        self._place()
        took = time.perf_counter() - began
        self.placing += took
        self.longest = max(self.longest, took)
        self.calls += 1

    def over(self, name: str, seconds: float) -> None:
        """Print what is used while the reactor turns for some seconds."""
        before = {each: self._cpu(process) for each, process in self._processes.items()}
        placing, calls, began = self.placing, self.calls, time.monotonic()
        turn_for(seconds)
        elapsed = time.monotonic() - began
        for each, process in self._processes.items():
            used = (self._cpu(process) - before[each]) / elapsed
            memory = process.memory_info().rss >> 20
            print(f"  {name:<22}{each:<18}{used:8.3f} CPU s a second{memory:8d} MiB", flush=True)
        print(
            f"  {name:<22}{'placing':<18}{(self.placing - placing) / elapsed:8.3f} s a second,"
            f" {self.calls - calls} times, the longest {1000 * self.longest:.1f} ms",
            flush=True,
        )

    @staticmethod
    def _cpu(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)


def turn_for(seconds: float) -> None:
    """Turn the reactor for some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        turn()


def run(root: Path, count: int, seconds: float, command_seconds: float) -> bool:
    """Run the benchmark below `root`; return whether all commands completed."""
    cluster = LocalCluster(root)
    context = multiprocessing.get_context("spawn")
    up = context.Value("i", 0)
    processes = []
    try:
        cluster.start_scheduler()
        shares = [count // PROCESSES + (n < count % PROCESSES) for n in range(PROCESSES)]
        for number, share in enumerate(shares):
            arguments = (
                *(cluster.scheduler.address, share, sum(shares[:number]), command_seconds),
                *(str(root / "dask"), up),
            )
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            processes.append(process)
        runner = cluster.runner(sweep_every=60.0, term=15.0)
        turn_until(lambda: up.value == count, 900.0, lambda: f"{up.value} workers are up")
        cluster.wait_for_workers(runner, count)
        print(f"{count} workers of {CORES} cores; load {os.getloadavg()[0]:.1f}", flush=True)
        meter = Meter(cluster.scheduler, runner)
        meter.over("idle", seconds)
        completed = busy(root, runner, meter, count, seconds)
        figures = ClusterFigures(runner, None)  # type: ignore[arg-type] # no queue is asked
        reports = figures.reports() or ()
        print(f"  all workers' reports as JSON: {len(msgspec.json.encode(reports)):,} bytes")
        close_runner(runner)
        return completed
    finally:
        for process in processes:
            process.kill()
            process.join()
        cluster.close()


def busy(root: Path, runner: ClusterRunner, meter: Meter, count: int, seconds: float) -> bool:
    """Send two commands for each worker, each for a worker's cores; return whether all ended."""
    source = root / "source"
    source.write_bytes(bytes(1000))
    folder = root / "task" / "1"
    folder.mkdir(parents=True)
    workspace = Workspace(key_of_path(source), key_of_path(folder))
    done: list[Any] = []
    commands = 2 * count
    began = time.monotonic()
    for _ in range(commands):
        command = Command("ffmpeg", (), "encoding", cpus=float(CORES), reads=(SOURCE,))
        runner.start(command, workspace, CORES, lambda _: None).result.addBoth(done.append)
    print(f"  {commands} commands sent in {time.monotonic() - began:.2f} s", flush=True)
    turn_until(lambda: len(runner.running) >= count * 0.95 or done, 600.0)
    print(f"  {len(runner.running)} run after {time.monotonic() - began:.2f} s", flush=True)
    meter.over("a command on each", seconds)
    turn_until(lambda: len(done) == commands, 900.0, lambda: f"{len(done)} commands have ended")
    elapsed = time.monotonic() - began
    failed = sum(isinstance(each, Exception) or hasattr(each, "value") for each in done)
    print(f"  {commands} commands ended in {elapsed:.1f} s, {failed} failed", flush=True)
    return not failed


# --- memory --------------------------------------------------------------------------------------


def memory(root: Path, gigabytes: float) -> bool:
    """Print the most memory that copies of a large input take; return whether it stays flat."""
    size = int(gigabytes * (1 << 30))
    source, folder = root / "input", root / "store"
    folder.mkdir()
    with source.open("wb") as file:
        file.truncate(size)
    store = ObjectStore(f"file://{folder}")
    scratch = Scratch(root / "scratch", 4 * size)
    scratch.open()
    found: list[Any] = []
    part = ((size // 2, size // 2 + size // 10),)

    def fetch(ranges: tuple[tuple[int, int], ...] | None) -> None:
        digest, _ = found[0]
        file = ShippedFile(SOURCE, digest, "source", None, "source.blocks", ranges)
        with scratch.input(store, file, never) as (_, fetched):
            print(f"    {fetched:,} bytes fetched")

    def put() -> None:
        found.append(store.put_file(source, "source"))
        store.put("source.blocks", found[0][1])

    ok = True
    for name, work in (
        ("put", put),
        ("fetch a tenth", lambda: fetch(part)),
        ("fetch all", lambda: fetch(None)),
    ):
        grown, seconds = _grown(work)
        ok = ok and grown < MOST_GROWTH
        print(f"  {name:<16}{grown >> 20:6d} MiB more, {seconds:6.1f} s", flush=True)
    return ok


def _grown(work: Callable[[], None]) -> tuple[int, float]:
    """Return by how many bytes this process grows while `work` runs, and its seconds."""
    process, over, most = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not over.wait(0.05):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return max(0, most - before), time.monotonic() - began


# --- films ---------------------------------------------------------------------------------------


def films(root: Path, minutes: float) -> bool:
    """Print what a film of 540p takes of two workers, by operation."""
    film = root / "film.mp4"
    options = ["-v", "error", "-stream_loop", "-1", "-i", str(FLOWER), "-t", str(60 * minutes)]
    subprocess.run([bundled_ffmpeg().path, *options, "-c", "copy", str(film)], check=True)
    cluster = LocalCluster(root)
    work: dict[str, Parameters] = {
        "resolution": Resolution(width=640, height=360),
        "compress": Compress(),
        "webm": WebM(start_time=0.0, duration=60 * minutes),
    }
    print(f"{minutes:g} minutes of 960x540, {film.stat().st_size:,} bytes")
    try:
        cluster.start_scheduler()
        cluster.start_workers([cluster.worker() for _ in range(2)])
        for name, parameters in work.items():
            runner = cluster.runner()
            cluster.wait_for_workers(runner, 2)
            _film(root, name, parameters, film, runner)
            close_runner(runner)
        return True
    finally:
        cluster.close()


def _film(root: Path, name: str, parameters: Parameters, film: Path, runner: ClusterRunner) -> None:
    folder = root / "task" / name
    folder.mkdir(parents=True)
    outcomes: list[tuple[str, Outcome]] = []

    def done(running: Any, outcome: Outcome, worker: Any) -> None:
        outcomes.append((running.command.stage, outcome))

    runner.tell_done = done  # type: ignore[method-assign]
    job = RealJob(film, folder, parameters, runner=runner, threads=1)
    product = run_operation(OPERATIONS[name], job)
    cpu = sum(outcome.cpu_time for _, outcome in outcomes)
    fetched = sum(outcome.fetched for _, outcome in outcomes)
    made = sum(file.digest.size for _, outcome in outcomes for file in outcome.outputs)
    size, minutes = film.stat().st_size, (job.media.duration or 0.0) / 60
    print(
        f"  {name:<12}{len(outcomes):4d} commands, {cpu / minutes:6.1f} s of CPU a minute of film:"
        f" {3600 / (cpu / minutes):6.1f} an hour and core; a command fetches"
        f" {fetched / len(outcomes) / 1e6:.2f} MB and sends {made / len(outcomes) / 1e6:.2f};"
        f" all fetch {fetched / size:.2f} times the film, which becomes"
        f" {job.size_of(product.file):,} bytes",
        flush=True,
    )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["workers", "memory", "films"])
    parser.add_argument("--minutes", type=float, default=1.0, help="of the film")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of the large input")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--command", type=float, default=10.0, help="seconds of a command")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="vidproc-cluster-size-")).resolve()
    try:
        ok = True
        if options.only in (None, "memory"):
            ok = memory(root, options.gigabytes)
        if options.only in (None, "films"):
            ok = films(root, options.minutes) and ok
        if options.only in (None, "workers"):
            ok = run(root, options.workers, options.seconds, options.command) and ok
        return 0 if ok else 1
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
