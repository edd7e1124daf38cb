"""twistd whose tasks never end and report progress once a second, for the benchmarks.

    python benchmarks/steady_tasks.py PROBED [--flood] -n vidproc ...

PROBED is a file with the output of the probe for every input. FFmpeg is not run, so that all CPU
time is the service's. With --flood, uploads are not slowed down for FFmpeg.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.scripts.twistd import run

from vidproc.app import cpu_reserve, service
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import (
    Command,
    CommandStopped,
    Completed,
    Progress,
    Workspace,
)
from vidproc.runners.interface import Runner, RunningCommand

STEP = 0.01
"""Seconds of output by which a task's progress grows each second."""


class SteadyCommand:
    """A command that probes at once, or encodes forever."""

    peak_memory = 0
    cpu_time = 0.0
    here = True

    def __init__(
        self, runner: SteadyRunner, command: Command, threads: int, report: Callable[..., None]
    ) -> None:
        self.command = command
        self.threads = threads
        self.result: Deferred[Completed] = Deferred()
        self._runner = runner
        self._report = report
        self._written = 0.0
        self._loop = LoopingCall(self._go_on)
        self._loop.clock = runner.reactor

    def begin(self) -> None:
        """Probe, or start reporting."""
        if self.command.program == "ffmpeg":
            self._loop.start(1.0, now=False)
        else:
            self._end(Completed(self._runner.probed, "", 0.0))

    def _go_on(self) -> None:
        self._written += STEP
        self._report(Progress(self._written, None, 1.0))

    def _end(self, outcome: Completed | CommandStopped) -> None:
        if self._loop.running:
            self._loop.stop()
        if self in self._runner.running:
            self._runner.running.remove(self)
            if isinstance(outcome, Completed):
                self.result.callback(outcome)
            else:
                self.result.errback(outcome)

    def stop(self) -> None:
        """End it."""
        self._end(CommandStopped("stopped on request"))

    kill = stop

    def measure(self) -> None:
        """Do nothing: it uses no CPU time."""


class SteadyRunner:
    """Implements `Runner` without running processes."""

    probed = b""

    def __init__(self, reactor: Any, ffmpeg: Any, *_: Any, **__: Any) -> None:
        self.reactor = reactor
        self.capabilities: Capabilities = ffmpeg
        self.running: list[RunningCommand] = []

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: Any
    ) -> SteadyCommand:
        """Start a command."""
        running = SteadyCommand(self, command, threads, on_progress)
        self.running.append(running)
        self.reactor.callLater(0, running.begin)
        return running

    def release(self, workspace: Workspace) -> None:
        """Do nothing: there are no files."""


STEADY_RUNNER: type[Runner] = SteadyRunner
"""So that mypy compares the two."""


async def leave_uploads_alone(_: cpu_reserve.CpuReserve) -> None:
    """Replaces the check that reserves CPU time for FFmpeg."""


if __name__ == "__main__":
    SteadyRunner.probed = Path(sys.argv.pop(1)).read_bytes()
    vars(service)["LocalRunner"] = STEADY_RUNNER
    if sys.argv[1] == "--flood":
        del sys.argv[1]
        setattr(cpu_reserve.CpuReserve, "check", leave_uploads_alone)  # noqa: B010 - mypy
    sys.exit(run())
