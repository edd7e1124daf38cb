"""What runs commands.

Every runner keeps the same promise: `RunningCommand.result` fires exactly once, after the process
has really ended. Nothing above a runner may assume that it runs commands on this machine.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from twisted.internet.defer import Deferred

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import Command, Completed, OnProgress, Workspace


class RunningCommand(Protocol):
    """A command under way."""

    command: Command
    threads: int
    """What it was given in the end."""
    result: Deferred[Completed]
    """Fires with `Completed`, or fails with `CommandFailed` or `CommandStopped`."""
    cpu_time: float
    """Seconds of CPU time that it has used on this machine, as of the last `measure`."""
    peak_memory: int
    """The most bytes that it has held on this machine, as of the last `measure`."""

    def measure(self) -> None:
        """Bring `cpu_time` and `peak_memory` up to date."""

    def stop(self) -> None:
        """End the process; `result` then fails with `CommandStopped` once it has ended.

        Nothing happens when it has ended already.
        """

    def kill(self) -> None:
        """The same, without giving the process time."""


class Runner(Protocol):
    """Runs commands somewhere."""

    @property
    def capabilities(self) -> Capabilities:
        """What the FFmpeg that runs the commands can do."""

    @property
    def running(self) -> Collection[RunningCommand]:
        """The commands under way."""

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> RunningCommand:
        """Start a command with at most `threads` threads; never raises, `result` fails instead."""
