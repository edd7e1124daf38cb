"""Changes of the wall clock: timers, retention, and dates across a restart."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.rig import InPlace, Rig
from tests.test_store import make_task
from tests.test_tap import service_for
from vidproc.app.clock_watch import ClockWatch
from vidproc.app.service import VidprocService
from vidproc.clock import SteadyClock
from vidproc.tasks.model import State


class Machine:
    """A machine whose clock is set."""

    def __init__(self) -> None:
        self.passed = 100.0
        self.wall_offset = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.passed

    def wall(self) -> float:
        return self.passed + self.wall_offset

    def clock(self) -> SteadyClock:
        return SteadyClock(self.wall, self.monotonic)


class SteadyClockTests(SynchronousTestCase):
    def test_it_begins_at_the_wall_clock_and_counts_real_time(self) -> None:
        machine = Machine()
        clock = machine.clock()
        machine.passed += 5
        self.assertEqual(clock.seconds(), 1_700_000_105.0)
        self.assertEqual(clock.offset, 0.0)

    def test_a_step_changes_the_offset_alone(self) -> None:
        machine = Machine()
        clock = machine.clock()
        for step in (86400.0, -2 * 86400.0):
            before = clock.seconds()
            machine.wall_offset += step
            self.assertEqual(clock.seconds(), before)
        self.assertEqual(clock.offset, -86400.0)


class ReactorTests(TestCase):
    def test_a_real_reactors_timers_do_not_follow_the_wall_clock(self) -> None:
        """A timer of an hour does not fire when the clock is set forward by a day."""
        from twisted.internet.selectreactor import SelectReactor

        reactor: Any = SelectReactor()
        machine = Machine()
        machine.clock().install(reactor)
        fired: list[str] = []
        reactor.callLater(3600, fired.append, "an hour")
        machine.wall_offset += 86400
        reactor.runUntilCurrent()
        self.assertEqual(fired, [])
        machine.passed += 3601
        reactor.runUntilCurrent()
        self.assertEqual(fired, ["an hour"])


class RestartTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = Rig(Path(self.mktemp()))
        self.addCleanup(self.rig.close)
        self.store = self.rig.store

    def stored(self, **fields: Any) -> str:
        task = make_task(state=State.QUEUED, **fields)
        self.store.uploads.admit(task, 100, 100)
        return task.task_id

    def created_at(self, task_id: str) -> float:
        task = self.store.get(task_id)
        assert task is not None
        return task.created_at

    def check(self, watch: ClockWatch) -> None:
        from twisted.internet.defer import ensureDeferred

        self.successResultOf(ensureDeferred(watch.check()))

    def test_a_step_while_the_server_runs_moves_the_dates_at_the_next_start(self) -> None:
        """A task stays an hour old although the clock was set by a day; dates move only once."""
        machine = Machine()
        clock = machine.clock()
        watch = ClockWatch(clock, self.store, InPlace())
        task_id = self.stored(created_at=clock.seconds() - 3600)
        machine.wall_offset += 86400
        self.check(watch)
        self.assertEqual(self.store.recovery.adopt_dates(machine.wall()), 86400)
        self.assertEqual(self.created_at(task_id), machine.wall() - 3600)
        self.assertEqual(self.store.recovery.adopt_dates(machine.wall()), 0)
        self.assertEqual(self.created_at(task_id), machine.wall() - 3600)

    def test_steps_add_up_and_one_that_is_taken_back_leaves_nothing(self) -> None:
        machine = Machine()
        watch = ClockWatch(machine.clock(), self.store, InPlace())
        task_id = self.stored(created_at=machine.wall())
        for step in (500.0, -500.0):
            machine.wall_offset += step
            self.check(watch)
        self.assertEqual(self.store.recovery.adopt_dates(machine.wall()), 0)
        self.assertEqual(self.created_at(task_id), machine.wall())

    def test_dates_are_believed_unless_they_lie_in_the_future(self) -> None:
        now = 1_700_000_000.0
        old = self.stored(created_at=now - 7 * 86400)
        future = self.stored(created_at=now + 7 * 86400)
        self.store.recovery.adopt_dates(now)
        self.assertEqual(self.created_at(old), now - 7 * 86400)
        self.assertEqual(self.created_at(future), now)

    def test_a_step_is_warned_of_once(self) -> None:
        machine = Machine()
        watch = ClockWatch(machine.clock(), self.store, InPlace())
        noted: list[float] = []
        self.patch(self.store.recovery, "note_clock_offset", noted.append)
        self.check(watch)
        machine.wall_offset -= 60
        self.check(watch)
        self.check(watch)
        self.assertEqual(noted, [-60.0])


class ServiceTests(SynchronousTestCase):
    def test_the_service_gives_its_reactor_the_steady_clock(self) -> None:
        umask = os.umask(0o022)
        self.addCleanup(os.umask, umask)
        self.patch(sys, "excepthook", sys.excepthook)
        reactor: Any = Clock()
        config = replace(service_for().config, endpoints={})
        VidprocService(config, reactor).privilegedStartService()
        self.assertIsInstance(reactor.seconds.__self__, SteadyClock)
