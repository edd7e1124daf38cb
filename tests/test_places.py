"""How many attempts run at a time, and which task may start before its turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from vidproc.tasks.entries import Entries, Entry
from vidproc.tasks.model import State, Task
from vidproc.tasks.places import LONG, SUSPECT_PATIENCE, Places
from vidproc.tasks.store.attempt_rows import SUSPECT_AFTER


class PlacesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.entries = Entries()
        self.places = Places(self.entries, 2, lambda: self.now)

    def add(self, name: str, *, short: bool = True, runs: bool = False, **fields: Any) -> Entry:
        """Add a task: a GIF, which is short, or a film to compress."""
        kind, parameters = ("gif", {"start_time": 0, "duration": 1}) if short else ("compress", {})
        task = Task(
            task_id=name,
            type=kind,
            parameters=parameters,
            peer="192.0.2.1",
            state=State.PROCESSING if runs else State.QUEUED,
            created_at=0.0,
            input_size=1 << 30,
            **fields,
        )
        entry = self.entries.take_in(task)
        if runs:
            attempt: Any = SimpleNamespace(task=task, started_at=self.now)
            entry.attempt = attempt
        return entry

    def test_no_more_than_the_concurrency_run(self) -> None:
        """One that runs in addition does not take a place."""
        self.add("a", runs=True)
        self.assertTrue(self.places.free)
        self.add("b", runs=True)
        self.assertFalse(self.places.free)
        self.places.beside = "b"
        self.assertTrue(self.places.free)

    def test_a_short_task_that_waits_behind_long_ones_may_begin(self) -> None:
        """One at a time, only a short one, and not while a place is free."""
        self.add("a", short=False, runs=True)
        self.add("long", short=False)
        short = self.add("short")
        self.now += LONG
        self.assertIsNone(self.places.held_up())
        self.places.concurrency = 1
        self.assertIs(self.places.held_up(), short.task)
        self.places.beside = "short"
        self.assertIsNone(self.places.held_up())

    def test_what_runs_for_a_moment_holds_nobody_up(self) -> None:
        """A place will be free soon anyway."""
        self.places.concurrency = 1
        self.add("a", runs=True)
        self.add("b")
        self.now += LONG - 1
        self.assertIsNone(self.places.held_up())

    def test_a_suspect_runs_alone(self) -> None:
        """Nothing starts beside it, not even a short task."""
        self.add("suspect", runs=True, crashes=SUSPECT_AFTER)
        self.add("b")
        self.now += LONG
        self.places.concurrency = 1
        self.assertFalse(self.places.free)
        self.assertIsNone(self.places.held_up())

    def test_a_suspect_that_has_waited_long_gets_the_server_to_itself(self) -> None:
        """Until then others go first."""
        self.add("a", runs=True)
        self.add("suspect", crashes=SUSPECT_AFTER, not_before=self.now)
        self.assertTrue(self.places.free)
        self.now += SUSPECT_PATIENCE + 1
        self.assertFalse(self.places.free)

    def test_the_next_look_is_for_the_first_that_pauses(self) -> None:
        """A task that was due when the store was asked needs no timer."""
        asked_at = self.now
        self.assertIsNone(self.places.next_due(asked_at))
        self.add("due", not_before=self.now - 1)
        self.add("later", not_before=self.now + 20)
        self.add("soon", not_before=self.now + 10)
        self.assertEqual(self.places.next_due(asked_at), self.now + 10)

    def test_a_pause_that_ends_while_the_store_is_asked_is_not_forgotten(self) -> None:
        """The store skipped the task, and nothing else would wake up the queue."""
        asked_at = self.now
        self.add("soon", not_before=self.now + 0.05)
        self.now += 0.1
        self.assertEqual(self.places.next_due(asked_at), asked_at + 0.05)


class EntriesTests(SynchronousTestCase):
    def test_a_task_knows_its_place_in_the_queue(self) -> None:
        """Running tasks do not count."""
        places = PlacesTests()
        places.setUp()
        places.add("a", runs=True)
        for name in ("b", "c"):
            places.add(name)
        views = [places.entries.view(name, 0.0) for name in ("b", "c", "d")]
        self.assertEqual([view and view.queue_position for view in views], [1, 2, None])
