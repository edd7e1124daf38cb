"""Attempts in the queue: progress, simultaneous commands, files."""

from __future__ import annotations

from twisted.internet.defer import ensureDeferred

from tests.rig import (
    Rig,
    StubCommand,
    complete_step,
)
from tests.task_case import GIF, SchedulerTestCase
from vidproc.ffmpeg.command import CommandStopped, Progress
from vidproc.operations import segments
from vidproc.tasks.model import State
from vidproc.tasks.settings import Caller
from vidproc.tasks.uploads.submission import Submission


class ProgressTests(SchedulerTestCase):
    def encoding(self, rig: Rig) -> StubCommand:
        self.submit(rig)
        complete_step(rig.runner.running[0])
        return rig.runner.running[0]

    def test_progress_comes_from_ffmpeg_and_never_goes_back(self) -> None:
        """Half the duration is half the work; the rest of the time follows from it."""
        rig = self.rig()
        command = self.encoding(rig)
        duration = command.command.duration or 0
        rig.clock.advance(5)
        command.on_progress(Progress(duration / 2, 6, 2.0))
        task_id = next(iter(rig.tasks.queue._entries))
        view = self.view(rig, task_id)
        self.assertEqual((view.stage, view.speed), (command.command.stage, 2.0))
        self.assertAlmostEqual(view.progress, 0.5 * command.command.weight, places=2)
        assert view.eta is not None
        self.assertAlmostEqual(view.eta, 5 * (1 - view.progress) / view.progress, places=2)
        command.on_progress(Progress(0.0, 1, 2.0))
        self.assertEqual(self.view(rig, task_id).progress, view.progress)

    def test_progress_is_1_only_at_the_end(self) -> None:
        """FFmpeg's output must still be verified."""
        rig = self.rig()
        command = self.encoding(rig)
        command.on_progress(Progress(1e9, 6, 2.0))
        task_id = next(iter(rig.tasks.queue._entries))
        self.assertLess(self.view(rig, task_id).progress, 1)
        self.finish_all(rig)
        self.assertEqual(self.view(rig, task_id).progress, 1)


class TogetherTests(SchedulerTestCase):
    """A WebM whose two segments are encoded at the same time."""

    def start(self) -> tuple[Rig, str, list[StubCommand]]:
        self.patch(segments, "LEAST", 0.5)
        rig = self.rig()
        submission = Submission("webm", GIF, "mp4", payload_size=4)
        session = self.run_coroutine(rig.tasks.admit(submission, Caller("192.0.2.1")))
        session.write(b"film")
        accepted = self.successResultOf(session.finish())
        complete_step(rig.runner.running[0])
        running = list(rig.runner.running)
        self.assertEqual(
            [command.command.outputs for command in running],
            [("segment-0.mp4",), ("segment-1.mp4",)],
        )
        return rig, accepted.task_id, running

    def test_the_joining_waits_for_all_and_finds_its_list(self) -> None:
        """Progress and speed are those of both."""
        rig, task_id, (one, other) = self.start()
        one.on_progress(Progress(0.25, 6, 2.0))
        other.on_progress(Progress(0.5, 12, 4.0))
        view = self.view(rig, task_id)
        self.assertAlmostEqual(view.progress, 0.98 * 0.75, places=2)
        self.assertEqual(view.speed, 6.0)
        other.complete()
        self.assertEqual(rig.runner.running, [one])
        one.complete()
        joining = rig.runner.running[0]
        self.assertEqual(joining.command.inputs[0], segments.LIST)
        listed = joining._path_of(segments.LIST).read_text()
        self.assertIn("file segment-0.mp4", listed)
        self.assertIn("file segment-1.mp4", listed)
        self.assertEqual(self.view(rig, task_id).stage, "joining")

    def test_a_cancel_waits_for_both(self) -> None:
        rig, task_id, (one, other) = self.start()
        rig.runner.stops_at_once = False
        done = ensureDeferred(rig.tasks.cancel(task_id, Caller("192.0.2.1")))
        self.assertEqual((one.stops, other.stops), (1, 1))
        one.end(CommandStopped())
        self.assertNoResult(done)
        other.end(CommandStopped())
        self.assertIs(self.successResultOf(done), State.CANCELLED)
        self.assertEqual(self.leftovers(rig), [])

    def test_one_that_fails_stops_the_other_and_the_film_is_made_whole(self) -> None:
        """Perhaps only the cut was impossible."""
        rig, task_id, (one, other) = self.start()
        other.fail()
        self.assertEqual(one.stops, 1)
        (whole,) = rig.runner.running
        self.assertEqual(whole.command.outputs, ("result.webm",))
        whole.fail()
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 415)


class ExamineTests(SchedulerTestCase):
    def test_a_probes_answer_is_read_in_a_thread(self) -> None:
        """It may be as large as the probe's output limit."""
        rig = self.rig()
        self.submit(rig)
        threads = rig.disk.hold()
        probe, *_ = rig.runner.running
        complete_step(probe)
        self.assertEqual(rig.runner.running, [])
        threads.run_all()
        self.assertEqual([each.command.program for each in rig.runner.running], ["ffmpeg"])

    def test_what_commands_wrote_is_read_in_a_thread(self) -> None:
        """Up to 16 MiB are read and parsed, so it must not happen in the reactor."""
        rig = self.rig()
        task_id = self.submit(rig)
        attempt = rig.tasks.queue._entries[task_id].attempt
        assert attempt is not None
        attempt._path("result.mp4").write_bytes(b"four")
        threads = rig.disk.hold()
        looked: list[bytes] = []
        done = ensureDeferred(attempt.examine("result.mp4", looked.append))
        self.assertEqual(looked, [])
        threads.run_all()
        self.successResultOf(done)
        self.assertEqual(looked, [b"four"])
