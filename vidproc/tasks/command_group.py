"""Commands that run at once for one attempt; the first that fails has the others stopped."""

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
"""The commands that have reported progress, each with what it reported last."""


class CommandGroup:
    """Runs `commands` on a runner, each with at most `threads` threads. To be run once."""

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
        """Run them; return how each ended, once all have.

        Raises what the first one that failed by itself raised, `CommandStopped` after `stop`.
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
            fault = raised  # raised again when those that did start have ended
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
            # One that was stopped failed because of another.
            raise min(errors, key=lambda error: isinstance(error, CommandStopped))
        return [found for _, found in ended]

    def stop(self) -> None:
        """Stop those that still run; `run` then ends when their processes have ended."""
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
