"""An attempt's commands, and the errors for its client if they fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from tests.rig import StubCommand, StubRunner
from vidproc.ffmpeg.command import (
    Command,
    CommandFailed,
    CommandStopped,
    Completed,
    FailureKind,
    Part,
    Progress,
    Workspace,
)
from vidproc.tasks.command_group import CommandGroup, UnderWay
from vidproc.tasks.refused_files import explain_failure

ONE = Command("ffmpeg", (), stage="one")
TWO = Command("ffmpeg", (), stage="two")


class CommandGroupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.runner = StubRunner(lambda key: self.fail(f"nobody reads {key}"))
        self.progress: list[UnderWay] = []
        self.group = CommandGroup(
            self.runner, [ONE, TWO], Workspace("", ""), 2, self.progress.append
        )

    def run_group(self) -> Deferred[list[Completed]]:
        return ensureDeferred(self.group.run())

    def test_it_ends_when_all_have_ended(self) -> None:
        """The results are in the order of the commands, whichever ended first."""
        running = self.run_group()
        one, two = self.runner.running
        two.complete(b"two")
        self.assertNoResult(running)
        one.complete(b"one")
        ended = self.successResultOf(running)
        self.assertEqual([each.stdout for each in ended], [b"one", b"two"])

    def test_the_most_work_is_begun_first(self) -> None:
        """Whoever waits for cores then waits for little; the results keep their order."""
        commands = [replace(ONE, weight=weight) for weight in (0.1, 0.5, 0.2)]
        self.group = CommandGroup(self.runner, commands, Workspace("", ""), 2, self.progress.append)
        running = self.run_group()
        begun = list(self.runner.running)
        self.assertEqual([each.command.weight for each in begun], [0.5, 0.2, 0.1])
        for number, each in enumerate(begun):
            each.complete(b"%d" % number)
        ended = self.successResultOf(running)
        self.assertEqual([each.stdout for each in ended], [b"2", b"0", b"1"])

    def test_one_that_fails_has_the_other_stopped(self) -> None:
        """The error is the failure, not that the other was stopped; both have ended by then."""
        self.runner.stops_at_once = False
        running = self.run_group()
        one, two = self.runner.running
        two.fail(FailureKind.MEMORY)
        self.assertEqual(one.stops, 1)
        self.assertNoResult(running)
        one.end(CommandStopped("stopped on request"))
        error = self.failureResultOf(running, CommandFailed).value
        self.assertIs(error.command, TWO)

    def test_a_stop_ends_all(self) -> None:
        """There is no other error."""
        running = self.run_group()
        self.group.stop()
        self.failureResultOf(running, CommandStopped)
        self.assertEqual(self.runner.running, [])

    def test_progress_of_parallel_commands_is_added_up(self) -> None:
        """The latest progress of each command counts."""
        self.run_group().addErrback(lambda _: None)
        one, two = self.runner.running
        first, second, third = (Progress(out_time, None, None) for out_time in (1.0, 2.0, 3.0))
        one.on_progress(first)
        two.on_progress(second)
        one.on_progress(third)
        self.assertEqual(list(self.progress[0]), [(ONE, first)])
        self.assertEqual(dict(self.progress[-1]), {ONE: third, TWO: second})
        self.group.stop()

    def test_one_that_has_ended_is_done_and_has_no_speed(self) -> None:
        """With many segments, the task's speed is that of those that run."""
        long = replace(ONE, duration=8.0)
        self.group = CommandGroup(
            self.runner, [long, TWO], Workspace("", ""), 2, self.progress.append
        )
        running = self.run_group()
        one, two = self.runner.running
        one.on_progress(Progress(7.5, None, 3.0))
        one.complete()
        two.on_progress(Progress(1.0, None, 2.0))
        self.assertEqual(
            list(self.progress[-1]),
            [(long, Progress(8.0, None, None)), (TWO, Progress(1.0, None, 2.0))],
        )
        two.complete()
        self.successResultOf(running)

    def test_a_runner_that_fails_at_the_second_leaves_no_first(self) -> None:
        """The exception is raised once the first command has ended."""
        start = self.runner.start

        def refuse(command: Command, *rest: Any) -> StubCommand:
            if command is TWO:
                raise RuntimeError("out of order")
            return start(command, *rest)

        self.patch(self.runner, "start", refuse)
        self.failureResultOf(self.run_group(), RuntimeError)
        self.assertEqual(self.runner.running, [])

    def test_a_killed_command_is_started_again_alone(self) -> None:
        """The other goes on. After two more tries it is given up."""
        running = self.run_group()
        one, two = self.runner.running
        two.fail(FailureKind.KILLED)
        for tries_left in (1, 0):
            self.assertEqual((one.stops, len(self.runner.running)), (0, 2), tries_left)
            again = self.runner.running[-1]
            self.assertIs(again.command, TWO)
            again.fail(FailureKind.OOM_KILLED)
        error = self.failureResultOf(running, CommandFailed).value
        self.assertEqual((error.kind, one.stops), (FailureKind.OOM_KILLED, 1))

    def test_a_command_of_its_own_is_not(self) -> None:
        """The queue makes another attempt."""
        group = CommandGroup(self.runner, [ONE], Workspace("", ""), 2, self.progress.append)
        running = ensureDeferred(group.run())
        self.runner.running[0].fail(FailureKind.KILLED)
        self.failureResultOf(running, CommandFailed)

    def test_nothing_is_started_again_after_a_stop(self) -> None:
        """Even if the command was killed at that moment."""
        self.runner.stops_at_once = False
        running = self.run_group()
        one, two = self.runner.running
        self.group.stop()
        two.fail(FailureKind.KILLED)
        one.end(CommandStopped("stopped on request"))
        self.failureResultOf(running, CommandFailed)
        self.assertEqual(self.runner.running, [])

    def test_what_fails_on_a_part_of_the_source_gets_all_of_it(self) -> None:
        """Once: then the file is the reason."""
        part = Part(2.0, 4.0, ((0, 4096), (8192, 12288)))
        command = replace(ONE, part=part)
        group = CommandGroup(self.runner, [command], Workspace("", ""), 2, self.progress.append)
        running = ensureDeferred(group.run())
        self.runner.running[0].fail(FailureKind.INPUT)
        (again,) = self.runner.running
        self.assertIsNone(again.command.part)
        again.fail(FailureKind.INPUT)
        self.failureResultOf(running, CommandFailed)

    def test_one_that_cannot_be_stopped_does_not_keep_the_others(self) -> None:
        """The error is logged."""
        running = self.run_group()
        one, two = self.runner.running

        def refuse() -> None:
            raise RuntimeError("no")

        self.patch(one, "stop", refuse)
        self.group.stop()
        self.assertTrue(self.flushLoggedErrors(RuntimeError))
        self.assertNotIn(two, self.runner.running)
        one.complete()
        self.failureResultOf(running, CommandStopped)


class ExplanationTests(SynchronousTestCase):
    def test_each_failure_of_a_file_says_what_to_do(self) -> None:
        """Beyond this server's limits is 413, no space is 507; everything else is due to the
        file."""
        codes = {
            FailureKind.SPACE: 507,
            FailureKind.MEMORY: 413,
            FailureKind.TIMED_OUT: 413,
            FailureKind.STALLED: 413,
        }
        for kind in FailureKind:
            error = explain_failure(CommandFailed(ONE, "exit status 1", "secret", kind=kind))
            self.assertEqual(error.code, codes.get(kind, 415), kind)
            self.assertTrue(error.solution)
            self.assertNotIn("secret", error.description + error.solution)
