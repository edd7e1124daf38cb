"""A job that really runs FFmpeg, at once and without a reactor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.media_harness import kind_of
from vidproc.ffmpeg.binary import FFmpeg, find_ffmpeg
from vidproc.ffmpeg.command import SOURCE, Command, CommandFailed, Completed
from vidproc.ffmpeg.media import MediaInfo
from vidproc.ffmpeg.probe import PROBE_CHILD, parse_probe, probe_command
from vidproc.operations.base import Operation, Product
from vidproc.runners.local import ffmpeg_argv


class LocalJob:
    """Runs each command as a child process and waits for it. Not for use beside a reactor.

    With `cpu_clock` a command's time is its CPU time over the threads, for a machine that is busy
    with other things.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        parameters: Any,
        *,
        ffmpeg: FFmpeg | None = None,
        media: MediaInfo | None = None,
        threads: int = 2,
        cpu_clock: bool = False,
    ) -> None:
        self.media = probe(source) if media is None else media
        self.parameters = parameters
        self.ffmpeg = ffmpeg or find_ffmpeg()
        self.capabilities: Any = self.ffmpeg
        self.commands: list[tuple[Command, float]] = []
        self.warnings: list[str] = []
        self._source = source.absolute()
        self._folder = folder
        self.threads = threads
        self._cpu_clock = cpu_clock

    async def run_together(self, commands: Sequence[Command]) -> list[Completed]:
        """Run commands at once; the first one's time is that of all of them."""
        before, start = len(self.commands), self._now()
        with ThreadPoolExecutor(len(commands)) as pool:
            done = list(pool.map(self._run, commands))
        elapsed = self._now() - start
        first, *others = commands
        self.commands[before:] = [(first, elapsed), *((command, 0.0) for command in others)]
        return done

    async def run(self, command: Command) -> Completed:
        return self._run(command)

    def _run(self, command: Command) -> Completed:
        for name, contents in command.files:
            self.path_of(name).write_bytes(contents)
        argv = command.resolve(lambda name: str(self.path_of(name)), self.threads)
        flags = ("-hide_banner", "-nostdin", "-nostats", "-y", "-loglevel", "level+info")
        start = self._now()
        done = subprocess.run(
            ffmpeg_argv(self.ffmpeg, command, argv, flags),
            capture_output=True,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
        )
        elapsed = self._now() - start
        self.commands.append((command, elapsed))
        tail = done.stderr.decode(errors="replace")[-4096:]
        if done.returncode != 0:
            raise CommandFailed(command, f"exit status {done.returncode}", tail, kind=kind_of(done))
        return Completed(done.stdout[: command.capture], tail, elapsed)

    def _now(self) -> float:
        if not self._cpu_clock:
            return time.monotonic()
        used = os.times()
        return (used.children_user + used.children_system) / self.threads

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def path_of(self, name: str) -> Path:
        return self._source if name == SOURCE else self._folder / name

    def size_of(self, name: str) -> int:
        return self.path_of(name).stat().st_size

    def read(self, name: str) -> bytes:
        return self.path_of(name).read_bytes()


def run_operation(operation: Operation[Any], job: Any) -> Product:
    """Drive an operation's coroutine to its end; every await in it must finish at once."""
    coroutine = operation.run(job)
    try:
        coroutine.send(None)
    except StopIteration as done:
        product: Product = done.value
        return product
    raise RuntimeError("the operation waited for something that is no command")


def probe(path: Path) -> MediaInfo:
    """Return what the service's own probe finds in a file."""
    command = probe_command()
    argv = command.resolve(lambda name: str(path.absolute()), 1)
    done = subprocess.run(
        [sys.executable, "-I", "-B", PROBE_CHILD, *argv], capture_output=True, check=True
    )
    return parse_probe(done.stdout, path.stat().st_size)
