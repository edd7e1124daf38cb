"""Runs commands as child processes of this server."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from twisted.internet.interfaces import IReactorProcess

from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import (
    Command,
    Completed,
    OnProgress,
    Workspace,
)
from vidproc.ffmpeg.program_files import find_program_files
from vidproc.ffmpeg.sandbox import Sandbox
from vidproc.runners.admission import Admission, Place, memory_budget
from vidproc.runners.ffmpeg_process import PROGRESS_FD, READY_FD, MediaProcess
from vidproc.runners.forking import ForkServer

_ADDRESSES = 1 << 30
_ADDRESSES_PER_CORE = 576 << 20
"""Bytes of address space that a program takes in addition to the memory that it uses. Measured
on two cores: at most 1.6 GB, with SVT-AV1."""
_MAX_ALLOC = 1 << 30

_FFMPEG_FLAGS = (
    "-hide_banner",
    "-nostdin",
    "-nostats",
    "-y",
    "-loglevel",
    "level+info",
    "-max_alloc",
    str(_MAX_ALLOC),
    "-progress",
    f"pipe:{PROGRESS_FD}",
)


class LocalRunner:
    """Runs commands as child processes of this server, each in a sandbox.

    With a `fork_server`, probes are its children.
    """

    def __init__(
        self,
        reactor: IReactorProcess,
        ffmpeg: FFmpeg,
        sandbox: Sandbox,
        path_of_key: Callable[[str], Path],
        stall_timeout: float = 300.0,
        now: Callable[[], float] = time.monotonic,
        budget: int | None = None,
        fork_server: ForkServer | None = None,
    ) -> None:
        self._reactor = reactor
        self._admission = Admission(memory_budget() if budget is None else budget)
        self._now = now
        self._ffmpeg = ffmpeg
        find_program_files(ffmpeg.path)  # now, because it blocks the first time
        self._sandbox = sandbox
        self._path_of_key = path_of_key
        self._stall_timeout = stall_timeout
        self._fork_server = fork_server
        self.running: set[MediaProcess] = set()

    def with_limits(self, file_size: int, cpu_time: int) -> LocalRunner:
        """Return this runner with other limits for a file's size and the CPU time.

        Both have the same memory to give away, and the same commands in progress.
        """
        limited = copy.copy(self)
        limited._sandbox = replace(self._sandbox, file_size=file_size, cpu_time=cpu_time)
        return limited

    @property
    def capabilities(self) -> FFmpeg:
        """The capabilities of the FFmpeg that it runs."""
        return self._ffmpeg

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> MediaProcess:
        """Start a command in a child process once there is enough memory for it."""
        threads = max(1, min(threads, math.ceil(command.cpus)))
        running = MediaProcess(
            self._reactor, self._now, command, threads, on_progress, self._stall_timeout
        )
        running.request_id = workspace.request_id

        def path_of(name: str) -> str:
            return str(self._path_of_key(workspace.key_of(name)))

        argv = command.resolve(path_of, threads)
        cwd = str(self._path_of_key(workspace.folder_key))
        reads = [path_of(name) for name in command.inputs]
        writes = {path_of(name): path_of(name) for name in command.outputs}
        for name in command.writes:
            writes[path_of(name)] += command.written_as
        most = self._sandbox.file_size
        if workspace.space is not None:
            most = min(most, max(1, workspace.space // max(1, len(writes))))
        sandbox = replace(
            self._sandbox,
            address_space=self._address_space(command),
            file_size=most,
            ready=READY_FD,
        )
        launch = self._launch(sandbox, command, argv, reads, cwd, [*writes.values()])
        fork_server = self._fork_server if command.program == "probe" else None
        place = Place(command.memory, lambda: running.spawn(launch, fork_server))
        self.running.add(running)

        def ended() -> None:
            self.running.discard(running)
            self._admission.leave(place)

        def rename(completed: Completed) -> Completed:
            for path, written in writes.items():
                with suppress(FileNotFoundError):  # where nothing held it, the program did
                    Path(written).replace(path)
            return completed

        if command.written_as:
            running.result.addCallback(rename)
        running.when_ended(ended)
        self._admission.enter(place)
        return running

    def release(self, workspace: Workspace) -> None:
        """Do nothing: all files are where they belong."""

    def _address_space(self, command: Command) -> int:
        """Return the bytes of address space that a command may use.

        That is more than the memory that it needs: the C library reserves an address range for each
        of up to eight arenas per core, and each thread has a stack.
        """
        wanted = 2 * command.memory + _ADDRESSES + _ADDRESSES_PER_CORE * (os.cpu_count() or 1)
        return min(self._sandbox.address_space, wanted)

    def _launch(
        self,
        sandbox: Sandbox,
        command: Command,
        argv: list[str],
        reads: list[str],
        folder: str,
        writes: list[str],
    ) -> list[str]:
        if command.program == "ffmpeg":
            return sandbox.wrap(ffmpeg_argv(self._ffmpeg, command, argv), reads, folder, writes)
        from vidproc.ffmpeg.grain import GRAIN_CHILD
        from vidproc.ffmpeg.probe import PROBE_CHILD, PROBE_PACKAGE
        from vidproc.ffmpeg.survey import SURVEY_CHILD

        if command.program == "grain":
            return sandbox.wrap_script([GRAIN_CHILD, *argv], reads, writes=writes)
        script = PROBE_CHILD if command.program == "probe" else SURVEY_CHILD
        return sandbox.wrap_script([script, *argv], reads, PROBE_PACKAGE)


def ffmpeg_argv(
    ffmpeg: FFmpeg,
    command: Command,
    arguments: Sequence[str],
    flags: Sequence[str] = _FFMPEG_FLAGS,
) -> list[str]:
    """Return the argv that runs a command with `ffmpeg`; its `arguments` are resolved."""
    argv = [ffmpeg.path, *flags]
    for before, after in zip(command.arguments, arguments, strict=True):
        if after == "-i" and ffmpeg.crops:
            # The operations crop, because not every FFmpeg can.
            argv += ("-apply_cropping", "codec")
        # The file: prefix keeps FFmpeg from interpreting a path with a colon as a protocol.
        name = before.startswith("vidproc-") and after.startswith("/")
        argv.append(f"file:{after}" if name else after)
    return argv
