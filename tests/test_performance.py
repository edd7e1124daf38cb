"""The LoopingCall service with a fake clock and made-up figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.mmp_case import UPLOAD
from tests.rig import Rig, message
from vidproc.app.measuring import Counters, Meter
from vidproc.app.performance import INTERVAL, PerformanceService
from vidproc.frontends.throttle import LEAST_RATE, IngestThrottle
from vidproc.tasks.places import LONG
from vidproc.tasks.settings import Settings
from vidproc.topics import Topic

FILM = {
    "action": "upload",
    "type": "webm",
    "parameters": {"start_time": 0, "duration": 3600},
}


class MadeUp(Meter):
    """Returns the test's figures: shares of a two-core machine, bytes a second."""

    ffmpeg = service = other = stolen = 0.0
    bytes_in = 0.0

    def count(self) -> Counters:
        now = self._reactor.seconds()
        before = getattr(self, "_made_up", None)
        elapsed = 0.0 if before is None else now - before.at
        total = before or Counters(now, 0, 0, 0, 0, 0, 0)
        both = self.ffmpeg + self.service + self.other
        self._made_up = Counters(
            at=now,
            idle_cpu=total.idle_cpu + 2 * elapsed * max(0.0, 1 - both - self.stolen),
            ffmpeg_cpu=total.ffmpeg_cpu + 2 * elapsed * self.ffmpeg,
            service_cpu=total.service_cpu + 2 * elapsed * self.service,
            packets_in=0,
            bytes_in=total.bytes_in + int(elapsed * self.bytes_in),
            bytes_out=0,
        )
        return self._made_up


class PerformanceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = Rig(Path(self.mktemp()), settings=Settings())
        self.addCleanup(self.rig.close)
        self.lines: list[str] = []
        rig = self.rig
        self.machine = MadeUp(rig.clock, rig.runner, rig.gate.traffic, 2)
        self.service = PerformanceService(
            rig.clock, rig.tasks, self.machine, rig.gate, rig.storage, rig.disk, 2
        )

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event.get("topic") is Topic.PERFORMANCE:
                self.lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def figures(self) -> list[str]:
        return [line for line in self.lines if line.startswith("cpu_ffmpeg=")]

    def submit(self, peer: str, request: dict[str, Any] = UPLOAD) -> None:
        self.rig.connect(peer).send(message(request, b"film", "mp4"))

    def test_a_line_of_figures_at_start_and_every_interval(self) -> None:
        """At regular times, however long a round takes."""
        self.assertEqual(len(self.figures()), 1)
        self.rig.clock.pump([1.0] * int(3 * INTERVAL))
        self.assertEqual(len(self.figures()), 4)

    def test_a_round_that_fails_does_not_end_the_rounds(self) -> None:
        """The error is logged, and the next round runs."""
        self.rig.store.close()
        self.rig.clock.pump([1.0] * int(2 * INTERVAL))
        self.assertEqual(len(self.figures()), 3)
        self.assertGreater(len(self.flushLoggedErrors()), 0)
        self.rig.store.open()

    def test_one_more_job_when_tasks_wait_and_the_cpu_is_not_used(self) -> None:
        """The reason is logged. When nothing waits, it goes back to the base."""
        for n in range(3):
            self.submit(f"192.0.2.{n}")
        self.machine.ffmpeg = 0.4
        self.rig.clock.pump([1.0] * int(INTERVAL))
        self.assertEqual((self.rig.tasks.queue.concurrency, self.rig.tasks.queue.running), (3, 3))
        self.assertTrue(any("concurrency 2 -> 3: 1 tasks wait" in line for line in self.lines))
        self.rig.clock.pump([1.0] * int(INTERVAL))
        self.assertEqual(self.rig.tasks.queue.concurrency, 2)

    def test_no_more_jobs_when_ffmpeg_uses_the_cpu(self) -> None:
        """More jobs would only share it."""
        for n in range(3):
            self.submit(f"192.0.2.{n}")
        self.machine.ffmpeg = 0.95
        self.rig.clock.pump([1.0] * int(2 * INTERVAL))
        self.assertEqual(self.rig.tasks.queue.concurrency, 2)

    def test_a_short_task_starts_beside_long_ones(self) -> None:
        """One at a time, even if FFmpeg uses all of the CPU; long tasks wait their turn."""
        for n in range(4):
            self.submit(f"192.0.2.{n}", FILM if n < 3 else UPLOAD)
        self.submit("192.0.2.4")
        first = set(self.rig.runner.running)
        self.machine.ffmpeg = 0.95
        self.rig.clock.pump([1.0] * int(LONG - 1))
        self.assertEqual(self.rig.tasks.queue.running, 2)
        self.rig.clock.pump([1.0] * 30)
        self.assertEqual((self.rig.tasks.queue.running, self.rig.tasks.queue.queued), (3, 2))
        self.assertEqual(sum("starts beside 2 others" in line for line in self.lines), 1)
        # The long ones keep their places, and the next short one follows.
        for command in set(self.rig.runner.running) - first:
            command.fail()
        self.assertEqual((self.rig.tasks.queue.running, self.rig.tasks.queue.queued), (2, 2))
        self.rig.clock.advance(1.0)
        self.assertEqual((self.rig.tasks.queue.running, self.rig.tasks.queue.queued), (3, 1))

    def test_a_short_task_that_is_cancelled_makes_way_for_the_next(self) -> None:
        """Before or after it has started."""
        for n in range(2):
            self.submit(f"192.0.2.{n}", FILM)
        client = self.rig.connect("192.0.2.9")
        for _ in range(2):
            client.send(message(UPLOAD, b"film", "mp4"))
            task_id = client.answer()["task_id"]
            self.rig.clock.pump([1.0] * int(LONG + 1))
            self.assertEqual(self.rig.tasks.queue.running, 3)
            client.send(message({"action": "cancel", "task_id": task_id}))
            self.assertEqual(client.answer()["status"], "cancelled")
            self.assertEqual(self.rig.tasks.queue.running, 2)

    def test_uploads_give_way_to_video_but_not_below_their_floor(self) -> None:
        """While FFmpeg lacks CPU time and uploads are fast."""
        self.submit("192.0.2.1")
        self.machine.ffmpeg, self.machine.service, self.machine.bytes_in = 0.5, 0.5, 500e6
        self.rig.clock.pump([1.0] * 3)
        rate = self.rig.gate.throttle.rate
        assert rate is not None
        self.assertLess(rate, 500e6)
        for _ in range(30):
            self.machine.bytes_in = self.rig.gate.throttle.rate or 500e6
            self.rig.clock.advance(1.0)
        self.assertEqual(self.rig.gate.throttle.rate, LEAST_RATE)
        self.assertTrue(any("uploads limited to" in line for line in self.lines))

    def test_what_the_host_takes_back_is_not_idle(self) -> None:
        """Stolen time of a virtual machine is not available for video."""
        self.submit("192.0.2.1")
        self.machine.ffmpeg, self.machine.service, self.machine.bytes_in = 0.5, 0.35, 500e6
        self.machine.stolen = 0.15
        self.rig.clock.pump([1.0] * 3)
        self.assertIsNotNone(self.rig.gate.throttle.rate)

    def test_uploads_are_free_when_video_has_what_it_needs(self) -> None:
        """FFmpeg has its target, CPU time is idle, or there is no task."""
        self.submit("192.0.2.1")
        self.machine.bytes_in = 500e6
        for ffmpeg, service in ((0.9, 0.1), (0.3, 0.3)):
            self.machine.ffmpeg, self.machine.service = ffmpeg, service
            self.rig.clock.pump([1.0] * 5)
            self.assertIsNone(self.rig.gate.throttle.rate)
        self.machine.ffmpeg, self.machine.service = 0.4, 0.6
        self.rig.clock.pump([1.0] * 5)
        self.assertIsNotNone(self.rig.gate.throttle.rate)
        self.rig.runner.running[0].fail()
        self.rig.clock.advance(1.0)
        self.assertIsNone(self.rig.gate.throttle.rate)

    def test_a_limit_is_lifted_when_uploads_bring_little(self) -> None:
        """It rises each time until it is far above the actual rate."""
        self.submit("192.0.2.1")
        self.machine.ffmpeg, self.machine.service, self.machine.bytes_in = 0.5, 0.5, 500e6
        self.rig.clock.pump([1.0] * 5)
        self.machine.ffmpeg, self.machine.service, self.machine.bytes_in = 0.95, 0.05, 1e6
        self.rig.clock.pump([1.0] * 40)
        self.assertIsNone(self.rig.gate.throttle.rate)

    def test_an_upload_that_is_ahead_of_its_rate_pauses(self) -> None:
        """It resumes when it is no longer ahead."""
        self.rig.gate.throttle.limit(LEAST_RATE)
        client = self.rig.connect("192.0.2.50")
        data = message(UPLOAD, bytes(int(4 * LEAST_RATE)), "mp4")
        client.send(data[: int(LEAST_RATE)])
        client.send(data[int(LEAST_RATE) : int(2 * LEAST_RATE)])
        self.assertEqual(client.transport.producerState, "paused")
        self.rig.clock.advance(2.5)
        self.assertEqual(client.transport.producerState, "producing")

    def test_a_refused_upload_that_is_discarded_pauses_too(self) -> None:
        """Its bytes cost as much to read."""
        self.submit("192.0.2.50", FILM)
        self.rig.gate.throttle.limit(LEAST_RATE)
        client = self.rig.connect("192.0.2.50")
        data = message(UPLOAD, bytes(int(4 * LEAST_RATE)), "mp4")
        client.send(data[:1000])
        self.assertEqual(client.answer()["error"]["code"], 429)
        client.send(data[1000 : int(LEAST_RATE)])
        self.assertEqual(client.transport.producerState, "paused")
        self.rig.clock.advance(1.5)
        self.assertEqual(client.transport.producerState, "producing")
        client.send(data[int(LEAST_RATE) :])
        client.send(message({"action": "info"}))
        self.rig.clock.advance(10)
        self.assertIn("version", client.answer())


class IngestThrottleTests(SynchronousTestCase):
    def test_without_a_limit_nobody_waits(self) -> None:
        """However much arrives."""
        self.assertEqual(IngestThrottle(self.clock()).take(1 << 40), 0.0)

    def test_all_together_get_the_rate(self) -> None:
        """Later ones wait for earlier ones."""
        throttle = IngestThrottle(self.clock())
        throttle.limit(100e6)
        waits = [throttle.take(10_000_000) for _ in range(5)]
        self.assertEqual([round(wait, 2) for wait in waits], [0.08, 0.18, 0.28, 0.38, 0.48])

    def clock(self) -> Any:
        from twisted.internet.task import Clock

        return Clock()
