"""What tests of a cluster share: processes that end with the test, and runners on them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SynchronousTestCase

from support.cluster import Worker
from support.local_cluster import LocalCluster, close_runner, turn, turn_until
from vidproc.cluster.runner import ClusterRunner

__all__ = ["ClusterCase", "new_root", "shared_cluster", "turn", "turn_until"]


def new_root() -> Path:
    """Return a new folder. Its path identifies the processes of this test run."""
    return Path(tempfile.mkdtemp(prefix="vidproc-test-cluster-")).resolve()


@cache
def shared_cluster() -> LocalCluster:
    """Return a scheduler and two single-core workers, shared by tests that do not change them.

    They end with this process.
    """
    cluster = LocalCluster(new_root())

    def end() -> None:
        cluster.close()
        shutil.rmtree(cluster.root, ignore_errors=True)

    atexit.register(end)
    cluster.start_scheduler()
    cluster.start_workers([cluster.worker() for _ in range(2)])
    return cluster


class ClusterCase(SynchronousTestCase):
    """A test with a cluster of its own, which ends with the test, or with the shared one."""

    def setUp(self) -> None:
        self.root = new_root()
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.folder = self.root / "task" / "1"
        self.folder.mkdir(parents=True)
        self.cluster = LocalCluster(self.root)
        self.addCleanup(self.cluster.close)

    def use_shared_cluster(self) -> None:
        """Use the shared cluster, which the test must not change."""
        self.cluster = shared_cluster()

    @property
    def workers(self) -> list[Worker]:
        """The workers' processes."""
        return self.cluster.workers

    def start_workers(self, count: int = 2, *options: str, cores: int = 1) -> list[Worker]:
        """Start several workers at the same time."""
        workers = [self.cluster.worker(*options, cores=cores) for _ in range(count)]
        return self.cluster.start_workers(workers)

    def runner(self, server_id: str | None = None, **options: Any) -> ClusterRunner:
        """Return an open runner that is closed at the end of the test."""
        runner = self.cluster.runner(server_id, **options)
        self.addCleanup(close_runner, runner)
        return runner

    def wait_for_workers(self, runner: ClusterRunner, count: int) -> None:
        """Wait until a runner can use `count` workers."""
        self.cluster.wait_for_workers(runner, count)

    def media_processes(self) -> list[psutil.Process]:
        """Return the FFmpegs of the cluster's workers."""
        return self.cluster.media_processes()
