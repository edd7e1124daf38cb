"""Commands that run at once for one attempt. When one fails, the others are stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from twisted.internet.defer import DeferredList
from twisted.python.failure import Failure

from vidproc.ffmpeg.command import Command, CommandStopped, Completed, Progress, Workspace
from vidproc.runners.interface import Runner, RunningCommand
from vidproc.topics import Topic, TopicLogger

UnderWay: TypeAlias = Sequence[tuple[Command, Progress]]
"""The commands that have reported progress, each with its latest report."""


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
        self._running: list[RunningCommand] = []
        self._latest: dict[int, Progress] = {}

    async def run(self) -> list[Completed]:
        """Run the commands; return their results once all have ended.

        Raises the error of the first command that failed by itself, `CommandStopped` after `stop`.
        """
        fault: Exception | None = None
        try:
            for number, command in enumerate(self._commands):
                self._running.append(
                    self._runner.start(
                        command, self._workspace, self._threads, partial(self._progressed, number)
                    )
                )
        except Exception as raised:
            fault = raised  # raised again once the commands that did start have ended
        for running in self._running:
            running.result.addErrback(self._stop_others)
        if fault is not None:
            self.stop()
        results = [running.result for running in self._running]
        ended: Any = await DeferredList(results, consumeErrors=True)
        if fault is not None:
            raise fault
        errors = [found.value for succeeded, found in ended if not succeeded]
        if errors:
            # Those that were stopped failed only because of another one.
            raise min(errors, key=lambda error: isinstance(error, CommandStopped))
        return [found for _, found in ended]

    def stop(self) -> None:
        """Stop the running commands; `run` then raises once their processes have ended."""
        for running in self._running:
            try:
                running.stop()
            except Exception:
                self.log.failure("{stage}: a command can't be stopped", stage=running.command.stage)

    def _stop_others(self, failure: Failure) -> Failure:
        self.stop()
        return failure

    def _progressed(self, number: int, progress: Progress) -> None:
        self._latest[number] = progress
        self._on_progress([(self._commands[n], each) for n, each in self._latest.items()])
