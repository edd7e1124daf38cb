"""A worker without a cluster: what it does twice a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from support.job import bundled_ffmpeg
from vidproc.cluster.messages import Order
from vidproc.cluster.object_store import ObjectStore
from vidproc.cluster.scratch import Scratch
from vidproc.cluster.security import ClusterOptions
from vidproc.cluster.worker import REPORT_EVERY, WorkerService, _Job


class Running:
    """A command that runs, and cannot be measured if it is `broken`."""

    def __init__(self, *, broken: bool) -> None:
        self.broken = broken
        self.measured = 0

    def measure(self) -> None:
        self.measured += 1
        if self.broken:
            raise RuntimeError("broken")


class TickerTests(SynchronousTestCase):
    def test_a_fault_with_one_command_concerns_no_other(self) -> None:
        """It is logged, and the next round comes."""
        clock, folder = Clock(), Path(self.mktemp())
        worker = WorkerService(
            clock,
            ClusterOptions("tcp://127.0.0.1:1", f"file://{folder}"),
            bundled_ffmpeg(),
            cast(Any, None),
            Scratch(folder, 1 << 20),
            ("rlimits",),
            cores=1,
            memory=1 << 30,
            store=ObjectStore(f"file://{folder}"),
            now=clock.seconds,
        )
        commands = [Running(broken=True), Running(broken=False)]
        for number, command in enumerate(commands):
            job = _Job(cast(Order, None), running=cast(Any, command))
            worker._jobs[f"command-{number}"] = job
        worker._ticker.start(REPORT_EVERY, now=False)
        self.addCleanup(worker._ticker.stop)
        clock.pump([REPORT_EVERY] * 3)
        self.assertEqual([command.measured for command in commands], [3, 3])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)
