"""Commands that run at once for one attempt.

A command that fails for a reason that lies outside the file is started again alone, and so is one
that read only a part of the file, with all of it. When one fails for good, the others are stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, DeferredList

from vidproc.ffmpeg.command import (
    Command,
    CommandFailed,
    CommandStopped,
    Completed,
    FailureKind,
    Progress,
    Workspace,
)
from vidproc.runners.interface import Runner, RunningCommand
from vidproc.topics import Topic, TopicLogger

UnderWay: TypeAlias = Sequence[tuple[Command, Progress]]
"""The commands that have reported progress or ended, each with its latest report."""


_OUTSIDE = frozenset({FailureKind.KILLED, FailureKind.OOM_KILLED, FailureKind.REFUSED})
"""Failures that say nothing about the command."""
_RETRIES = 2


class CommandGroup:
    """Runs `commands` on a runner, each with at most `threads` threads. Can be run once."""

    log = TopicLogger(Topic.TASKS)

    def __init__(
        self,
        runner: Runner,
        commands: Sequence[Command],
        workspace: Workspace,
        threads: int,
        on_progress: Callable[[UnderWay], None],
    ) -> None:
        self._runner = runner
        self._commands = commands
        self._workspace = workspace
        self._threads = threads
        self._on_progress = on_progress
        self._running: dict[int, RunningCommand] = {}
        self._latest: dict[int, Progress] = {}
        self._stopping = False

    async def run(self) -> list[Completed]:
        """Run the commands; return their results once all have ended.

        Raises the error of the first command that failed by itself, `CommandStopped` after `stop`.
        """
        # Where they wait for cores, the one with the most work must not be the last to begin.
        numbered = sorted(enumerate(self._commands), key=lambda each: -each[1].weight)
        ends = {
            number: Deferred.fromCoroutine(self._run(number, command))
            for number, command in numbered
        }
        ended: Any = await DeferredList(
            [ends[number] for number in range(len(ends))], consumeErrors=True
        )
        errors = [found.value for succeeded, found in ended if not succeeded]
        if errors:
            # Those that were stopped failed only because of another one.
            raise min(errors, key=lambda error: isinstance(error, CommandStopped))
        return [found for _, found in ended]

    async def _run(self, number: int, command: Command) -> Completed:
        """Run a command, again if that may help; if not, stop the others."""
        retries = _RETRIES if len(self._commands) > 1 else 0
        try:
            while True:
                try:
                    return await self._start(number, command)
                except CommandFailed as error:
                    again = _another_try(command, error, retries)
                    if again is None or self._stopping:
                        raise
                    self.log.warn(
                        "{stage}: a command failed ({error}); it is started again alone",
                        stage=command.stage,
                        error=str(error),
                    )
                    command = again
                    retries -= 1
        except BaseException:
            self.stop()
            raise

    async def _start(self, number: int, command: Command) -> Completed:
        if self._stopping:
            raise CommandStopped("stopped before it was started")
        running = self._running[number] = self._runner.start(
            command, self._workspace, self._threads, partial(self._progressed, number)
        )
        try:
            completed = await running.result
        except BaseException:
            self._latest.pop(number, None)  # it may begin again
            raise
        finally:
            del self._running[number]
        # It is done whatever its last report said, and its speed counts no longer.
        self._latest[number] = Progress(command.duration, None, None)
        return completed

    def stop(self) -> None:
        """Stop the running commands; `run` then raises once their processes have ended."""
        self._stopping = True
        for running in [*self._running.values()]:
            try:
                running.stop()
            except Exception:
                self.log.failure("{stage}: a command can't be stopped", stage=running.command.stage)

    def _progressed(self, number: int, progress: Progress) -> None:
        self._latest[number] = progress
        self._on_progress([(self._commands[n], each) for n, each in self._latest.items()])


def _another_try(command: Command, error: CommandFailed, retries: int) -> Command | None:
    """Return the command to run after a failure, None if there is no use in another try."""
    if retries > 0 and error.kind in _OUTSIDE:
        return command
    partial_read = command.part is not None and command.part.ranges is not None
    if partial_read and error.kind.may_be_the_files:
        # The bytes that it was given may not have been all that it needed.
        return replace(command, part=None)
    return None
