"""The queue: running, cancelling and stopping tasks, with a fake clock and fake commands."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred, maybeDeferred

from tests.rig import (
    CLIP,
    Rig,
    complete_step,
    gif_answer,
    probe_answer,
)
from tests.task_case import SchedulerTestCase
from vidproc.errors import ServiceError
from vidproc.ffmpeg.command import CommandStopped, FailureKind
from vidproc.tasks import endings
from vidproc.tasks.closing import STORE_RETRY
from vidproc.tasks.endings import SHORTAGE_DELAY
from vidproc.tasks.model import State
from vidproc.tasks.settings import Caller


class QueueTests(SchedulerTestCase):
    def test_only_so_many_run_at_a_time_oldest_first(self) -> None:
        """The others have positions in the queue."""
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
        """At once."""
        rig = self.rig(max_concurrent=1)
        for n in range(3):
            self.submit(rig, f"192.0.2.{n}")
        rig.tasks.queue.set_concurrency(2)
        self.assertEqual((rig.tasks.queue.running, rig.tasks.queue.queued), (2, 1))

    def test_a_finished_task_leaves_its_result_and_nothing_else(self) -> None:
        """Input, attempt folder and reservation are gone; the slot is free."""
        rig = self.rig()
        task_id = self.submit(rig)
        self.finish_all(rig)
        self.assertEqual(self.leftovers(rig), [])
        self.assertEqual(rig.storage.space.reserved, 0)
        self.assertEqual(os.listdir(rig.storage.root / "results"), [f"{task_id}.gif"])
        self.submit(rig)

    def test_a_task_that_fails_frees_its_slot_and_says_why(self) -> None:
        """With an error from the table."""
        rig = self.rig()
        task_id = self.submit(rig)
        rig.runner.running[0].complete(b'{"error": "damaged", "message": "moov atom not found"}')
        view = self.view(rig, task_id)
        assert view.task.failure is not None
        self.assertEqual((view.task.state, view.task.failure.code), (State.FAILED, 415))
        self.assertEqual(self.leftovers(rig), [])
        self.submit(rig)

    def test_a_command_that_fails_fails_its_task(self) -> None:
        """The kind of the failure decides the error."""
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
        """Then the task fails, with a reference to the log."""
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

    def test_a_kill_from_outside_does_not_fail_the_task(self) -> None:
        """It is tried again after longer and longer pauses, and fails only after many kills."""
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
        self.assertIn("killed FFmpeg", failure.description)
        self.assertEqual(rig.runner.running, [])

    def test_a_kill_for_memory_is_tried_three_times(self) -> None:
        """The kernel may kill another process than the one that used the memory."""
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
        """It is tried again after a pause, and does not count as a failure."""
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
        """Files need descriptors as well."""
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
        """According to the wall clock, even if it makes progress."""
        rig = self.rig(job_timeout=100.0)
        task_id = self.submit(rig)
        rig.clock.advance(100.0)
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 413)

    def test_a_result_that_is_not_right_fails_the_task(self) -> None:
        """Whatever FFmpeg's exit status: here the frames have 960x540, or the length is two
        seconds."""
        for answer in (probe_answer(CLIP), gif_answer(2)):
            rig = self.rig()
            task_id = self.submit(rig)
            complete_step(rig.runner.running[0])
            complete_step(rig.runner.running[0])
            rig.runner.running[0].complete(answer)
            self.assertIs(self.state(rig, task_id), State.FAILED)
            self.assertEqual(os.listdir(rig.storage.root / "results"), [])

    def test_an_empty_result_fails_the_task(self) -> None:
        """FFmpeg's exit status is 0 even for a clip past the end."""
        rig = self.rig()
        task_id = self.submit(rig)
        complete_step(rig.runner.running[0])
        rig.runner.running[0].complete(content=b"")
        self.assertIs(self.state(rig, task_id), State.FAILED)


class PauseTests(SchedulerTestCase):
    def test_a_pause_that_ends_while_the_store_is_asked_is_over(self) -> None:
        """The task starts then, without waiting for another event."""
        rig = self.rig()
        self.submit(rig)
        store = rig.store_thread.hold()
        rig.runner.running[0].fail(FailureKind.KILLED)
        back_into_the_queue, move = store.waiting.pop(0)
        maybeDeferred(move).chainDeferred(back_into_the_queue)
        self.assertEqual(len(store.waiting), 1)  # the queue asks for a task during the pause
        rig.clock.advance(endings.KILL_DELAY + 0.1)
        store.run_all()
        rig.clock.advance(0.0)
        store.run_all()
        self.assertEqual(len(rig.runner.running), 1)


class CancelTests(SchedulerTestCase):
    def cancel(self, rig: Rig, task_id: str) -> Any:
        from twisted.internet.defer import ensureDeferred

        return ensureDeferred(rig.tasks.cancel(task_id, Caller("192.0.2.1")))

    def test_a_running_task_is_cancelled_when_its_process_has_ended(self) -> None:
        """Only then are its files gone and its slot free."""
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
        """The one before it continues."""
        rig = self.rig(max_concurrent=1)
        self.submit(rig, "192.0.2.7")
        task_id = self.submit(rig)
        self.assertIs(self.successResultOf(self.cancel(rig, task_id)), State.CANCELLED)
        self.assertEqual((rig.tasks.queue.running, rig.tasks.queue.queued), (1, 0))

    def test_a_cancel_that_a_full_disk_hinders_is_507_and_can_be_tried_again(self) -> None:
        """The task is still queued then."""
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

    def test_the_end_of_a_task_on_a_full_disk_is_stored_when_its_attempt_is_removed(self) -> None:
        """What the attempt has written may be all that the store lacks."""
        rig = self.rig()
        task_id = self.submit(rig)
        while rig.runner.running[0].command.program == "probe":
            complete_step(rig.runner.running[0])
        move, work = rig.store.move, rig.storage.root / "work"

        def full(*arguments: Any, **keywords: Any) -> Any:
            if os.listdir(work):
                raise sqlite3.OperationalError("database or disk is full")
            return move(*arguments, **keywords)

        rig.store.move = full  # type: ignore[method-assign]
        rig.runner.running[0].fail()
        self.assertIs(self.state(rig, task_id), State.PROCESSING)
        rig.clock.advance(STORE_RETRY)
        self.assertIs(self.state(rig, task_id), State.FAILED)
        self.assertEqual(len(self.flushLoggedErrors(sqlite3.OperationalError)), 1)

    def test_a_completed_task_keeps_its_state_and_loses_its_files(self) -> None:
        """From then on its download gets 410."""
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
        """If the encode ends while it is being stopped."""
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
        """An interruption is not a failure, and each attempt has its own folder."""
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
