"""Tests for `vidproc.tasks.ended_tasks`, alone and as the tasks' facade uses it."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.rig import Rig
from vidproc.errors import ServiceError
from vidproc.tasks.ended_tasks import EndedTasks
from vidproc.tasks.facade import ROW_RETENTION
from vidproc.tasks.model import State, Task
from vidproc.tasks.settings import Caller, Settings
from vidproc.tasks.views import TaskView

CALLER = Caller("192.0.2.1")


def task(task_id: str = "t1", state: State = State.COMPLETED, filename: str = "") -> Task:
    """Return a task."""
    return Task(
        task_id=task_id,
        type="gif",
        parameters={},
        peer=CALLER.peer,
        state=state,
        filename=filename,
        created_at=0.0,
        completed_at=1.0,
    )


class EndedTasksTests(SynchronousTestCase):
    def test_only_ended_tasks_are_kept(self) -> None:
        kept = EndedTasks()
        kept.keep(task("over"), 0)
        for state in (State.QUEUED, State.PROCESSING, State.UPLOADING, State.PARTIAL):
            kept.keep(task("going on", state), 0)
        self.assertIsNotNone(kept.get("over"))
        self.assertIsNone(kept.get("going on"))

    def test_those_asked_for_last_stay(self) -> None:
        """Tasks of any size: their sum is bounded."""
        kept = EndedTasks(most_bytes=10_000)
        for name in ("a", "b", "c"):
            kept.keep(task(name, filename="x" * 2_500), 0)
        kept.get("a")
        kept.keep(task("d", filename="x" * 2_500), 0)
        self.assertIsNotNone(kept.get("a"))
        self.assertIsNone(kept.get("b"))
        kept.keep(task("huge", filename="x" * 20_000), 0)
        self.assertEqual(len(kept), 0)

    def test_a_row_read_before_a_change_is_not_kept(self) -> None:
        kept = EndedTasks()
        before = kept.changes
        kept.forget(["another"])
        kept.keep(task(), before)
        self.assertIsNone(kept.get("t1"))

    def test_forgotten_ones_free_their_bytes(self) -> None:
        kept = EndedTasks(most_bytes=4_000)
        for _ in range(3):
            kept.keep(task(filename="x" * 2_500), kept.changes)
            self.assertEqual(len(kept), 1)
            kept.forget(["t1"])
        kept.keep(task(filename="x" * 2_500), kept.changes)
        kept.forget_all()
        self.assertEqual(len(kept), 0)
        kept.keep(task(filename="x" * 2_500), kept.changes)
        self.assertEqual(len(kept), 1)


class FacadeTests(SynchronousTestCase):
    """A finished task whose status is asked for again and again."""

    def setUp(self) -> None:
        settings = Settings(retention=100.0, min_retention=0.0, owner_only=True)
        self.rig = Rig(Path(self.mktemp()), settings=settings)
        self.addCleanup(self.rig.close)
        self.rig.clock.advance(1000.0)
        key = "results/t1"
        path = self.rig.storage.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"result")
        row = task()
        row.output_key, row.output_size, row.output_type = key, 6, "gif"
        row.created_at = row.completed_at = self.rig.clock.seconds()
        self.rig.store.uploads.announce(row, 1)
        self.assertEqual(self.state(), State.COMPLETED)

    def ask(self) -> Deferred[TaskView]:
        return Deferred.fromCoroutine(self.rig.tasks.status("t1", CALLER))

    def state(self) -> State:
        return self.successResultOf(self.ask()).task.state

    def test_it_does_not_wait_for_the_store(self) -> None:
        self.rig.lookup_thread.hold()
        self.assertEqual(self.state(), State.COMPLETED)

    def test_a_stranger_does_not_see_it(self) -> None:
        """Whoever asked for it before."""
        stranger = Deferred.fromCoroutine(self.rig.tasks.status("t1", Caller("192.0.2.9")))
        self.failureResultOf(stranger, ServiceError)

    def test_its_end_is_seen_at_once(self) -> None:
        """When it expires, and when its row is deleted."""
        self.rig.clock.advance(101.0)
        self.successResultOf(Deferred.fromCoroutine(self.rig.tasks.upkeep()))
        self.assertEqual(self.state(), State.EXPIRED)
        self.rig.clock.advance(ROW_RETENTION)
        self.successResultOf(Deferred.fromCoroutine(self.rig.tasks.upkeep()))
        self.failureResultOf(self.ask(), ServiceError)

    def test_a_removed_result_is_seen_at_once(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.rig.tasks.cancel("t1", CALLER)))
        task = self.successResultOf(self.ask()).task
        self.assertEqual((task.state, task.output_key), (State.COMPLETED, None))

    def test_a_download_is_seen_at_once(self) -> None:
        self.rig.tasks.note_downloaded("t1")
        self.assertIsNotNone(self.successResultOf(self.ask()).task.downloaded_at)
