"""Space for tasks: reservations, waiting for space, and evicting results."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred

from tests.rig import (
    Rig,
    complete_step,
)
from tests.task_case import GIF, SchedulerTestCase
from vidproc.errors import ServiceError
from vidproc.tasks.model import State
from vidproc.tasks.settings import Caller
from vidproc.tasks.uploads.session import AcceptedTask, UploadSession
from vidproc.tasks.uploads.submission import Submission


class SpaceTests(SchedulerTestCase):
    """A task can write only as much as is reserved for it."""

    def begin(self, rig: Rig, peer: str = "192.0.2.1") -> str:
        """Start a GIF task and let the probe succeed."""
        task_id = self.submit(rig, peer)
        complete_step(rig.runner.running[-1])
        return task_id

    def test_the_output_is_reserved_again_when_the_source_is_known(self) -> None:
        """The request alone says nothing about the film."""
        rig = self.rig()
        task_id = self.submit(rig)
        guess = rig.storage.space.reserved_for(task_id)
        complete_step(rig.runner.running[0])
        self.assertGreater(rig.storage.space.reserved_for(task_id), guess)

    def test_a_task_whose_output_does_not_fit_now_waits_and_says_so(self) -> None:
        """It continues when there is space; that does not count as a failure."""
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
        """Those that fit continue."""
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
        """Adding up very many results takes a while."""
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
        """Even if everything else were evicted."""
        rig = self.rig()
        task_id = self.submit(rig)
        rig.storage.space.limit = rig.storage.space.measure() + (4 << 20)
        complete_step(rig.runner.running[0])
        failure = self.view(rig, task_id).task.failure
        assert failure is not None
        self.assertEqual(failure.code, 507)

    def test_one_that_is_cancelled_while_space_is_looked_for(self) -> None:
        """It is not failed, too, for what it lacks, and the round of upkeep goes on."""
        rig = self.rig()
        task_id = self.submit(rig)
        rig.storage.space.limit = rig.storage.space.measure() + (4 << 20)
        self.patch(rig.storage.space, "capacity", lambda: 1 << 40)
        complete_step(rig.runner.running[0])
        self.patch(rig.storage.space, "capacity", lambda: 0)
        held = rig.disk.hold()
        looking = ensureDeferred(rig.tasks.queue.look_for_space())
        cancelling = ensureDeferred(rig.tasks.queue.cancel(task_id))
        self.assertNoResult(looking)
        held.run_all()
        self.successResultOf(looking)
        self.successResultOf(cancelling)
        self.assertIs(self.state(rig, task_id), State.CANCELLED)

    def test_an_attempt_that_outgrows_its_space_is_stopped_and_gets_twice_as_much(self) -> None:
        """However many files it writes to."""
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

    def test_a_task_begins_again_only_when_its_last_attempt_is_cleared_away(self) -> None:
        """Others that are queued begin in the meantime."""
        rig = self.rig(max_concurrent=1)
        task_id = self.begin(rig)
        other = self.submit(rig, "192.0.2.2")
        with (rig.storage.path(f"work/{task_id}/1") / "a").open("wb") as file:
            file.truncate(rig.storage.space.reserved_for(task_id) + 1)
        held = rig.disk.hold()
        growing = ensureDeferred(rig.tasks.queue.check_growth())
        (measured, measure), *_ = held.waiting
        held.waiting.clear()
        measured.callback(measure())
        self.successResultOf(growing)
        self.assertEqual(self.in_store(rig, task_id), (State.QUEUED, 1))
        self.assertEqual(len(held.waiting), 1)  # the removal of its files
        rig.tasks.queue.set_concurrency(2)
        self.assertEqual(self.in_store(rig, task_id), (State.QUEUED, 1))
        self.assertEqual(self.in_store(rig, other), (State.PROCESSING, 1))
        held.run_all()
        self.assertEqual(self.in_store(rig, task_id), (State.PROCESSING, 2))
        self.assertEqual(rig.tasks.queue.running, 2)
        self.assertTrue(rig.storage.path(f"work/{task_id}/2").is_dir())

    def in_store(self, rig: Rig, task_id: str) -> tuple[State, int]:
        """Return a task's state and its attempts."""
        task = rig.store.get(task_id)
        assert task is not None
        return task.state, task.attempt

    def test_each_file_is_bounded_by_what_is_left(self) -> None:
        """The kernel enforces it at every moment; simultaneous commands share it."""
        rig = self.rig()
        task_id = self.begin(rig)
        reserved = rig.storage.space.reserved_for(task_id)
        self.assertEqual(rig.runner.running[0].workspace.space, reserved)


class PruneTests(SchedulerTestCase):
    def finished(self, rig: Rig, peer: str = "192.0.2.1") -> str:
        task_id = self.submit(rig, peer)
        self.finish_all(rig)
        return task_id

    def prune(self, rig: Rig) -> list[str]:
        pruned: list[str] = self.run_coroutine(rig.tasks.results.prune())
        return pruned

    def test_a_result_is_kept_for_its_retention(self) -> None:
        """Then it expires: the file is removed, the row is kept."""
        rig = self.rig(retention=100.0)
        task_id = self.finished(rig)
        rig.clock.advance(99)
        self.assertEqual(self.prune(rig), [])
        rig.clock.advance(1)
        self.assertEqual(self.prune(rig), [task_id])
        self.assertIs(self.state(rig, task_id), State.EXPIRED)
        self.assertEqual(os.listdir(rig.storage.root / "results"), [])

    def test_a_full_disk_does_not_keep_results_from_going(self) -> None:
        """If the row can't be written, the file is removed first, and the row later."""
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
        """Give a finished task's result `size` bytes."""
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
        """Only its bytes do, as they arrive; the oldest results expire first."""
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
        """The limit is kept however the bytes arrive."""
        rig = self.rig(min_retention=0.0)
        old = self.finished(rig)
        self.result_of(rig, old, 16 << 20)
        self.crowd(rig)
        self.submit(rig, "192.0.2.9", payload=bytes(1000))
        self.assertIs(self.state(rig, old), State.EXPIRED)
        self.assertLessEqual(rig.storage.space.measure(), rig.storage.space.limit)

    def test_a_young_result_that_nobody_has_fetched_goes_for_nobody(self) -> None:
        """The upload gets 507 before its first byte; an hour later it is accepted."""
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
        """A result past its retention may go."""
        rig = self.rig(min_retention=3600.0, retention=10.0)
        old = self.finished(rig)
        self.result_of(rig, old, 20 << 20)
        self.crowd(rig)
        rig.clock.advance(10)
        self.begin(rig, 1 << 20)
        self.assertIs(self.state(rig, old), State.EXPIRED)

    def test_a_claim_takes_orphans_and_then_what_was_fetched(self) -> None:
        """Nobody misses them."""
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

    def test_an_upload_whose_space_was_taken_meanwhile_gets_an_error(self) -> None:
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
        """A request for more than the whole disk does not evict any result."""
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

    def test_an_address_gets_at_most_half_of_the_free_space(self) -> None:
        """So that a few requests can't reserve everything."""
        rig = self.rig()
        rig.storage.space.limit = rig.storage.space.used + 1000
        rig.storage.space.reserve("a", 500, "192.0.2.1")
        self.assertRaises(ServiceError, rig.storage.space.reserve, "b", 1, "192.0.2.1")
        rig.storage.space.reserve("c", 250, "192.0.2.2")
        rig.storage.space.reserve("a", 250, "192.0.2.1")
        self.assertEqual(rig.storage.space.reserved, 500)

    def test_downloaded_results_go_first_when_space_is_short(self) -> None:
        """No more of them than necessary."""
        rig = self.rig()
        first, second = self.finished(rig, "192.0.2.1"), self.finished(rig, "192.0.2.2")
        rig.tasks.note_downloaded(second)
        space, most = rig.storage.space, rig.storage.space.used - 1
        self.run_coroutine(
            rig.tasks.results.make_space(lambda: space.used - most, lambda: None, unfetched=True)
        )
        self.assertIs(self.state(rig, second), State.EXPIRED)
        self.assertIs(self.state(rig, first), State.COMPLETED)
