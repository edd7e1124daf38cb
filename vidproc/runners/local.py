"""Runs commands as child processes of this server."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import (
    Command,
    CommandFailed,
    CommandStopped,
    Completed,
    FailureKind,
    OnProgress,
    Workspace,
)
from vidproc.ffmpeg.program_files import find_program_files
from vidproc.ffmpeg.progress import ProgressParser
from vidproc.ffmpeg.sandbox import Sandbox
from vidproc.runners.admission import Admission, Place, memory_budget
from vidproc.runners.failures import is_shortage, kind_of_end, name_of_signal, oom_kills
from vidproc.runners.watchdog import Watchdog
from vidproc.topics import Topic, TopicLogger

TERMINATE_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
GIVE_UP = 10.0
"""Seconds after SIGKILL until a process that can't be reaped (stuck in the kernel) is given up."""
STALL_CHECK = 10.0
"""Seconds between two looks of the watchdog, at most."""
_ADDRESSES = 1 << 30
_ADDRESSES_PER_CORE = 576 << 20
"""Bytes of addresses that a program takes besides the memory that it uses. Measured on two cores:
1.6 GB at most, with SVT-AV1."""
_DESCRIPTORS = 12
"""Descriptors that starting a process takes: two for each pipe, and some for the child itself,
which can't tell us what it lacks."""

_STDERR_TAIL = 16 << 10
_PROGRESS_FD = 3
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
    f"pipe:{_PROGRESS_FD}",
)


class LocalRunner:
    """Runs commands as child processes of this server, each in a sandbox."""

    def __init__(
        self,
        reactor: IReactorProcess,
        ffmpeg: FFmpeg,
        sandbox: Sandbox,
        path_of_key: Callable[[str], Path],
        stall_timeout: float = 300.0,
        now: Callable[[], float] = time.monotonic,
        budget: int | None = None,
    ) -> None:
        self._reactor = reactor
        self._admission = Admission(memory_budget() if budget is None else budget)
        self._now = now
        self._ffmpeg = ffmpeg
        find_program_files(ffmpeg.path)  # now, for it blocks the first time
        self._sandbox = sandbox
        self._path_of_key = path_of_key
        self._stall_timeout = stall_timeout
        self.running: set[LocalCommand] = set()

    @property
    def capabilities(self) -> FFmpeg:
        """What the FFmpeg that it runs can do."""
        return self._ffmpeg

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> LocalCommand:
        """Start a command in a child process of its own, once there is memory for it."""
        threads = max(1, min(threads, math.ceil(command.cpus)))
        running = LocalCommand(
            self._reactor, self._now, command, threads, on_progress, self._stall_timeout
        )
        argv = command.resolve(lambda name: str(self._path_of_key(workspace.key_of(name))), threads)
        cwd = str(self._path_of_key(workspace.folder_key))
        reads = [str(self._path_of_key(workspace.key_of(name))) for name in command.inputs]
        most = self._sandbox.file_size
        sandbox = replace(
            self._sandbox,
            address_space=self._address_space(command),
            file_size=most if workspace.space is None else min(most, workspace.space),
        )
        launch = self._launch(sandbox, command, argv, reads, cwd)
        place = Place(command.memory, lambda: running.spawn(launch, cwd))
        self.running.add(running)

        def ended() -> None:
            self.running.discard(running)
            self._admission.leave(place)

        running.when_ended(ended)
        self._admission.enter(place)
        return running

    def _address_space(self, command: Command) -> int:
        """Return the bytes of addresses that a command may use.

        They are more than the memory that it needs: the C library sets a range aside for each
        of up to eight arenas a core, and each thread has a stack.
        """
        wanted = 2 * command.memory + _ADDRESSES + _ADDRESSES_PER_CORE * (os.cpu_count() or 1)
        return min(self._sandbox.address_space, wanted)

    def _launch(
        self, sandbox: Sandbox, command: Command, argv: list[str], reads: list[str], folder: str
    ) -> list[str]:
        if command.program == "ffmpeg":
            return sandbox.wrap(ffmpeg_argv(self._ffmpeg, command, argv), reads, folder)
        from vidproc.ffmpeg.probe import PROBE_CHILD, PROBE_PACKAGE

        return sandbox.wrap_script([PROBE_CHILD, *argv], reads, PROBE_PACKAGE)


def ffmpeg_argv(
    ffmpeg: FFmpeg,
    command: Command,
    arguments: Sequence[str],
    flags: Sequence[str] = _FFMPEG_FLAGS,
) -> list[str]:
    """Return the argv that runs a command, whose resolved `arguments` are given, with `ffmpeg`."""
    argv = [ffmpeg.path, *flags]
    for before, after in zip(command.arguments, arguments, strict=True):
        if after == "-i" and ffmpeg.crops:
            # The operations do it, for not every FFmpeg can.
            argv += ("-apply_cropping", "codec")
        # The file: prefix keeps FFmpeg from reading a protocol into a path with a colon.
        name = before.startswith("vidproc-") and after.startswith("/")
        argv.append(f"file:{after}" if name else after)
    return argv


class LocalCommand(ProcessProtocol):
    """One child process. Times in seconds, memory in bytes."""

    log = TopicLogger(Topic.MEDIA)

    def __init__(
        self,
        reactor: IReactorProcess,
        now: Callable[[], float],
        command: Command,
        threads: int,
        on_progress: OnProgress,
        stall_timeout: float,
    ) -> None:
        self.command = command
        self.threads = threads
        self.result: Deferred[Completed] = Deferred()
        self.pid: int | None = None
        self.cpu_time = 0.0
        self.peak_memory = 0
        self._reactor = reactor
        self._time = IReactorTime(reactor)
        self._on_progress = on_progress
        self._on_ended: Callable[[], None] = lambda: None
        self._stall_timeout = stall_timeout
        self._now = now
        self._started_at = now()
        self._oom_kills = 0
        self._watchdog = Watchdog(stall_timeout, self._started_at)
        self._progress = ProgressParser()
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._stopping = False
        self._stopped_for: CommandFailed | None = None
        self._timer: IDelayedCall | None = None
        self._next_check: IDelayedCall | None = None
        self._exited = False
        self._over = False

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, just before `result` fires."""
        self._on_ended = callback

    def spawn(self, argv: list[str], cwd: str) -> None:
        """Start the process; a spawn that raises fails `result`."""
        self._started_at = self._now()
        self._oom_kills = oom_kills()
        self._watchdog = Watchdog(self._stall_timeout, self._started_at)
        pipes: dict[int, int | str] = {1: "r", 2: "r"}
        if self.command.program == "ffmpeg":
            pipes[_PROGRESS_FD] = "r"
        try:
            _check_descriptors(_DESCRIPTORS)
            with open(os.devnull, "rb") as devnull:
                # env={} because None inherits, and path because there is no PATH to search.
                process = self._reactor.spawnProcess(
                    self,
                    argv[0],
                    argv,
                    env={},
                    path=cwd,
                    childFDs={0: devnull.fileno(), **pipes},
                )
        except Exception as error:
            reason = f"it could not be started: {error}"
            kind = FailureKind.REFUSED if is_shortage(error) else FailureKind.OURS
            self._finish(CommandFailed(self.command, reason, kind=kind))
            return
        self.pid = process.pid
        self._check_later()

    def stop(self) -> None:
        """End the process group: SIGTERM, a grace, SIGKILL, and in the end giving it up."""
        if self._over or self._stopping:
            return
        self._stopping = True
        if self.pid is None:  # it waits for memory
            self._finish(CommandStopped("stopped on request"))
            return
        self._signal(signal.SIGTERM)
        self._timer = self._time.callLater(TERMINATE_GRACE, self._kill)

    def kill(self) -> None:
        """End the process group at once."""
        self.stop()
        if self._timer is not None and self._timer.active() and not self._over:
            self._timer.cancel()
            self._kill()

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._timer = self._time.callLater(GIVE_UP, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        self.log.error("process {pid} does not end after SIGKILL; gave it up", pid=self.pid)
        self._finish(
            CommandFailed(self.command, "the process could not be ended", kind=FailureKind.OURS)
        )

    def _signal(self, number: int) -> None:
        if self.pid is None:
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # the launcher has not made its group yet
            if self._exited:
                return  # the number may be somebody else's by now
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass  # it has ended; processEnded is on its way

    def measure(self) -> None:
        """Bring `cpu_time` and `peak_memory` up to date."""
        if self.pid is None or self._over:
            return
        try:
            process = psutil.Process(self.pid)
            self.cpu_time = max(self.cpu_time, _cpu_time(process))
            self.peak_memory = max(self.peak_memory, process.memory_info().rss)
        except psutil.Error:
            pass  # it ended between two looks

    def _check_later(self) -> None:
        # Twice within a short timeout at least.
        delay = min(STALL_CHECK, self._stall_timeout / 2)
        self._next_check = self._time.callLater(delay, self._check_alive)

    def _check_alive(self) -> None:
        """Stop the process if it has stalled."""
        now = self._now()
        try:
            self._watchdog.sampled(_cpu_time(psutil.Process(self.pid)), now)
        except psutil.Error:
            pass  # it has ended; processEnded is on its way
        if self._watchdog.stalled(now) and not self._stopping:
            self.log.warn("process {pid} stalled; stopping it", pid=self.pid)
            reason = f"it made no progress for {self._stall_timeout:g} s"
            self._stopped_for = CommandFailed(self.command, reason, kind=FailureKind.STALLED)
            self.stop()
        self._check_later()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == 1:
            room = self.command.capture - len(self._stdout)
            self._stdout += data[: max(0, room)]
        elif childFD == 2:
            self._stderr += data
            del self._stderr[:-_STDERR_TAIL]
        else:
            for progress in self._progress.feed(data):
                self._watchdog.reported(progress, self._now())
                self._on_progress(progress)

    def processExited(self, reason: Failure) -> None:
        # Grandchildren would keep the pipes open, and processEnded away, for as long as they like.
        self._exited = True
        assert self.pid is not None
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # the group is empty, as it must be: a media process starts no others
        self.log.error("process {pid} left processes behind; killed them", pid=self.pid)

    def processEnded(self, reason: Failure) -> None:
        tail = self._stderr.decode(errors="replace")
        if self._stopped_for is not None:
            self._stopped_for.stderr_tail = tail
            self._finish(self._stopped_for)
        elif self._stopping:
            self._finish(CommandStopped("stopped on request"))
        elif reason.check(ProcessDone):
            elapsed = self._now() - self._started_at
            self._finish(
                Completed(bytes(self._stdout), tail, elapsed, self.cpu_time, self.peak_memory)
            )
        else:
            ended: Any = reason.value
            how = (
                f"signal {name_of_signal(ended.signal)}"
                if ended.signal
                else f"exit status {ended.exitCode}"
            )
            kind = kind_of_end(
                ended.exitCode,
                ended.signal,
                tail,
                oom_killed=oom_kills() > self._oom_kills,
            )
            self._finish(CommandFailed(self.command, how, tail, kind=kind))

    def _finish(self, outcome: Completed | Exception) -> None:
        if self._over:
            return
        self._over = True
        for call in (self._timer, self._next_check):
            if call is not None and call.active():
                call.cancel()
        self._on_ended()
        if isinstance(outcome, Completed):
            self.result.callback(outcome)
        else:
            self.result.errback(outcome)


def _cpu_time(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _check_descriptors(count: int) -> None:
    """Raise `OSError` unless so many descriptors can be opened now.

    A child that finds none ends without a word of why.
    """
    opened = []
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for fd in opened:
            os.close(fd)
