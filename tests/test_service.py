"""Starting and stopping the whole service: messages, and that nothing delays it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from support.server_process import ServerProcess, wait_for
from vidproc.app.stopping import Deadline, Patience
from vidproc.ffmpeg.sandbox import LAYERS, missing_layers

LACKING = """
import vidproc.ffmpeg.sandbox
vidproc.ffmpeg.sandbox.find_layers = lambda mode: frozenset({"memory", "seccomp"})
from twisted.scripts.twistd import run
run()
"""


class LackingServer(ServerProcess):
    """A server on a machine with only two layers."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", LACKING, *super().command()[1:]]


class SandboxWarningTests(TestCase):
    def start(self, *options: str) -> str:
        server = LackingServer(Path(self.mktemp()), *options).start()
        self.addCleanup(server.stop)
        # The line of the ports, which `start` waits for, is the first of several.
        wait_for(lambda: "media processes: " in server.log())
        server.stop()
        return server.log()

    def test_auto_warns_of_each_layer_that_the_machine_lacks(self) -> None:
        log = self.start("--sandbox=auto")
        self.assertRegex(log, r"WARN media processes run without Landlock")
        self.assertRegex(log, r"WARN media processes run without namespaces")
        self.assertNotIn("without seccomp", log)

    def test_who_turned_it_off_is_not_warned(self) -> None:
        self.assertNotIn("media processes run without", self.start("--sandbox=off"))


class MissingLayersTests(SynchronousTestCase):
    def test_a_machine_with_all_layers_lacks_none(self) -> None:
        self.assertEqual(missing_layers(frozenset(LAYERS)), [])
        self.assertEqual(len(missing_layers(frozenset())), len(LAYERS))


class PatienceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.patience = Patience(self.clock, 10)

    def wait(self, work: Deferred[Any]) -> Deferred[bool]:
        return ensureDeferred(self.patience.wait_for("work", work))

    def test_it_waits_for_what_ends(self) -> None:
        work: Deferred[None] = Deferred()
        waiting = self.wait(work)
        self.clock.advance(9)
        self.assertNoResult(waiting)
        work.callback(None)
        self.assertTrue(self.successResultOf(waiting))

    def test_what_hangs_is_waited_for_once_in_all(self) -> None:
        first = self.wait(Deferred())
        self.clock.advance(10)
        self.assertFalse(self.successResultOf(first))
        self.assertFalse(self.successResultOf(self.wait(Deferred())))

    def test_a_second_signal_shortens_the_wait(self) -> None:
        waiting = self.wait(Deferred())
        self.patience.shorten(0.2)
        self.clock.advance(0.2)
        self.assertFalse(self.successResultOf(waiting))

    def test_a_fault_is_logged_and_counts_as_an_end(self) -> None:
        work: Deferred[None] = Deferred()
        waiting = self.wait(work)
        work.errback(OSError("the disk is full"))
        self.assertTrue(self.successResultOf(waiting))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class DeadlineTests(SynchronousTestCase):
    def test_a_new_time_takes_the_place_of_the_earlier_one(self) -> None:
        from threading import Event

        over = Event()
        deadline = Deadline(over.set)
        deadline.set(3600)
        deadline.set(0.01)
        self.assertTrue(over.wait(30))

    def test_one_that_is_cancelled_does_nothing(self) -> None:
        deadline = Deadline(lambda: self.fail("it was cancelled"))
        deadline.set(3600)
        timer = deadline._timer
        assert timer is not None
        deadline.cancel()
        timer.join(30)
        self.assertFalse(timer.is_alive())
