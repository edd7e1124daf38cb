"""What runs commands.

Every runner keeps the same promise: `RunningCommand.result` fires exactly once, after the process
has really ended.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from vidproc.ffmpeg.command import Command, Completed, OnProgress, Workspace


class RunningCommand(Protocol):
    """A command under way."""

    command: Command
    threads: int
    result: Deferred[Completed]
    """Fires with `Completed`, or fails with `CommandFailed` or `CommandStopped`."""

    def stop(self) -> None:
        """End the process; `result` then fails with `CommandStopped` once it has ended.

        Nothing happens when it has ended already.
        """


class Runner(Protocol):
    """Runs commands somewhere."""

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> RunningCommand:
        """Start a command with `threads` threads; never raises, `result` fails instead."""
