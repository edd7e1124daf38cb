"""A runner like a cluster's: it knows only what a command declares, and checks that the command
uses no more than that."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from support.blocking import private_reactor
from support.job import local_runner, path_of_key
from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import SOURCE, Command, Completed, OnProgress, Workspace
from vidproc.runners.interface import RunningCommand

MEASURE_EVERY = 0.05
"""Seconds between measurements of a command."""


class TravellingRunner:
    """Runs each command in an empty folder under another path, with another number of threads.

    Exactly the declared inputs are copied there (of the source, only the bytes that the command
    says it reads), and exactly the declared outputs are copied back. A command fails with
    `AssertionError` if it used more memory or cores than it declares. `cores` are those that it
    says its cluster has.
    """

    def __init__(
        self,
        threads: int = 3,
        path_of: Callable[[str], Path] = path_of_key,
        *,
        cores: int = 0,
    ) -> None:
        self._cores = cores
        self._threads = threads
        self._path_of = path_of
        self._local = local_runner()
        self.running: set[RunningCommand] = set()
        self.journeys = 0

    @property
    def capabilities(self) -> FFmpeg:
        """The capabilities of its FFmpeg."""
        return replace(self._local.capabilities, spare_cores=self._cores)

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> RunningCommand:
        """Run a command elsewhere and copy its outputs back."""
        self.journeys += 1
        away = Path(tempfile.mkdtemp(prefix=f"journey-{self.journeys}-")).resolve()
        there = Workspace(f"{away}/task-input".lstrip("/"), f"{away}/folder".lstrip("/"))
        path_of_key(there.folder_key).mkdir()
        for name in command.inputs:
            ranges = command.part.ranges if name == SOURCE and command.part is not None else None
            copy_ranges(
                self._path_of(workspace.key_of(name)), path_of_key(there.key_of(name)), ranges
            )
        running = self._local.start(command, there, self._threads, on_progress)
        self.running.add(running)
        measuring = LoopingCall(running.measure)
        measuring.clock = private_reactor()
        measuring.start(MEASURE_EVERY)

        def bring_home(done: Completed) -> Completed:
            check_declared(command, running, done.elapsed)
            for name in command.outputs:
                assert name != SOURCE
                shutil.copyfile(
                    path_of_key(there.key_of(name)), self._path_of(workspace.key_of(name))
                )
            return done

        def leave(result: object) -> object:
            measuring.stop()
            self.running.discard(running)
            shutil.rmtree(away)
            return result

        running.result.addCallback(bring_home)
        running.result.addBoth(leave)
        assert isinstance(running.result, Deferred)
        return running

    def release(self, workspace: Workspace) -> None:
        """Do nothing: nothing is kept between commands."""


def copy_ranges(
    source: Path, target: Path, ranges: Sequence[tuple[int, int]] | None = None
) -> None:
    """Copy a file, or only the bytes (offset, end) of `ranges`: the rest are zeros."""
    if ranges is None:
        shutil.copyfile(source, target)
        return
    with source.open("rb") as whole, target.open("wb") as part:
        part.truncate(source.stat().st_size)
        for start, end in ranges:
            whole.seek(start)
            part.seek(start)
            part.write(whole.read(end - start))


def check_declared(command: Command, running: RunningCommand, elapsed: float) -> None:
    """Raise `AssertionError` if a command was seen to use more than it declares."""
    if running.peak_memory > command.memory:
        raise AssertionError(
            f"{command.stage}: {running.peak_memory >> 20} MiB, declared {command.memory >> 20}"
        )
    # With some tolerance, because the two figures are not of exactly the same moment.
    if running.cpu_time > 1.1 * elapsed * math.ceil(command.cpus) + 0.2:
        raise AssertionError(
            f"{command.stage}: {running.cpu_time:.1f} s of CPU time in {elapsed:.1f} s, declared"
            f" {command.cpus:g} cores"
        )
