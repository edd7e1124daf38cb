"""The interface of runners.

Every runner makes the same promise: `RunningCommand.result` fires exactly once, after the process
has really ended. Code above a runner must not assume that commands run on this machine.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from twisted.internet.defer import Deferred

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import Command, Completed, OnProgress, Workspace


class RunningCommand(Protocol):
    """A command in progress."""

    command: Command
    threads: int
    """The number of threads that it was given."""
    here: bool
    """Whether it runs on this machine."""
    result: Deferred[Completed]
    """Fires with `Completed`, or fails with `CommandFailed` or `CommandStopped`."""
    cpu_time: float
    """CPU time used on this machine, in seconds, as of the last `measure`."""
    peak_memory: int
    """Peak memory on this machine, in bytes, as of the last `measure`."""

    def measure(self) -> None:
        """Update `cpu_time` and `peak_memory`."""

    def stop(self) -> None:
        """Stop the process; `result` fails with `CommandStopped` once it has ended.

        Does nothing if it has already ended.
        """

    def kill(self) -> None:
        """Like `stop`, but kill the process at once."""


class Runner(Protocol):
    """Runs commands somewhere."""

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the FFmpeg that runs the commands."""

    @property
    def running(self) -> Collection[RunningCommand]:
        """The commands in progress."""

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> RunningCommand:
        """Start a command with at most `threads` threads; never raises, `result` fails instead."""

    def release(self, workspace: Workspace) -> None:
        """Remove what the runner keeps elsewhere of a workspace's files: its attempt is over."""
