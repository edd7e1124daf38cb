"""Queue, attempts, cancels and pruning, with a clock and commands that the test ends."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from tests.rig import (
    CLIP,
    Rig,
    StubCommand,
    StubRunner,
    complete_step,
    gif_answer,
    probe_answer,
)
from vidproc.errors import ServiceError
from vidproc.ffmpeg.command import CommandStopped, FailureKind, Progress
from vidproc.files.space import Space
from vidproc.operations import segments
from vidproc.tasks import endings, queue
from vidproc.tasks.endings import SHORTAGE_DELAY
from vidproc.tasks.execution import Attempt
from vidproc.tasks.model import State
from vidproc.tasks.queue import Queue
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.uploads.session import AcceptedTask, UploadSession
from vidproc.tasks.uploads.submission import Submission
from vidproc.tasks.views import TaskView

GIF = {"start_time": 0, "duration": 1}


class SchedulerTestCase(SynchronousTestCase):
    def rig(self, **settings: Any) -> Rig:
        rig = Rig(Path(self.mktemp()), settings=Settings(**settings))
        self.addCleanup(rig.close)
        return rig

    def submit(self, rig: Rig, peer: str = "192.0.2.1", payload: bytes = b"film") -> str:
        submission = Submission("extract_audio", {}, "mp4", payload_size=len(payload))
        if payload == b"film":
            submission = Submission("gif", GIF, "mp4", payload_size=4)
        session = self.run_coroutine(rig.tasks.admit(submission, Caller(peer)))
        assert isinstance(session, UploadSession)
        session.write(payload)
        accepted = self.successResultOf(session.finish())
        assert isinstance(accepted, AcceptedTask)
        return accepted.task_id

    def run_coroutine(self, coroutine: Any) -> Any:
        return self.successResultOf(coroutine)

    def view(self, rig: Rig, task_id: str) -> TaskView:
        view: TaskView = self.run_coroutine(rig.tasks.status(task_id, Caller("192.0.2.1")))
        return view

    def state(self, rig: Rig, task_id: str) -> State:
        return self.view(rig, task_id).task.state

    def finish_all(self, rig: Rig) -> None:
        while rig.runner.running:
            complete_step(rig.runner.running[0])

    def leftovers(self, rig: Rig) -> list[str]:
        """Files of tasks other than results."""
        root = rig.storage.root
        return [
            str(path.relative_to(root))
            for folder in ("inputs", "uploads", "work")
            for path in (root / folder).rglob("*")
            if path.is_file()
        ]


class QueueTests(SchedulerTestCase):
    def test_only_so_many_run_at_a_time_oldest_first(self) -> None:
        """The others know their place in the queue."""
        rig = self.rig(max_concurrent=1)
        tasks = [self.submit(rig, f"192.0.2.{n}") for n in range(3)]
        self.assertEqual(
            [self.state(rig, task) for task in tasks],
            [State.PROCESSING, State.QUEUED, State.QUEUED],
        )
        self.assertEqual([self.view(rig, t).queue_position for t in tasks], [None, 1, 2])
        self.finish_all(rig)
        self.assertEqual([self.state(rig, task) for task in tasks], [State.COMPLETED] * 3)

    def test_more_concurrency_starts_what_waits(self) -> None:
        """At once, without another event."""
        rig = self.rig(max_concurrent=1)
        for n in range(3):
            self.submit(rig, f"192.0.2.{n}")
        rig.tasks.queue.set_concurrency(2)
        self.assertEqual((rig.tasks.queue.running, rig.tasks.queue.queued), (2, 1))

    def test_a_finished_task_leaves_its_result_and_nothing_else(self) -> None:
        """Input, attempt folder and promised room are gone; the slot is free."""
        rig = self.rig()
        task_id = self.submit(rig)
        self.finish_all(rig)
        self.assertEqual(self.leftovers(rig), [])
        self.assertEqual(rig.storage.space.reserved, 0)
        self.assertEqual(os.listdir(rig.storage.root / "results"), [f"{task_id}.gif"])
        self.submit(rig)

    def test_a_task_that_fails_frees_its_slot_and_says_why(self) -> None:
        """In the words of the error table."""
        rig = self.rig()
        task_id = self.submit(rig)
        rig.runner.running[0].complete(b'{"error": "damaged", "message": "moov atom not found"}')
        view = self.view(rig, task_id)
        assert view.task.failure is not None
        self.assertEqual((view.task.state, view.task.failure.code), (State.FAILED, 415))
        self.assertEqual(self.leftovers(rig), [])
        self.submit(rig)

    def test_a_command_that_fails_fails_its_task(self) -> None:
        """What it failed of says how."""
        for kind, code in (
            (FailureKind.INPUT, 415),
            (FailureKind.CRASHED, 415),
            (FailureKind.RATE, 415),
            (FailureKind.SPACE, 507),
            (FailureKind.MEMORY, 413),
            (FailureKind.STALLED, 413),
            (FailureKind.TIMED_OUT, 413),
        ):
            rig = self.rig()
            task_id = self.submit(rig)
            complete_step(rig.runner.running[0])
            rig.runner.running[0].fail(kind)
            failure = self.view(rig, task_id).task.failure
            assert failure is not None
            self.assertEqual(failure.code, code)

    def test_a_fault_of_ours_is_tried_three_times(self) -> None:
        """Then the task fails with a reference to the log."""
        rig = self.rig()
        task_id = self.submit(rig)
        for number in range(3):
            rig.runner.running[0].end(RuntimeError("a bug"))
            rig.clock.advance(number + 1.0)
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)
        self.assertEqual(rig.runner.running, [])

    def test_a_kill_from_outside_is_no_failure(self) -> None:
        """It is tried again after longer and longer pauses, and fails only after many."""
        rig = self.rig()
        task_id = self.submit(rig)
        for number in range(endings.MAX_KILLS - 1):
            rig.runner.running[0].fail(FailureKind.KILLED)
            delay = min(endings.LONGEST_KILL_DELAY, endings.KILL_DELAY * 2**number)
            rig.clock.advance(delay - 0.1)
            self.assertEqual(rig.runner.running, [])
            rig.clock.advance(0.1)
        self.assertEqual(self.view(rig, task_id).task.failures, 0)
        self.finish_all(rig)
        self.assertIs(self.state(rig, task_id), State.COMPLETED)

    def test_what_is_killed_for_ever_fails_in_the_end(self) -> None:
        rig = self.rig()
        task_id = self.submit(rig)
        for _ in range(endings.MAX_KILLS):
            complete_step(rig.runner.running[0])
            rig.runner.running[0].fail(FailureKind.KILLED)
            rig.clock.advance(endings.LONGEST_KILL_DELAY)
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 500)
        self.assertIn("killed from outside", failure.description)
        self.assertEqual(rig.runner.running, [])

    def test_a_kill_for_memory_is_tried_three_times(self) -> None:
        """The kernel may choose another one than that which took the memory."""
        rig = self.rig()
        task_id = self.submit(rig)
        for number in range(endings.MAX_FAILURES):
            self.assertIs(self.state(rig, task_id), State.PROCESSING)
            rig.runner.running[0].fail(FailureKind.OOM_KILLED)
            rig.clock.advance(number + 1.0)
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 413)

    def test_a_shortage_of_processes_fails_no_task(self) -> None:
        """It is tried again and again, with a pause, and counts as no failure."""
        rig = self.rig()
        task_id = self.submit(rig)
        for _ in range(5):
            rig.runner.running[0].fail(FailureKind.REFUSED)
            self.assertEqual(rig.runner.running, [])
            rig.clock.advance(SHORTAGE_DELAY)
        task = self.view(rig, task_id).task
        self.assertEqual((task.state, task.failures), (State.PROCESSING, 0))
        self.finish_all(rig)
        self.assertIs(self.state(rig, task_id), State.COMPLETED)

    def test_a_shortage_of_descriptors_anywhere_fails_no_task(self) -> None:
        """Files need them as processes do."""
        rig = self.rig()

        def no_more(key: str) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        make_folder, rig.storage.make_folder = rig.storage.make_folder, no_more  # type: ignore
        task_id = self.submit(rig)
        rig.clock.advance(SHORTAGE_DELAY)
        rig.storage.make_folder = make_folder  # type: ignore[method-assign]
        rig.clock.advance(SHORTAGE_DELAY)
        self.finish_all(rig)
        task = self.view(rig, task_id).task
        self.assertEqual((task.state, task.failures), (State.COMPLETED, 0))

    def test_a_stop_or_a_cancel_does_not_wait_for_the_next_try(self) -> None:
        for end in ("stop", "cancel"):
            rig = self.rig()
            task_id = self.submit(rig)
            rig.runner.running[0].fail(FailureKind.REFUSED)
            if end == "stop":
                self.run_coroutine(rig.tasks.stop())
                task = rig.store.get(task_id)
                assert task is not None
                self.assertEqual((task.state, task.failures), (State.QUEUED, 0))
            else:
                cancelled = ensureDeferred(rig.tasks.cancel(task_id, Caller("192.0.2.1")))
                self.assertIs(self.successResultOf(cancelled), State.CANCELLED)
            self.assertEqual(rig.clock.getDelayedCalls(), [])

    def test_a_task_that_takes_too_long_is_stopped(self) -> None:
        """By its wall clock, whatever it does."""
        rig = self.rig(job_timeout=100.0)
        task_id = self.submit(rig)
        rig.clock.advance(100.0)
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 413)

    def test_a_result_that_is_not_right_fails_the_task(self) -> None:
        """Whatever FFmpeg's exit status said: here it wrote frames of 960x540, or two seconds."""
        for answer in (probe_answer(CLIP), gif_answer(2)):
            rig = self.rig()
            task_id = self.submit(rig)
            complete_step(rig.runner.running[0])
            complete_step(rig.runner.running[0])
            rig.runner.running[0].complete(answer)
            self.assertIs(self.state(rig, task_id), State.FAILED)
            self.assertEqual(os.listdir(rig.storage.root / "results"), [])

    def test_an_empty_result_fails_the_task(self) -> None:
        """FFmpeg's exit status is 0 for a segment past the end."""
        rig = self.rig()
        task_id = self.submit(rig)
        complete_step(rig.runner.running[0])
        rig.runner.running[0].complete(content=b"")
        self.assertIs(self.state(rig, task_id), State.FAILED)


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
        self.assertAlmostEqual(view.progress, 0.5 * command.command.share, places=2)
        assert view.eta is not None
        self.assertAlmostEqual(view.eta, 5 * (1 - view.progress) / view.progress, places=2)
        command.on_progress(Progress(0.0, 1, 2.0))
        self.assertEqual(self.view(rig, task_id).progress, view.progress)

    def test_progress_is_1_only_at_the_end(self) -> None:
        """What FFmpeg has written still has to be verified."""
        rig = self.rig()
        command = self.encoding(rig)
        command.on_progress(Progress(1e9, 6, 2.0))
        task_id = next(iter(rig.tasks.queue._entries))
        self.assertLess(self.view(rig, task_id).progress, 1)
        self.finish_all(rig)
        self.assertEqual(self.view(rig, task_id).progress, 1)


class TogetherTests(SchedulerTestCase):
    """A webm whose two segments are encoded at once."""

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
        """It may be that only the cut was not possible."""
        rig, task_id, (one, other) = self.start()
        other.fail()
        self.assertEqual(one.stops, 1)
        (whole,) = rig.runner.running
        self.assertEqual(whole.command.outputs, ("result.webm",))
        whole.fail()
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 415)


class FaultTests(SchedulerTestCase):
    """A fault of ours, wherever it happens, costs its task at most, never the queue."""

    def assert_the_queue_moves(self, rig: Rig) -> None:
        """The place is free: another task is worked on and completes."""
        task_id = self.submit(rig, "198.51.100.1")
        self.finish_all(rig)
        self.assertIs(self.state(rig, task_id), State.COMPLETED)
        self.assertEqual(rig.storage.space.reserved, 0)
        self.assertEqual(self.leftovers(rig), [])

    def watch(self, rig: Rig, task_id: str, listener: Any) -> None:
        self.run_coroutine(rig.tasks.watch(task_id, Caller("192.0.2.1"), listener))

    def test_a_listener_that_raises_loses_its_watch_alone(self) -> None:
        """At every change, of a waiting task and of one that runs; others go on listening."""
        for running in (True, False):
            rig = self.rig(max_concurrent=1)
            if not running:
                self.submit(rig, "192.0.2.7")
            task_id = self.submit(rig)
            calls: list[TaskView] = []
            seen: list[TaskView] = []

            def listener(view: TaskView, calls: list[TaskView] = calls) -> None:
                calls.append(view)
                raise RecursionError("the answer is too deep")

            self.watch(rig, task_id, listener)
            self.watch(rig, task_id, seen.append)
            self.finish_all(rig)
            self.assertIs(self.state(rig, task_id), State.COMPLETED)
            self.assertEqual(len(calls), 1)
            self.assertEqual([view.terminal for view in seen].count(True), 1)
            self.assertTrue(seen[-1].terminal)
            self.assertEqual(len(rig.tasks.queue.watches), 0)
            self.assertEqual(len(self.flushLoggedErrors(RecursionError)), 1)
            self.assert_the_queue_moves(rig)

    def test_a_listener_that_raises_at_the_end_does_not_hold_the_slot(self) -> None:
        """The terminal view is told when all is given back."""
        rig = self.rig()
        task_id = self.submit(rig)

        def listener(view: TaskView) -> None:
            if view.terminal:
                raise ValueError("no")

        self.watch(rig, task_id, listener)
        self.finish_all(rig)
        self.flushLoggedErrors(ValueError)
        self.assert_the_queue_moves(rig)

    def test_a_fault_between_claim_and_end_frees_the_place(self) -> None:
        """Whichever step has it, the task fails with a reference and the next one runs."""

        def fault(*arguments: Any) -> Any:
            raise RuntimeError("a bug")

        steps: list[tuple[Any, str]] = [
            (Queue, "_new_attempt"),
            (Queue, "_announce"),
            (queue, "ending_of"),
            (Attempt, "perform"),
            (endings, "_completed"),
            (Space, "stored"),
            (StubRunner, "start"),
        ]
        for place, step in steps:
            rig = self.rig(max_concurrent=1)
            seen: list[TaskView] = []
            task_id = self.submit(rig)
            self.watch(rig, task_id, seen.append)
            self.submit(rig, "192.0.2.7")
            patch = self.patch(place, step, fault)
            for delay in range(1, 8):
                self.finish_all(rig)
                rig.clock.advance(delay)
            patch.restore()
            failed = [row.failure for row in rig.store.in_states([State.FAILED])]
            self.assertTrue(failed, step)
            for failure in failed:
                assert failure is not None
                self.assertEqual(failure.code, 500)
            self.assertEqual([view.terminal for view in seen].count(True), 1, step)
            self.assertTrue(self.flushLoggedErrors(RuntimeError))
            self.assert_the_queue_moves(rig)

    def test_a_runner_that_fails_within_several_commands_leaves_none_of_them(self) -> None:
        """Those that had started are stopped, and have ended, before the task goes on."""
        self.patch(segments, "LEAST", 0.5)
        rig = self.rig()
        rig.runner.stops_at_once = False
        submission = Submission("webm", GIF, "mp4", payload_size=4)
        session = self.run_coroutine(rig.tasks.admit(submission, Caller("192.0.2.1")))
        session.write(b"film")
        task_id = self.successResultOf(session.finish()).task_id
        start = rig.runner.start
        started: list[StubCommand] = []

        def once(*arguments: Any) -> Any:
            if started:
                raise RuntimeError("a bug")
            started.append(start(*arguments))
            return started[0]

        self.patch(rig.runner, "start", once)
        complete_step(rig.runner.running[0])
        self.assertEqual(started[0].stops, 1)
        self.assertIs(self.state(rig, task_id), State.PROCESSING)
        started[0].end(CommandStopped())
        self.assertIs(self.state(rig, task_id), State.QUEUED)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_task_that_waits_for_its_next_try_says_why_and_holds_no_place(self) -> None:
        """Others run meanwhile; then it is tried again."""
        rig = self.rig(max_concurrent=1)
        task_id = self.submit(rig)
        rig.runner.running[0].fail(FailureKind.REFUSED)
        view = self.view(rig, task_id)
        self.assertEqual((view.task.state, view.queue_position), (State.QUEUED, 1))
        self.assertIn("short of processes", view.wait_reason or "")
        other = self.submit(rig, "192.0.2.7")
        self.finish_all(rig)
        self.assertIs(self.state(rig, other), State.COMPLETED)
        rig.clock.advance(SHORTAGE_DELAY)
        view = self.view(rig, task_id)
        self.assertEqual((view.task.state, view.wait_reason), (State.PROCESSING, None))
        self.finish_all(rig)
        self.assertIs(self.state(rig, task_id), State.COMPLETED)

    def test_a_listener_may_cancel_the_task_that_it_hears_of(self) -> None:
        """From within the change itself, at whichever change."""
        for number in range(4):
            rig = self.rig(max_concurrent=1)
            self.submit(rig, "192.0.2.7")
            task_id = self.submit(rig)
            seen: list[TaskView] = []
            cancels: list[Any] = []

            def listener(
                view: TaskView,
                rig: Rig = rig,
                number: int = number,
                seen: list[TaskView] = seen,
                cancels: list[Any] = cancels,
            ) -> None:
                seen.append(view)
                if len(seen) == number + 1:
                    caller = Caller("192.0.2.1")
                    cancels.append(ensureDeferred(rig.tasks.cancel(view.task.task_id, caller)))

            self.watch(rig, task_id, listener)
            self.finish_all(rig)
            self.assertIs(self.successResultOf(cancels[0]), State.CANCELLED)
            self.assertEqual([view.terminal for view in seen].count(True), 1)
            self.assert_the_queue_moves(rig)

    def test_a_cancel_ends_a_task_whose_row_has_gone(self) -> None:
        """And whoever watches it learns that it has ended."""
        rig = self.rig(max_concurrent=1)
        self.submit(rig, "192.0.2.7")
        task_id = self.submit(rig)
        seen: list[TaskView] = []
        self.watch(rig, task_id, seen.append)
        rig.store.database.connection.execute("DELETE FROM tasks WHERE task_id = ?", (task_id,))
        self.failureResultOf(ensureDeferred(rig.tasks.cancel(task_id, Caller("192.0.2.1"))))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertTrue(seen[-1].terminal)
        self.finish_all(rig)
        self.assert_the_queue_moves(rig)

    def test_a_task_whose_row_has_gone_leaves_the_queue(self) -> None:
        """Nothing waits for a task that nobody can end."""
        rig = self.rig(max_concurrent=1)
        task_id = self.submit(rig)
        rig.store.database.connection.execute("DELETE FROM tasks WHERE task_id = ?", (task_id,))
        self.finish_all(rig)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((rig.tasks.queue.running, rig.tasks.queue.queued), (0, 0))

    def test_a_task_that_this_version_does_not_know_fails_at_the_start(self) -> None:
        """An operation of another version must not keep the server from starting."""
        root = Path(self.mktemp())
        rig = Rig(root, settings=Settings(max_concurrent=1))
        self.submit(rig, "192.0.2.9")
        task_id = self.submit(rig)
        rig.store.database.connection.execute(
            "UPDATE tasks SET type = 'reverse' WHERE task_id = ?", (task_id,)
        )
        self.run_coroutine(rig.tasks.stop())
        rig.close()
        again = Rig(root, settings=Settings(max_concurrent=1))
        self.addCleanup(again.close)
        again.tasks.start(again.store.in_states([State.QUEUED]))
        self.assertIs(self.state(again, task_id), State.FAILED)
        self.finish_all(again)
        self.assert_the_queue_moves(again)


class SpaceTests(SchedulerTestCase):
    """What a task writes is bounded by what is reserved for it."""

    def begin(self, rig: Rig, peer: str = "192.0.2.1") -> str:
        """Begin a gif task, probed."""
        task_id = self.submit(rig, peer)
        complete_step(rig.runner.running[-1])
        return task_id

    def test_the_output_is_reserved_again_when_the_source_is_known(self) -> None:
        """Nothing of a film is known from its request alone."""
        rig = self.rig()
        task_id = self.submit(rig)
        guess = rig.storage.space.reserved_for(task_id)
        complete_step(rig.runner.running[0])
        self.assertGreater(rig.storage.space.reserved_for(task_id), guess)

    def test_a_task_whose_output_does_not_fit_now_waits_and_says_so(self) -> None:
        """It goes on when there is space, and has failed at nothing."""
        rig = self.rig()
        task_id = self.submit(rig)
        rig.storage.space.limit = rig.storage.space.measure() + (4 << 20)
        self.patch(rig.storage.space, "capacity", lambda: 1 << 40)
        complete_step(rig.runner.running[0])
        view = self.view(rig, task_id)
        self.assertEqual((view.task.state, view.stage), (State.QUEUED, "waiting for storage"))
        self.assertIn("of storage", view.wait_reason or "")
        self.assertEqual((view.task.failures, rig.storage.space.reserved), (0, 0))
        self.run_coroutine(rig.tasks.queue.look_for_space())
        self.assertEqual(rig.runner.running, [])
        rig.storage.space.limit = 1 << 40
        self.run_coroutine(rig.tasks.queue.look_for_space())
        self.finish_all(rig)
        self.assertIs(self.state(rig, task_id), State.COMPLETED)

    def test_a_task_that_waits_for_space_does_not_hold_up_the_others(self) -> None:
        """Those that fit go on."""
        rig = self.rig(max_concurrent=1)
        waiting = self.submit(rig)
        rig.storage.space.limit = rig.storage.space.measure() + (4 << 20)
        self.patch(rig.storage.space, "capacity", lambda: 1 << 40)
        complete_step(rig.runner.running[0])
        rig.storage.space.limit = 1 << 40
        other = self.submit(rig, "192.0.2.2")
        self.assertIs(self.state(rig, other), State.PROCESSING)
        self.assertIs(self.state(rig, waiting), State.QUEUED)

    def test_many_that_wait_for_space_ask_the_store_no_more_than_one(self) -> None:
        """The sum over all results takes a while when there are very many."""
        asked: list[int] = []
        for count in (1, 5):
            rig = self.rig(max_concurrent=count)
            for number in range(count):
                self.submit(rig, f"192.0.2.{number}")
            rig.storage.space.limit = rig.storage.space.measure() + (4 << 20)
            self.patch(rig.storage.space, "capacity", lambda: 1 << 40)
            while rig.runner.running:
                complete_step(rig.runner.running[0])
            rows = rig.store.results
            sums: list[object] = []
            self.patch(rows, "evictable_size", lambda sums=sums, **_: sums.append(1) or 0)
            self.run_coroutine(rig.tasks.queue.look_for_space())
            asked.append(len(sums))
        self.assertEqual(asked[0], asked[1])
        self.assertGreater(asked[0], 0)

    def test_what_can_never_fit_is_507(self) -> None:
        """Whatever went to make space."""
        rig = self.rig()
        task_id = self.submit(rig)
        rig.storage.space.limit = rig.storage.space.measure() + (4 << 20)
        complete_step(rig.runner.running[0])
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 507)

    def test_an_attempt_that_outgrows_its_space_is_stopped_and_gets_twice_as_much(self) -> None:
        """However many files it writes."""
        rig = self.rig()
        task_id = self.begin(rig)
        reserved = rig.storage.space.reserved_for(task_id)
        folder = rig.storage.path(f"work/{task_id}/1")
        for name in ("a", "b"):
            with (folder / name).open("wb") as file:
                file.truncate(reserved * 3 // 4)
        self.run_coroutine(rig.tasks.queue.check_growth())
        self.assertEqual(rig.runner.running[0].command.program, "probe")
        complete_step(rig.runner.running[0])
        self.assertEqual(rig.storage.space.reserved_for(task_id), 2 * reserved)
        self.finish_all(rig)
        view = self.view(rig, task_id)
        self.assertEqual((view.task.state, view.task.failures), (State.COMPLETED, 0))

    def test_each_file_is_bounded_by_what_is_left(self) -> None:
        """By the kernel, at every moment; commands that run at once share it."""
        rig = self.rig()
        task_id = self.begin(rig)
        reserved = rig.storage.space.reserved_for(task_id)
        self.assertEqual(rig.runner.running[0].workspace.space, reserved)


class CancelTests(SchedulerTestCase):
    def cancel(self, rig: Rig, task_id: str) -> Any:
        from twisted.internet.defer import ensureDeferred

        return ensureDeferred(rig.tasks.cancel(task_id, Caller("192.0.2.1")))

    def test_a_running_task_is_cancelled_when_its_process_has_ended(self) -> None:
        """Not before; then its files are gone and its slot is free."""
        rig = self.rig()
        rig.runner.stops_at_once = False
        task_id = self.submit(rig)
        complete_step(rig.runner.running[0])
        done = self.cancel(rig, task_id)
        self.assertNoResult(done)
        command = rig.runner.running[0]
        self.assertEqual(command.stops, 1)
        command.end(CommandStopped())
        self.assertIs(self.successResultOf(done), State.CANCELLED)
        self.assertEqual(self.leftovers(rig), [])
        self.submit(rig)

    def test_a_queued_task_is_cancelled_without_having_run(self) -> None:
        """The one before it goes on."""
        rig = self.rig(max_concurrent=1)
        self.submit(rig, "192.0.2.7")
        task_id = self.submit(rig)
        self.assertIs(self.successResultOf(self.cancel(rig, task_id)), State.CANCELLED)
        self.assertEqual((rig.tasks.queue.running, rig.tasks.queue.queued), (1, 0))

    def test_a_cancel_that_a_full_disk_hinders_is_507_and_can_be_tried_again(self) -> None:
        """The task is still queued then; nothing is half cancelled."""
        rig = self.rig(max_concurrent=1)
        self.submit(rig, "192.0.2.7")
        task_id = self.submit(rig)
        move = rig.store.move

        def full(*arguments: Any, **keywords: Any) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

        rig.store.move = full  # type: ignore[method-assign]
        refused = self.failureResultOf(self.cancel(rig, task_id), ServiceError)
        self.assertEqual(refused.value.code, 507)
        self.assertIs(self.state(rig, task_id), State.QUEUED)
        rig.store.move = move  # type: ignore[method-assign]
        self.assertIs(self.successResultOf(self.cancel(rig, task_id)), State.CANCELLED)

    def test_a_completed_task_keeps_its_state_and_loses_its_files(self) -> None:
        """Its download is 410 from then on."""
        rig = self.rig()
        task_id = self.submit(rig)
        self.finish_all(rig)
        self.assertIs(self.successResultOf(self.cancel(rig, task_id)), State.COMPLETED)
        self.assertEqual(os.listdir(rig.storage.root / "results"), [])
        from twisted.internet.defer import ensureDeferred

        gone = self.failureResultOf(
            ensureDeferred(rig.tasks.result(task_id, Caller("192.0.2.1"))), ServiceError
        )
        self.assertEqual(gone.value.code, 410)

    def test_a_cancel_that_loses_the_race_still_removes_the_result(self) -> None:
        """The encode ended while it was being stopped."""
        rig = self.rig()
        rig.runner.stops_at_once = False
        task_id = self.submit(rig)
        while rig.runner.running[0].command.stage != "verifying":
            complete_step(rig.runner.running[0])
        done = self.cancel(rig, task_id)
        self.finish_all(rig)
        self.assertIs(self.successResultOf(done), State.CANCELLED)
        self.assertEqual(os.listdir(rig.storage.root / "results"), [])


class StopTests(SchedulerTestCase):
    def test_a_stop_puts_running_tasks_back_and_the_next_start_takes_them_up(self) -> None:
        """An interruption is no failure, and each attempt has a folder of its own."""
        root = Path(self.mktemp())
        rig = Rig(root)
        task_id = self.submit(rig)
        folder = rig.runner.running[0]
        self.run_coroutine(rig.tasks.stop())
        task = rig.store.get(task_id)
        assert task is not None
        self.assertEqual((task.state, task.failures, task.attempt), (State.QUEUED, 0, 1))
        self.assertEqual(rig.runner.running, [])
        rig.close()

        again = Rig(root)
        self.addCleanup(again.close)
        again.tasks.start(again.store.in_states([State.QUEUED]))
        self.assertGreater(again.storage.space.reserved, 0)
        self.finish_all(again)
        self.assertIs(self.state(again, task_id), State.COMPLETED)
        finished = again.store.get(task_id)
        assert finished is not None and folder is not None
        self.assertEqual(finished.attempt, 2)


class PruneTests(SchedulerTestCase):
    def finished(self, rig: Rig, peer: str = "192.0.2.1") -> str:
        task_id = self.submit(rig, peer)
        self.finish_all(rig)
        return task_id

    def prune(self, rig: Rig) -> list[str]:
        pruned: list[str] = self.run_coroutine(rig.tasks.results.prune())
        return pruned

    def test_a_result_is_kept_for_its_retention(self) -> None:
        """Then it expires: file gone, row kept."""
        rig = self.rig(retention=100.0)
        task_id = self.finished(rig)
        rig.clock.advance(99)
        self.assertEqual(self.prune(rig), [])
        rig.clock.advance(1)
        self.assertEqual(self.prune(rig), [task_id])
        self.assertIs(self.state(rig, task_id), State.EXPIRED)
        self.assertEqual(os.listdir(rig.storage.root / "results"), [])

    def test_a_full_disk_does_not_keep_results_from_going(self) -> None:
        """When the row can't be written the file goes first; the row follows."""
        rig = self.rig(retention=100.0)
        task_id = self.finished(rig)
        rig.clock.advance(100)
        expire = rig.store.results.expire

        def full(*arguments: Any, **keywords: Any) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

        rig.store.results.expire = full  # type: ignore[method-assign]
        used = rig.storage.space.used
        self.prune(rig)
        self.prune(rig)
        self.assertEqual(os.listdir(rig.storage.root / "results"), [])
        self.assertEqual(rig.storage.space.used, used - len(b"GIF of the film"))
        rig.store.results.expire = expire  # type: ignore[method-assign]
        self.prune(rig)
        self.assertIs(self.state(rig, task_id), State.EXPIRED)

    def result_of(self, rig: Rig, task_id: str, size: int) -> Path:
        """Let a finished task's result have `size` bytes."""
        task = rig.store.get(task_id)
        assert task is not None and task.output_key is not None
        rig.storage.path(task.output_key).write_bytes(bytes(size))
        rig.store.update(task_id, output_size=size)
        return rig.storage.path(task.output_key)

    def crowd(self, rig: Rig, free: int = 0) -> None:
        """Leave `free` bytes."""
        rig.storage.space.limit = rig.storage.space.measure() + free

    def begin(self, rig: Rig, size: int, peer: str = "192.0.2.9") -> UploadSession:
        submission = Submission("extract_audio", {}, "mp4", payload_size=size)
        session = self.run_coroutine(rig.tasks.admit(submission, Caller(peer)))
        assert isinstance(session, UploadSession)
        return session

    def refuse(self, rig: Rig, size: int) -> None:
        submission = Submission("extract_audio", {}, "mp4", payload_size=size)
        admitting = ensureDeferred(rig.tasks.admit(submission, Caller("192.0.2.9")))
        refused = self.failureResultOf(admitting, ServiceError)
        self.assertEqual(refused.value.code, 507)

    def test_a_claim_takes_no_result_that_nobody_has_fetched(self) -> None:
        """Its bytes do, as they come, the oldest first; the tasks of those expire."""
        rig = self.rig(min_retention=0.0)
        old = self.finished(rig, "192.0.2.1")
        self.result_of(rig, old, 20 << 20)
        rig.clock.advance(10)
        newer = self.finished(rig, "192.0.2.2")
        self.result_of(rig, newer, 40 << 20)
        self.crowd(rig)
        session = self.begin(rig, 4 << 20)
        self.assertIs(self.state(rig, old), State.COMPLETED)
        self.run_coroutine(session.abort())
        self.assertIs(self.state(rig, old), State.COMPLETED)

        session = self.begin(rig, 4 << 20)
        session.write(bytes(1 << 20))
        self.assertIs(self.state(rig, old), State.EXPIRED)
        self.assertIs(self.state(rig, newer), State.COMPLETED)
        session.write(bytes(3 << 20))
        self.assertIsInstance(self.successResultOf(session.finish()), AcceptedTask)

    def test_a_small_upload_that_is_whole_at_once_makes_its_space_first(self) -> None:
        """The limit holds whatever way the bytes come."""
        rig = self.rig(min_retention=0.0)
        old = self.finished(rig)
        self.result_of(rig, old, 16 << 20)
        self.crowd(rig)
        self.submit(rig, "192.0.2.9", payload=bytes(1000))
        self.assertIs(self.state(rig, old), State.EXPIRED)
        self.assertLessEqual(rig.storage.space.measure(), rig.storage.space.limit)

    def test_a_young_result_that_nobody_has_fetched_goes_for_nobody(self) -> None:
        """The upload gets 507 before a byte; an hour later it may come."""
        rig = self.rig(min_retention=3600.0)
        young = self.finished(rig)
        self.result_of(rig, young, 20 << 20)
        self.crowd(rig)
        rig.clock.advance(3599)
        self.refuse(rig, 1 << 20)
        self.assertIs(self.state(rig, young), State.COMPLETED)
        rig.clock.advance(1)
        self.begin(rig, 1 << 20).write(b"film")
        self.assertIs(self.state(rig, young), State.EXPIRED)

    def test_a_shorter_retention_wins_over_the_minimum(self) -> None:
        """What is past its retention is past it."""
        rig = self.rig(min_retention=3600.0, retention=10.0)
        old = self.finished(rig)
        self.result_of(rig, old, 20 << 20)
        self.crowd(rig)
        rig.clock.advance(10)
        self.begin(rig, 1 << 20)
        self.assertIs(self.state(rig, old), State.EXPIRED)

    def test_a_claim_takes_orphans_and_then_what_was_fetched(self) -> None:
        """Those are missed by nobody."""
        rig = self.rig()
        old = self.finished(rig, "192.0.2.1")
        self.result_of(rig, old, 20 << 20)
        rig.tasks.note_downloaded(old)
        young = self.finished(rig, "192.0.2.2")
        self.result_of(rig, young, 20 << 20)
        orphan = rig.storage.path("orphans/inputs-x")
        orphan.write_bytes(bytes(8 << 20))
        self.crowd(rig)
        self.run_coroutine(self.begin(rig, 1 << 20).abort())
        self.assertFalse(orphan.exists())
        self.assertIs(self.state(rig, old), State.COMPLETED)
        self.run_coroutine(self.begin(rig, 5 << 20).abort())
        self.assertIs(self.state(rig, old), State.EXPIRED)
        self.assertIs(self.state(rig, young), State.COMPLETED)

    def test_an_upload_whose_space_was_taken_meanwhile_is_told(self) -> None:
        """507, as soon as it is known."""
        rig = self.rig(min_retention=0.0)
        old = self.finished(rig)
        self.result_of(rig, old, 20 << 20)
        self.crowd(rig)
        session = self.begin(rig, 4 << 20)
        self.run_coroutine(rig.tasks.cancel(old, Caller("192.0.2.1")))
        self.crowd(rig)
        broken: list[ServiceError] = []
        session.on_broken = broken.append
        session.write(b"film")
        self.assertEqual([error.code for error in broken], [507])

    def test_nothing_is_given_up_for_what_does_not_fit_anyway(self) -> None:
        """A request that claims the whole disk and more costs nobody their result."""
        rig = self.rig(max_upload=1 << 60)
        old = self.finished(rig)
        huge = Submission("gif", GIF, "mp4", payload_size=1 << 39)
        rig.storage.space.limit = 1 << 39
        refused = self.failureResultOf(
            ensureDeferred(rig.tasks.admit(huge, Caller("192.0.2.1"))), ServiceError
        )
        self.assertEqual(refused.value.code, 507)
        self.assertIs(self.state(rig, old), State.COMPLETED)
        self.submit(rig)

    def test_an_address_gets_at_most_half_of_the_free_room(self) -> None:
        """So that a few requests can't hold everything."""
        rig = self.rig()
        rig.storage.space.limit = rig.storage.space.used + 1000
        rig.storage.space.reserve("a", 500, "192.0.2.1")
        self.assertRaises(ServiceError, rig.storage.space.reserve, "b", 1, "192.0.2.1")
        rig.storage.space.reserve("c", 250, "192.0.2.2")
        rig.storage.space.reserve("a", 250, "192.0.2.1")
        self.assertEqual(rig.storage.space.reserved, 500)

    def test_downloaded_results_go_first_when_room_is_short(self) -> None:
        """And no more of them than it takes."""
        rig = self.rig()
        first, second = self.finished(rig, "192.0.2.1"), self.finished(rig, "192.0.2.2")
        rig.tasks.note_downloaded(second)
        space, most = rig.storage.space, rig.storage.space.used - 1
        self.run_coroutine(
            rig.tasks.results.make_space(lambda: space.used - most, lambda: None, unfetched=True)
        )
        self.assertIs(self.state(rig, second), State.EXPIRED)
        self.assertIs(self.state(rig, first), State.COMPLETED)


class ExamineTests(SchedulerTestCase):
    def test_a_probes_answer_is_read_in_a_thread(self) -> None:
        """It may have any size that the probe may write."""
        rig = self.rig()
        self.submit(rig)
        threads = rig.disk.hold()
        probe, *_ = rig.runner.running
        complete_step(probe)
        self.assertEqual(rig.runner.running, [])
        threads.run_all()
        self.assertEqual([each.command.program for each in rig.runner.running], ["ffmpeg"])

    def test_what_commands_wrote_is_read_in_a_thread(self) -> None:
        """Up to 16 MiB are read and looked through: the reactor must not wait for that."""
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
