"""A job on the real runner and sandbox that waits for each command."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from support.blocking import private_reactor, wait_for
from vidproc.ffmpeg.binary import FFmpeg, find_ffmpeg
from vidproc.ffmpeg.command import SOURCE, Command, Completed, Workspace
from vidproc.ffmpeg.media import MediaInfo
from vidproc.ffmpeg.probe import parse_probe, probe_command
from vidproc.ffmpeg.sandbox import Sandbox, find_layers
from vidproc.operations.base import Operation, Product
from vidproc.runners.forking import ForkServer, probe_fork_server
from vidproc.runners.interface import Runner
from vidproc.runners.local import LocalRunner
from vidproc.tasks.command_group import CommandGroup

R = TypeVar("R")


@cache
def bundled_ffmpeg() -> FFmpeg:
    """Return the bundled FFmpeg and its capabilities."""
    return find_ffmpeg()


@cache
def sandbox() -> Sandbox:
    """Return the server's sandbox, with all layers that this machine supports."""
    return Sandbox(address_space=16 << 30, file_size=16 << 30, layers=find_layers("auto"))


def path_of_key(key: str) -> Path:
    """Return the path of a key: here, keys are absolute paths without the first slash."""
    return Path("/", key)


def key_of_path(path: Path) -> str:
    """Return the key of a path."""
    return str(path.absolute()).lstrip("/")


@cache
def fork_server() -> ForkServer | None:
    """Return this process's fork server, which ends with it. Probes are its children, as they are
    in a server; executed, each would take 0.2 s of CPU time to import PyAV."""
    server = probe_fork_server(private_reactor(), sandbox().layers)
    if server is not None:
        server.start()
    return server


def local_runner(
    ffmpeg: FFmpeg | None = None, path_of: Callable[[str], Path] = path_of_key
) -> LocalRunner:
    """Return a runner on the reactor that `wait_for` runs."""
    return LocalRunner(
        private_reactor(),
        ffmpeg or bundled_ffmpeg(),
        sandbox(),
        path_of,
        fork_server=fork_server(),
    )


def run_probe(path: Path, *, verify: bool = False, runner: Runner | None = None) -> bytes:
    """Return the output of the service's own probe for a file.

    Without a `runner`, each file is probed only once in this process, unless it changes.
    """
    if runner is not None:
        return _run_probe(path, verify, runner)
    status = path.stat()
    version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _probe_once(path.absolute(), verify, version)


@lru_cache(maxsize=1000)
def _probe_once(path: Path, verify: bool, version: tuple[int, ...]) -> bytes:
    return _run_probe(path, verify, None)


def _run_probe(path: Path, verify: bool, runner: Runner | None) -> bytes:
    workspace = Workspace(key_of_path(path), key_of_path(path.absolute().parent))
    running = (runner or local_runner()).start(
        probe_command(verify=verify), workspace, 1, lambda _: None
    )
    return wait_for(running.result).stdout


def probe(path: Path, *, verify: bool = False, runner: Runner | None = None) -> MediaInfo:
    """Return what the service's own probe finds in a file. Raises as `parse_probe` does."""
    return parse_probe(run_probe(path, verify=verify, runner=runner), path.stat().st_size)


class RealJob:
    """An operation's job: a file, a folder, and commands that really run.

    `commands` are the commands that ran, and `times` how long each took, in seconds. If several
    ran together, the first has the time of all. With `cpu_clock` this is CPU time divided by the
    number of threads, for a machine that is busy with other things.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        parameters: Any,
        *,
        ffmpeg: FFmpeg | None = None,
        capabilities: Any = None,
        media: MediaInfo | None = None,
        threads: int = 2,
        cpu_clock: bool = False,
        runner: Runner | None = None,
    ) -> None:
        self.runner: Runner = runner or local_runner(ffmpeg)
        self.media = probe(source, runner=runner) if media is None else media
        self.parameters = parameters
        self.capabilities: Any = capabilities or self.runner.capabilities
        self.threads = threads
        self.warnings: list[str] = []
        self.commands: list[Command] = []
        self.times: list[float] = []
        self._source = source.absolute()
        self._folder = folder.absolute()
        self._cpu_clock = cpu_clock

    async def run(self, command: Command) -> Completed:
        """Run a command and wait for its end. Raises `CommandFailed`."""
        return (await self.run_together([command]))[0]

    async def run_together(self, commands: Sequence[Command]) -> list[Completed]:
        """Run commands at once, as the server does."""
        workspace = Workspace(key_of_path(self._source), key_of_path(self._folder))
        for command in commands:
            self.commands.append(command)
            for name, contents in command.files:
                self.path_of(name).write_bytes(contents)
        start = self._now()
        group = CommandGroup(self.runner, commands, workspace, self.threads, lambda _: None)
        done = wait_for(Deferred.fromCoroutine(group.run()))
        self.times += [self._now() - start, *(0.0 for _ in commands[1:])]
        return done

    def _now(self) -> float:
        if not self._cpu_clock:
            return time.monotonic()
        used = os.times()
        return (used.children_user + used.children_system) / self.threads

    def warn(self, sentence: str) -> None:
        """Store the sentence."""
        self.warnings.append(sentence)

    def path_of(self, name: str) -> Path:
        """Return the path of a command's file."""
        return self._source if name == SOURCE else self._folder / name

    def size_of(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self.path_of(name).stat().st_size

    async def examine(self, name: str, function: Callable[[bytes], R]) -> R:
        """Return the result of `function` on a file."""
        return function(self.path_of(name).read_bytes())


def run_operation(operation: Operation[Any], job: Any) -> Product:
    """Run an operation's coroutine to its end. Each await in it must finish at once."""
    coroutine = operation.run(job)
    try:
        coroutine.send(None)
    except StopIteration as done:
        product: Product = done.value
        return product
    raise RuntimeError("the operation waited for something that is not a command")
