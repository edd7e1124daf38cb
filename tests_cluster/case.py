"""What tests of a cluster share: processes that end with the test, and runners on them."""

from __future__ import annotations

import atexit
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from support.blocking import private_reactor, wait_for
from support.cluster import Program, Scheduler, Worker
from support.job import bundled_ffmpeg, local_runner, path_of_key, sandbox
from vidproc.cluster.object_store import PATIENCE, ObjectStore
from vidproc.cluster.runner import ClusterRunner
from vidproc.cluster.security import ClusterOptions

TIMEOUT = 180.0
TERM = 3.0
"""The lease's term in tests."""


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


class SharedCluster:
    """A scheduler and two workers of one core, for tests that leave them as they are.

    They end with this process.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="vidproc-test-cluster-")).resolve()
        self.store_folder = self.root / "store"
        self.store_folder.mkdir()
        self.store = f"file://{self.store_folder}"
        self.scheduler = Scheduler(self.root)
        self.workers: list[Worker] = []
        atexit.register(self._end)
        self.scheduler.start()
        for number in (1, 2):
            name = f"worker-{number}"
            self.workers.append(Worker(self.root, name, self.scheduler.address, self.store))
        for each in self.workers:
            Program.start(each)
        for each in self.workers:
            each.wait_until_serving()

    def _end(self) -> None:
        for program in (*self.workers, self.scheduler):
            program.kill()
        shutil.rmtree(self.root, ignore_errors=True)


@cache
def shared_cluster() -> SharedCluster:
    """Return this process' cluster."""
    return SharedCluster()


class ClusterCase(SynchronousTestCase):
    """A scheduler, workers and an object store that end with the test."""

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="vidproc-test-cluster-")).resolve()
        self.addCleanup(self._remove_root)
        self.store_folder = self.root / "store"
        self.store_folder.mkdir()
        self.store = f"file://{self.store_folder}"
        self.folder = self.root / "task" / "1"
        self.folder.mkdir(parents=True)
        self.workers: list[Worker] = []

    def use_shared_cluster(self) -> None:
        """Use this process' cluster, which the test must leave as it is."""
        shared = shared_cluster()
        self.scheduler, self.store = shared.scheduler, shared.store
        self.store_folder = shared.store_folder
        self.workers = shared.workers

    def _remove_root(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def end_later(self, program: Program) -> None:
        """Kill a program when the test is over."""
        self.addCleanup(program.kill)

    def start_scheduler(self) -> Scheduler:
        """Start a scheduler."""
        self.scheduler = Scheduler(self.root)
        self.end_later(self.scheduler)
        return self.scheduler.start()

    def worker(self, *options: str, cores: int = 1, cpus: Sequence[int] = ()) -> Worker:
        """Return a worker that has not started."""
        name = f"worker-{len(self.workers) + 1}"
        worker = Worker(
            self.root,
            name,
            self.scheduler.address,
            self.store,
            *options,
            cores=cores,
            cpus=cpus,
        )
        self.workers.append(worker)
        self.end_later(worker)
        return worker

    def start_workers(self, count: int = 2, *options: str, cores: int = 1) -> list[Worker]:
        """Start workers at once."""
        workers = [self.worker(*options, cores=cores) for _ in range(count)]
        for each in workers:
            Program.start(each)
        for each in workers:
            each.wait_until_serving()
        return workers

    def runner(self, server_id: str | None = None, **options: Any) -> ClusterRunner:
        """Return an open runner that sends every command away that may travel."""
        options = {"short": 0.0, "term": TERM, "sweep_every": 1.0, "patience": PATIENCE} | options
        runner = ClusterRunner(
            private_reactor(),
            ClusterOptions(self.scheduler.address, self.store),
            local_runner(),
            bundled_ffmpeg(),
            sandbox(),
            "auto",
            path_of_key,
            server_id or secrets.token_hex(4),
            **options,
        )
        runner.open()
        self.addCleanup(self.close, runner)
        return runner

    def close(self, runner: ClusterRunner) -> None:
        """Close a runner, unless the test has."""
        if not runner.closed:
            wait_for(ensureDeferred(runner.close()))

    def wait_for_workers(self, runner: ClusterRunner, count: int) -> None:
        """Wait until a runner may use so many workers."""
        turn_until(
            lambda: runner.up and len(runner.workers.usable()) == count,
            what=lambda: str([w.objection(0) for w in runner.workers]),
        )

    def objects(self) -> list[str]:
        """Return the keys in the object store, but for leases."""
        keys = [key for key, _ in ObjectStore(self.store).keys("vidproc")]
        return [key for key in keys if "/lease/" not in key]

    def left_on_disk(self) -> list[str]:
        """Return all files below the object store's folder, leases excepted."""
        files = [path for path in self.store_folder.rglob("*") if path.is_file()]
        return [str(path) for path in files if path.parent.name != "lease"]
