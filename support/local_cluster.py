"""A scheduler, workers and an object store on this machine, and runners on them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater

from support.blocking import private_reactor, wait_for
from support.cluster import Program, Scheduler, Worker
from support.folders import files_below
from support.job import bundled_ffmpeg, local_runner, path_of_key, sandbox
from vidproc.cluster.object_store import ObjectStore
from vidproc.cluster.runner import ClusterRunner
from vidproc.cluster.security import ClusterOptions

TIMEOUT = 180.0
TERM = 3.0
"""The lease's term here, in seconds: a real one makes who comes after a crash wait longer."""


def turn() -> None:
    """Turn the private reactor for a moment."""
    wait_for(deferLater(private_reactor(), 0.02, lambda: None))


def turn_until(
    look: Callable[[], Any], timeout: float = TIMEOUT, what: Callable[[], str] = str
) -> Any:
    """Turn the private reactor until `look` returns something true; return that."""
    reactor = private_reactor()
    give_up_at = reactor.seconds() + timeout
    while not (found := look()):
        if reactor.seconds() > give_up_at:
            raise AssertionError(f"not within {timeout:g} s: {look} {what()}")
        turn()
    return found


def close_runner(runner: ClusterRunner) -> None:
    """Close a runner, unless it is closed."""
    if not runner.closed:
        wait_for(ensureDeferred(runner.close()))


def media_processes(root: Path) -> list[psutil.Process]:
    """Return the FFmpegs that read or write something below `root`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        text = " ".join(words)
        if "ffmpeg" in words[0] and f"{root}/" in text and "launcher.py" not in text:
            found.append(process)
    return found


class LocalCluster:
    """A cluster below `root`. Nothing runs before it is started; `close` kills all of it.

    Its store is a folder; set `store` to another URL before workers start, if need be.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.store_folder = self.root / "store"
        self.store_folder.mkdir(parents=True, exist_ok=True)
        self.store = f"file://{self.store_folder}"
        self.scheduler = Scheduler(self.root)
        self.workers: list[Worker] = []

    def start_scheduler(self, *options: str, tls: bool = False) -> Scheduler:
        """Start the scheduler."""
        if options or tls:
            self.scheduler = Scheduler(self.root, *options, tls=tls)
        return self.scheduler.start()

    def worker(self, *options: str, cores: int = 1, cpus: Sequence[int] = ()) -> Worker:
        """Return another worker, which has not started; `cpus` are what it is pinned to."""
        name = f"worker-{len(self.workers) + 1}"
        worker = Worker(
            self.root, name, self.scheduler.address, self.store, *options, cores=cores, cpus=cpus
        )
        self.workers.append(worker)
        return worker

    def start_workers(self, workers: Sequence[Worker]) -> list[Worker]:
        """Start workers at once, and wait until they serve."""
        for each in workers:
            Program.start(each)
        for each in workers:
            each.wait_until_serving()
        return list(workers)

    def runner(
        self,
        server_id: str | None = None,
        kind: type[ClusterRunner] = ClusterRunner,
        **options: Any,
    ) -> ClusterRunner:
        """Return an open runner that sends every command away that may travel."""
        runner = kind(
            private_reactor(),
            options.pop("cluster", None) or ClusterOptions(self.scheduler.address, self.store),
            local_runner(),
            bundled_ffmpeg(),
            sandbox(),
            "auto",
            path_of_key,
            server_id or secrets.token_hex(4),
            **{"short": 0.0, "term": TERM, "sweep_every": 1.0, **options},
        )
        runner.open()
        return runner

    def wait_for_workers(self, runner: ClusterRunner, count: int) -> None:
        """Wait until a runner may use so many workers."""
        turn_until(
            lambda: runner.up and len(runner.workers.usable()) == count,
            what=lambda: str([runner.workers.objection(each) for each in runner.workers]),
        )

    def objects(self) -> list[str]:
        """Return the keys in the object store, but for leases."""
        keys = [key for key, _ in ObjectStore(self.store).keys("vidproc")]
        return [key for key in keys if "/lease/" not in key]

    def left_on_disk(self) -> list[str]:
        """Return all files below the object store's folder, leases excepted."""
        return [str(path) for path in files_below(self.store_folder) if path.parent.name != "lease"]

    def media_processes(self) -> list[psutil.Process]:
        """Return the FFmpegs of its workers, and of servers whose data is below its root."""
        return media_processes(self.root)

    def close(self) -> None:
        """Kill everything."""
        for program in (*self.workers, self.scheduler):
            program.kill()
