"""Commands on workers: what comes back, where they run, and how they are stopped."""

from __future__ import annotations

import hashlib
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import ffmpeg
from twisted.internet.defer import ensureDeferred

from support.blocking import wait_for
from support.job import key_of_path, local_runner
from support.server_process import BUSY
from tests_cluster.case import ClusterCase, turn_until
from vidproc.cluster.object_store import ObjectStore
from vidproc.ffmpeg.command import (
    SOURCE,
    THREADS,
    Command,
    CommandFailed,
    CommandStopped,
    Workspace,
    ffmpeg_command,
    input_file,
    output_file,
)

MEDIA = Path(__file__).parents[1] / "tests" / "media"
FLOWER = MEDIA / "flower-540p-aac.mp4"


def encode(name: str = "out.mp4", *, seconds: float | None = None, **more: Any) -> Command:
    """Return a command that encodes the source. With `seconds` it takes that long."""
    options: dict[str, Any] = {}
    if seconds is not None:
        options = {"stream_loop": -1, "re": None, "t": seconds}
    graph = ffmpeg.output(
        ffmpeg.input(input_file(SOURCE), **options)["v:0"],
        output_file(name),
        vcodec="libx264",
        preset="ultrafast",
        threads=THREADS,
    )
    return ffmpeg_command(graph, stage="encoding", **{"duration": 5.0, "memory": 256 << 20, **more})


class CommandTests(ClusterCase):
    def setUp(self) -> None:
        super().setUp()
        self.use_shared_cluster()
        self.runner_ = self.runner()
        self.wait_for_workers(self.runner_, 2)
        self.workspace = Workspace(key_of_path(FLOWER), key_of_path(self.folder))

    def test_a_command_runs_elsewhere_and_its_output_comes_back(self) -> None:
        """It has the same bytes as a local encode with as many threads."""
        reports: list[Any] = []
        running = self.runner_.start(encode(cpus=1.0), self.workspace, 1, reports.append)
        done = wait_for(running.result)
        away = (self.folder / "out.mp4").read_bytes()
        self.assertGreater(done.elapsed, 0)
        self.assertEqual(sum(worker.done for worker in self.runner_.workers), 1)
        wait_for(local_runner().start(encode(), self.workspace, 1, lambda _: None).result)
        here = (self.folder / "out.mp4").read_bytes()
        self.assertEqual(hashlib.sha256(away).digest(), hashlib.sha256(here).digest())
        self.assertTrue(self.cluster.objects())
        self.runner_.release(self.workspace)
        turn_until(lambda: not self.cluster.left_on_disk())

    def test_a_stop_leaves_nothing_in_the_store(self) -> None:
        """Even if the attempt was never released and its lease has expired."""
        wait_for(self.runner_.start(encode(), self.workspace, 1, lambda _: None).result)
        self.assertTrue(self.cluster.objects())
        wait_for(ensureDeferred(self.runner_.close()))
        self.assertEqual(ObjectStore(self.cluster.store).keys("vidproc"), [])

    def test_a_failure_keeps_its_kind(self) -> None:
        """FFmpeg's messages come back, too, and explain the failure to the client."""
        (self.root / "noise").write_bytes(b"no video" * 1000)
        workspace = Workspace(key_of_path(self.root / "noise"), key_of_path(self.folder))
        running = self.runner_.start(encode(), workspace, 1, lambda _: None)
        error = self.failureResultOf(self._fired(running.result), CommandFailed).value
        self.assertIn("Invalid data", error.stderr_tail)
        self.assertEqual(error.kind, "input")

    def _fired(self, result: Any) -> Any:
        outcome: list[Any] = []
        result.addBoth(outcome.append)
        turn_until(lambda: outcome)
        from twisted.internet.defer import fail, succeed
        from twisted.python.failure import Failure

        return fail(outcome[0]) if isinstance(outcome[0], Failure) else succeed(outcome[0])

    def test_progress_comes_at_least_once_a_second(self) -> None:
        """The machine may be busy, so the median counts."""
        reports: list[float] = []
        running = self.runner_.start(
            encode(seconds=60), self.workspace, 1, lambda _: reports.append(time.monotonic())
        )
        turn_until(lambda: len(reports) >= 10)
        gaps = [later - sooner for sooner, later in pairwise(reports)]
        self.assertLess(statistics.median(gaps), 1.0, gaps)
        running.stop()
        self.failureResultOf(self._fired(running.result), CommandStopped)

    def test_a_cancel_ends_the_process_within_a_second(self) -> None:
        """The machine may be busy, so the fastest of several tries counts."""
        times = []
        for _ in range(4):
            reports: list[Any] = []
            running = self.runner_.start(encode(seconds=60), self.workspace, 1, reports.append)
            turn_until(reports.copy)
            self.assertTrue(self.media_processes())
            asked_at = time.monotonic()
            running.stop()
            self.failureResultOf(self._fired(running.result), CommandStopped)
            times.append(time.monotonic() - asked_at)
            self.assertEqual(self.media_processes(), [])
        self.assertLess(min(times), 1.0)
        self.assertLess(max(times), 10.0 + BUSY)
        self.assertEqual(self.runner_.spare_cores, 2)
        self.runner_.release(self.workspace)
        turn_until(lambda: not self.cluster.left_on_disk())

    def test_commands_wait_for_free_cores(self) -> None:
        """Five commands on two cores: two at a time, and all of them on workers."""
        most = 0
        running = []
        for number in range(5):
            running.append(
                self.runner_.start(
                    encode(f"out-{number}.mp4", cpus=1.0), self.workspace, 1, lambda _: None
                )
            )
        done: list[Any] = []
        for each in running:
            each.result.addCallback(done.append)

        def look() -> bool:
            nonlocal most
            most = max(most, len(self.runner_.running))
            return len(done) == 5

        turn_until(look)
        self.assertEqual(most, 2)
        self.assertEqual(sum(worker.done for worker in self.runner_.workers), 5)
        self.assertEqual(self.runner_.local.running, set())


class NoWorkerTests(ClusterCase):
    def test_without_a_worker_commands_run_here(self) -> None:
        """As soon as the lost ones are no longer expected back."""
        self.cluster.start_scheduler()
        (worker,) = self.start_workers(1)
        runner = self.runner()
        self.wait_for_workers(runner, 1)
        self.assertEqual(worker.stop(), 0)
        turn_until(lambda: not runner.up)
        runner.forget_workers()
        workspace = Workspace(key_of_path(FLOWER), key_of_path(self.folder))
        running = runner.start(encode(), workspace, 1, lambda _: None)
        wait_for(running.result)
        self.assertTrue((self.folder / "out.mp4").stat().st_size)
        self.assertEqual(self.cluster.objects(), [])
