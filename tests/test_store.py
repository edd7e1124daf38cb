"""The task store: real SQLite files."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.errors import ServiceError
from vidproc.tasks.model import Failure, InvalidTransition, State, Task, new_task_id
from vidproc.tasks.store.attempt_rows import LEASE, SUSPECT_AFTER
from vidproc.tasks.store.database import LOG_ALLOCATED, SchemaTooNew
from vidproc.tasks.store.recovery_rows import LONGEST_PAUSE
from vidproc.tasks.store.store import TaskStore
from vidproc.tasks.store.upload_rows import MOST_PARTIAL


def make_task(peer: str = "192.0.2.1", **fields: object) -> Task:
    values: dict[str, Any] = {
        "task_id": new_task_id(),
        "type": "gif",
        "parameters": {"start_time": 0, "duration": 5},
        "peer": peer,
        "created_at": 1000.0,
        "input_size": 10,
    }
    return Task(**{**values, **fields})


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(tempfile.mkdtemp(dir=self.mktemp_folder())) / "tasks.sqlite"
        self.store = TaskStore(self.path)
        self.store.open()
        self.addCleanup(lambda: self.store.close())

    def mktemp_folder(self) -> str:
        folder: str = self.mktemp()
        Path(folder).mkdir(parents=True)
        return folder

    def admit(self, task: Task, tasks_per_peer: int = 1, queue_size: int = 100) -> Task:
        self.store.uploads.admit(task, tasks_per_peer, queue_size)
        return task

    def queued(self, peer: str = "192.0.2.1", **fields: object) -> Task:
        task = self.admit(make_task(peer, **fields))
        return self.store.move(task.task_id, State.QUEUED, queued_at=1001.0)

    def test_changes_need_no_further_blocks_on_a_full_disk(self) -> None:
        """The log has its blocks from the start, after a crash in it as well."""
        task = self.queued()
        for number in range(3):
            log = self.path.with_name(f"{self.path.name}-wal").stat()
            self.assertGreaterEqual(log.st_blocks * 512, LOG_ALLOCATED)
            for _ in range(20):
                self.store.update(task.task_id, failures=number)
            after = self.path.with_name(f"{self.path.name}-wal").stat()
            self.assertEqual((after.st_size, after.st_blocks), (log.st_size, log.st_blocks))
            crashed = self.path.with_name(f"crashed-{number}.sqlite")
            for suffix in ("", "-wal"):
                shutil.copy(f"{self.path}{suffix}", f"{crashed}{suffix}")
            self.store.close()
            self.path = crashed
            self.store = TaskStore(crashed)
            self.store.open()
            found = self.store.get(task.task_id)
            assert found is not None
            self.assertEqual(found.failures, number)

    def test_a_lookup_does_not_wait_for_a_commit(self) -> None:
        """It sees the committed state while the writer is in a transaction."""
        task = self.admit(make_task())
        with self.store.database.transaction() as db:
            db.execute("UPDATE tasks SET state = 'queued'")
            found = self.store.look_up(task.task_id)
            assert found is not None
            self.assertIs(found.state, State.UPLOADING)
        found = self.store.look_up(task.task_id)
        assert found is not None
        self.assertIs(found.state, State.QUEUED)
        self.assertIsNone(self.store.look_up("0" * 32))

    def test_a_closed_store_leaves_one_file(self) -> None:
        """The log was merged into the database, so a copy of the file is a backup."""
        self.admit(make_task())
        self.store.close()
        self.assertEqual([p.name for p in self.path.parent.iterdir()], [self.path.name])
        self.assertRaises(sqlite3.ProgrammingError, self.store.look_up, "0" * 32)
        self.store.open()

    def test_a_task_comes_back_as_it_was_stored(self) -> None:
        """All fields, including nested ones, are preserved by SQLite."""
        task = self.admit(
            make_task(
                warnings=["A sentence: é\n"],
                input={"width": 5, "nested": {"a": [1, None]}},
                failure=Failure(code=415, description="d", solution="s"),
                principal="someone",
                filename="film.mp4",
            )
        )
        self.store.close()
        self.store.open()
        self.assertEqual(self.store.get(task.task_id), task)

    def test_a_second_task_of_an_address_is_refused(self) -> None:
        """An upload takes the slot as soon as it starts."""
        self.admit(make_task())
        refused = self.assertRaises(ServiceError, self.admit, make_task())
        self.assertEqual(refused.code, 429)
        self.admit(make_task("192.0.2.2"))

    def test_the_slot_is_free_in_every_state_that_ends_a_task(self) -> None:
        """Completed, failed, cancelled and deleted tasks hold nothing."""
        for end in (State.COMPLETED, State.FAILED, State.CANCELLED):
            task = self.queued()
            self.store.attempts.claim_next("me", 1.0, 2.0)
            self.store.move(task.task_id, end)
        self.store.uploads.delete_upload(self.admit(make_task()).task_id)
        self.admit(make_task())

    def test_a_full_queue_is_refused_with_503(self) -> None:
        """Uploads in progress count as well, because they will wait."""
        self.queued("192.0.2.1")
        self.queued("192.0.2.2")
        refused = self.assertRaises(ServiceError, self.admit, make_task("192.0.2.3"), queue_size=2)
        self.assertEqual(refused.code, 503)

    def test_tasks_are_claimed_oldest_first_and_once(self) -> None:
        """Each claim starts an attempt and makes the claimant its owner."""
        first, second = self.queued("192.0.2.1"), self.queued("192.0.2.2")
        claimed = self.store.attempts.claim_next("me", 5.0, 65.0)
        assert claimed is not None
        self.assertEqual(claimed.task_id, first.task_id)
        self.assertEqual(
            (claimed.state, claimed.owner, claimed.attempt, claimed.lease_until),
            (State.PROCESSING, "me", 1, 65.0),
        )
        claimed = self.store.attempts.claim_next("me", 5.0, 65.0)
        assert claimed is not None
        self.assertEqual(claimed.task_id, second.task_id)
        self.assertIsNone(self.store.attempts.claim_next("me", 5.0, 65.0))

    def test_a_move_that_the_table_does_not_have_is_refused(self) -> None:
        """It changes nothing."""
        task = self.queued()
        self.assertRaises(InvalidTransition, self.store.move, task.task_id, State.COMPLETED)
        stored = self.store.get(task.task_id)
        assert stored is not None
        self.assertIs(stored.state, State.QUEUED)
        self.assertRaises(
            InvalidTransition,
            self.store.move,
            task.task_id,
            State.CANCELLED,
            expected=State.PROCESSING,
        )

    def test_recovery_queues_what_was_running_and_forgets_plain_uploads(self) -> None:
        """A resumable upload waits for its client instead."""
        running = self.queued("192.0.2.1")
        self.store.attempts.claim_next("dead", 1.0, 2.0)
        plain = self.admit(make_task("192.0.2.2"))
        resumable = self.admit(make_task("192.0.2.3", upload_id="u"))
        recovery = self.store.recovery.recover(1000.0)
        self.assertEqual([t.task_id for t in recovery.interrupted], [running.task_id])
        self.assertEqual(recovery.broken, [resumable.task_id])
        self.assertEqual(recovery.forgotten, [plain.task_id])
        states = {
            task.task_id: self.store.get(task.task_id) for task in (running, plain, resumable)
        }
        self.assertIsNone(states[plain.task_id])
        again, parked = states[running.task_id], states[resumable.task_id]
        assert again is not None and parked is not None
        self.assertEqual((again.state, again.owner, again.failures), (State.QUEUED, None, 0))
        self.assertIs(parked.state, State.PARTIAL)

    def crash(self, lived: float, now: float = 5000.0) -> list[Task]:
        """Claim all tasks, let the server die `lived` seconds later, and recover."""
        while (
            self.store.attempts.claim_next("dead", 1000.0 + now, 1000.0 + now + LEASE) is not None
        ):
            pass
        self.store.attempts.renew_leases("dead", 1000.0 + now + lived + LEASE)
        return self.store.recovery.recover(now).interrupted

    def test_a_task_that_brings_the_server_down_alone_ten_times_fails(self) -> None:
        """The error has the reason; the server is not brought down forever."""
        self.queued(input_key="inputs/a")
        now = 5000.0
        for number in range(1, 10):
            (task,) = self.crash(5.0, now)
            self.assertEqual((task.state, task.crashes_alone), (State.QUEUED, number))
            now = max(now, task.not_before or 0)
        (failed,) = self.crash(5.0, now)
        assert failed.failure is not None
        self.assertEqual((failed.state, failed.failure.code), (State.FAILED, 500))
        self.assertEqual(self.store.recovery.known_keys(), set())

    def test_crashes_in_which_others_ran_are_no_verdict(self) -> None:
        """However many there are, because the cause is unknown."""
        for peer in ("192.0.2.1", "192.0.2.2"):
            self.queued(peer)
        now = 5000.0
        for _ in range(20):
            tasks = self.crash(5.0, now)
            now = max(now, *(task.not_before or 0 for task in tasks))
            self.assertEqual({task.state for task in tasks}, {State.QUEUED})
        self.assertEqual([task.crashes for task in tasks], [20, 20])

    def test_fifty_kills_in_a_hundred_seconds_fail_nobody(self) -> None:
        """Tasks of 3 s, two at a time: all complete soon after the last kill."""
        chance = random.Random(7)
        kills = sorted(chance.uniform(0, 100) for _ in range(50))
        for number in range(6):
            self.queued(f"192.0.2.{number}")
        now, running = 1000.0, dict[str, float]()
        while self.store.in_states([State.QUEUED, State.PROCESSING]):
            if kills and kills[0] <= now - 1000.0:
                kills.pop(0)
                running.clear()
                for task in self.store.recovery.recover(now).interrupted:
                    self.assertIs(task.state, State.QUEUED)
            for task_id, begun in list(running.items()):
                if now - begun >= 3:
                    self.store.move(task_id, State.COMPLETED)
                    del running[task_id]
            suspects = [self.store.get(task_id) for task_id in running]
            if len(running) < 2 and not any(s and s.crashes >= SUSPECT_AFTER for s in suspects):
                found = self.store.attempts.claim_next("me", now, now + LEASE, alone=not running)
                if found is not None:
                    running[found.task_id] = now
            now += 0.5
            self.assertLess(now, 1000.0 + 3600.0)
        self.assertEqual((kills, len(self.store.in_states([State.COMPLETED]))), ([], 6))

    def test_after_three_crashes_a_task_pauses_and_then_runs_alone(self) -> None:
        """The pause doubles from 5 s; others do not wait for it."""
        self.queued("192.0.2.1")
        for pause in (None, None, 5.0, 10.0, 20.0):
            (task,) = self.crash(5.0, 9000.0)
            given = None if task.not_before is None else task.not_before - 9000.0
            self.assertEqual(given, pause)
            self.store.update(task.task_id, not_before=None)
        self.store.update(task.task_id, not_before=9020.0)
        other = self.queued("192.0.2.2")
        claimed = self.store.attempts.claim_next("me", 9019.0, 9099.0)
        assert claimed is not None
        self.assertEqual(claimed.task_id, other.task_id)
        self.assertIsNone(self.store.attempts.claim_next("me", 9021.0, 9099.0, alone=False))
        claimed = self.store.attempts.claim_next("me", 9021.0, 9099.0, alone=True)
        assert claimed is not None
        self.assertEqual(claimed.task_id, task.task_id)

    def test_a_pause_ends_although_the_clock_was_put_back(self) -> None:
        """A date beyond the task's longest pause comes from another clock."""
        for crashes, pause in ((0, 60.0), (SUSPECT_AFTER, 60.0), (8, 160.0), (30, LONGEST_PAUSE)):
            task = self.queued("192.0.2.1")
            self.store.update(task.task_id, crashes=crashes, not_before=1_000_000.0)
            self.store.recovery.recover(1000.0)
            claim = self.store.attempts.claim_next
            self.assertIsNone(claim("me", 999.0 + pause, 9000.0), crashes)
            self.assertIsNotNone(claim("me", 1000.0 + pause, 9000.0), crashes)
            self.store.move(task.task_id, State.COMPLETED)

    def test_a_pause_that_is_the_tasks_own_is_kept(self) -> None:
        """A restart does not lengthen it."""
        task = self.queued("192.0.2.1")
        self.store.update(task.task_id, crashes=8, not_before=1010.0)
        self.store.recovery.recover(1000.0)
        self.assertIsNotNone(self.store.attempts.claim_next("me", 1010.0, 9000.0))

    def test_a_file_that_does_its_harm_late_fails_as_well(self) -> None:
        """Nothing is retried forever, but a single power cut does not decide."""
        self.queued()
        now = 5000.0
        for number in range(1, 10):
            (task,) = self.crash(3600.0, now)
            self.assertEqual((task.state, task.crashes_alone), (State.QUEUED, number))
            now = max(now, task.not_before or 0)
        (failed,) = self.crash(3600.0, now)
        self.assertIs(failed.state, State.FAILED)

    def test_rows_without_files_are_forgotten_after_their_time(self) -> None:
        """Those with a result stay, and so do tasks that have not ended."""
        old, kept = self.queued("192.0.2.1"), self.queued("192.0.2.2")
        for task, key in ((old, None), (kept, "results/x")):
            self.store.attempts.claim_next("me", 1.0, 2.0)
            self.store.move(task.task_id, State.COMPLETED, completed_at=10.0, output_key=key)
        waiting = self.queued("192.0.2.3")
        self.assertEqual(self.store.results.delete_ended(11.0), 1)
        self.assertIsNone(self.store.get(old.task_id))
        self.assertIsNotNone(self.store.get(kept.task_id))
        self.assertIsNotNone(self.store.get(waiting.task_id))

    def test_a_database_of_the_first_schema_is_brought_up_to_date(self) -> None:
        """Its tasks are still there."""
        from importlib import resources

        path = self.path.with_name("old.sqlite")
        first = resources.files("vidproc.tasks").joinpath("schema/001_tasks.sql").read_text()
        db = sqlite3.connect(path)
        db.executescript(first + "PRAGMA user_version = 1;")
        db.execute(
            "INSERT INTO tasks (task_id, type, parameters, peer, state, media_type, created_at,"
            " input_size, input, output, warnings, attempt, failures)"
            " VALUES ('a', 'gif', '{}', 'p', 'queued', 'mp4', 1.0, 1, '{}', '{}', '[]', 0, 0)"
        )
        db.commit()
        db.close()
        path.with_name("old.sqlite.before-0").touch()
        store = TaskStore(path)
        store.open()
        self.addCleanup(store.close)
        claimed = store.attempts.claim_next("me", 1.0, 2.0)
        assert claimed is not None
        self.assertEqual((claimed.task_id, claimed.crashes), ("a", 0))
        copies = [p.name for p in path.parent.glob("old.sqlite.before-*")]
        self.assertEqual(copies, ["old.sqlite.before-1"])
        copy = sqlite3.connect(path.with_name("old.sqlite.before-1"))
        self.addCleanup(copy.close)
        self.assertEqual(copy.execute("PRAGMA user_version").fetchone(), (1,))
        self.assertEqual(
            copy.execute("SELECT task_id, state FROM tasks").fetchall(), [("a", "queued")]
        )

    def park(
        self, task: Task, now: float, received: int = 10, own: int = 100, budget: int = 1000
    ) -> list[str]:
        return self.store.uploads.park(task.task_id, now, received, own_budget=own, budget=budget)

    def test_an_address_keeps_several_broken_uploads_within_a_budget(self) -> None:
        """Those interrupted longest ago are deleted, and their IDs returned."""
        tasks = [self.admit(make_task(upload_id=str(n)), tasks_per_peer=9) for n in range(4)]
        self.assertEqual(self.park(tasks[1], 1.0, 40), [])
        self.assertEqual(self.park(tasks[0], 2.0, 40), [])
        self.assertEqual(self.park(tasks[2], 3.0, 40), [tasks[1].task_id])
        self.assertEqual(self.park(tasks[3], 4.0, 200), [tasks[2].task_id, tasks[0].task_id])

    def test_an_address_keeps_so_many_broken_uploads_at_most(self) -> None:
        """However small they are."""
        for number in range(MOST_PARTIAL):
            task = self.admit(make_task(upload_id=str(number)))
            self.assertEqual(self.park(task, float(number), 1), [])
        task = self.admit(make_task(upload_id="more"))
        self.assertEqual(len(self.park(task, 99.0, 1)), 1)

    def test_a_broken_upload_costs_no_other_address_its_own(self) -> None:
        """If all of them exceed their budget, the new one is deleted."""
        first = self.admit(make_task("192.0.2.1", upload_id="1"))
        self.assertEqual(self.park(first, 1.0, 90, own=100, budget=100), [])
        second = self.admit(make_task("192.0.2.2", upload_id="2"))
        self.assertEqual(self.park(second, 2.0, 90, own=100, budget=100), [second.task_id])
        self.assertIsNotNone(self.store.get(first.task_id))

    def test_nothing_is_kept_of_an_upload_without_a_byte(self) -> None:
        """There is nothing to resume."""
        task = self.admit(make_task(upload_id="1"))
        self.assertEqual(self.park(task, 1.0, 0), [task.task_id])
        self.assertIsNone(self.store.get(task.task_id))

    def test_uploads_under_way_do_not_fill_the_queue(self) -> None:
        """A hundred slow uploads must not keep out everybody else."""
        for number in range(5):
            self.store.uploads.admit(make_task(f"192.0.2.{number}"), 1, 2)
        for number in range(5, 7):
            task = make_task(f"192.0.2.{number}")
            self.store.uploads.admit(task, 1, 2)
            self.store.move(task.task_id, State.QUEUED)
        refused = self.assertRaises(
            ServiceError, self.store.uploads.admit, make_task("192.0.2.8"), 1, 2
        )
        self.assertEqual(refused.code, 503)

    def test_the_time_to_resume_counts_from_the_break(self) -> None:
        """However long ago the upload started."""
        task = self.admit(make_task(upload_id="1", created_at=1.0))
        self.park(task, 1000.0)
        self.assertEqual(self.store.uploads.delete_parked(999.0), [])
        self.assertEqual(self.store.uploads.delete_parked(1001.0), [task.task_id])

    def test_only_an_upload_can_be_forgotten_as_one(self) -> None:
        """A queued task stays."""
        task = self.queued()
        self.assertFalse(self.store.uploads.delete_upload(task.task_id))
        self.assertIsNotNone(self.store.get(task.task_id))

    def test_a_broken_upload_needs_a_slot_to_go_on(self) -> None:
        """It had none while it was interrupted."""
        broken = self.admit(make_task(upload_id="1"))
        self.park(broken, 1.0)
        other = self.admit(make_task())
        refused = self.assertRaises(ServiceError, self.store.uploads.resume, broken.task_id, 1, 100)
        self.assertEqual(refused.code, 429)
        self.store.uploads.delete_upload(other.task_id)
        self.assertIs(self.store.uploads.resume(broken.task_id, 1, 100).state, State.UPLOADING)

    def test_a_database_of_a_newer_vidproc_is_refused(self) -> None:
        """This version would misread its rows."""
        self.store.close()
        with sqlite3.connect(self.path) as db:
            db.execute("PRAGMA user_version = 999")
        db.close()
        self.assertRaises(SchemaTooNew, TaskStore(self.path).open)

    def test_a_token_lists_its_own_tasks_newest_first(self) -> None:
        """As many as requested; uploads are not tasks yet."""
        mine = [self.queued(f"192.0.2.{n}", principal="ann") for n in range(3)]
        self.queued("192.0.2.8", principal="bob")
        self.admit(make_task("192.0.2.9", principal="ann"))
        self.assertEqual(
            [task.task_id for task in self.store.list_own("ann", 2)],
            [mine[2].task_id, mine[1].task_id],
        )

    def test_known_keys_are_inputs_results_and_broken_uploads(self) -> None:
        """Other files are orphans."""
        task = self.admit(make_task("192.0.2.1"))
        self.store.move(task.task_id, State.QUEUED, input_key="inputs/a")
        broken = self.admit(make_task("192.0.2.2", upload_id="1"))
        self.park(broken, 1.0)
        self.assertEqual(
            self.store.recovery.known_keys(), {"inputs/a", f"uploads/{broken.task_id}"}
        )
