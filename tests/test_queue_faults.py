"""Whatever goes wrong between a task's claim and its end, its place becomes free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred

from tests.rig import (
    Rig,
    StubCommand,
    StubRunner,
    complete_step,
)
from tests.task_case import GIF, SchedulerTestCase
from vidproc.ffmpeg.command import CommandStopped, FailureKind
from vidproc.files.space import Space
from vidproc.operations import segments
from vidproc.tasks import endings, queue
from vidproc.tasks.endings import SHORTAGE_DELAY
from vidproc.tasks.execution import Attempt
from vidproc.tasks.model import State
from vidproc.tasks.queue import Queue
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.uploads.submission import Submission
from vidproc.tasks.views import TaskView


class FaultTests(SchedulerTestCase):
    """An internal error affects only its own task, never the queue."""

    def assert_the_queue_moves(self, rig: Rig) -> None:
        """The place is free: another task runs and completes."""
        task_id = self.submit(rig, "198.51.100.1")
        self.finish_all(rig)
        self.assertIs(self.state(rig, task_id), State.COMPLETED)
        self.assertEqual(rig.storage.space.reserved, 0)
        self.assertEqual(self.leftovers(rig), [])

    def watch(self, rig: Rig, task_id: str, listener: Any) -> None:
        self.run_coroutine(rig.tasks.watch(task_id, Caller("192.0.2.1"), listener))

    def test_a_listener_that_raises_loses_its_watch_alone(self) -> None:
        """At any change of a waiting or running task; other listeners continue."""
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
        """The last view is sent when everything has been freed."""
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
        """At whatever step, the task fails with a reference and the next one runs."""

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
        """Those that had started are stopped and have ended before the task continues."""
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
        """Meanwhile others run; then it is tried again."""
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
        """From within the notification, at any change."""
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
        """Those who watch it are told that it has ended."""
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
        """Nothing waits for a task that can't be ended."""
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
