"""One process that runs FFmpeg or the probe: starting, measuring, watching and stopping it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from vidproc.ffmpeg.command import (
    Command,
    CommandFailed,
    CommandStopped,
    Completed,
    FailureKind,
    OnProgress,
)
from vidproc.ffmpeg.progress import ProgressParser
from vidproc.ffmpeg.sandbox import job_of
from vidproc.runners.failures import is_shortage, kind_of_end, name_of_signal, oom_kills
from vidproc.runners.forking import ForkedProcess, ForkServer
from vidproc.runners.watchdog import Watchdog
from vidproc.topics import Topic, TopicLogger

TERMINATE_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
GIVE_UP = 10.0
"""Seconds after SIGKILL before giving up on a process that cannot be reaped (stuck in the
kernel)."""
STALL_CHECK = 10.0
"""The longest watchdog interval, in seconds."""
_DESCRIPTORS = 14
"""Descriptors needed to start a process: two per pipe, and some for the child, which cannot
report a lack of them."""

PROGRESS_FD = 3
"""The descriptor where FFmpeg writes its progress."""
READY_FD = 4
"""The descriptor where the launcher reports that the program starts. The program does not have it,
so its output cannot pass for the launcher's."""
_READY = b"."
_STDERR_TAIL = 16 << 10


class MediaProcess(ProcessProtocol):
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
        self.here = True
        self.result: Deferred[Completed] = Deferred()
        self.pid: int | None = None
        self.request_id: str | None = None
        """The request that it works for, for the log."""
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
        self._ready = b""
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._stopping = False
        self._stopped_for: CommandFailed | None = None
        self._timer: IDelayedCall | None = None
        self._next_check: IDelayedCall | None = None
        self._exited = False
        self._over = False
        self._argv: list[str] = []
        self._forked: ForkedProcess | None = None

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, just before `result` fires."""
        self._on_ended = callback

    def spawn(self, argv: list[str], fork_server: ForkServer | None = None) -> None:
        """Start the process; if that raises, `result` fails.

        With a `fork_server` it is a child of that, if possible.
        """
        self._started_at = self._now()
        self._oom_kills = oom_kills()
        self._watchdog = Watchdog(self._stall_timeout, self._started_at)
        self._argv = argv
        if fork_server is not None:
            self._forked = fork_server.fork(self, job_of(argv))
        if self._forked is not None or self._execute():
            self._check_later()

    def _execute(self) -> bool:
        """Start the process as a child of this one; return whether that was possible."""
        argv = self._argv
        pipes: dict[int, int | str] = {1: "r", 2: "r", READY_FD: "r"}
        if self.command.program == "ffmpeg":
            pipes[PROGRESS_FD] = "r"
        try:
            _check_descriptors(_DESCRIPTORS)
            with open(os.devnull, "rb") as devnull:
                # env={} because None means inherit. Without a path Twisted uses posix_spawn, not
                # fork, which would copy our page tables and take ten times as long.
                process = self._reactor.spawnProcess(
                    self,
                    argv[0],
                    argv,
                    env={},
                    childFDs={0: devnull.fileno(), **pipes},
                )
        except Exception as error:
            reason = f"it could not be started: {error}"
            kind = FailureKind.REFUSED if is_shortage(error) else FailureKind.OURS
            self._finish(CommandFailed(self.command, reason, kind=kind))
            return False
        self.pid = process.pid
        return True

    def stop(self) -> None:
        """Stop the process group: SIGTERM, then SIGKILL after a while, and finally give up on
        it."""
        if self._over or self._stopping:
            return
        self._stopping = True
        if self.pid is None and self._forked is None:  # it is waiting for memory
            self._finish(CommandStopped("stopped on request"))
            return
        self._signal(signal.SIGTERM)
        self._timer = self._time.callLater(TERMINATE_GRACE, self._kill)

    def kill(self) -> None:
        """Kill the process group at once."""
        self.stop()
        if self._timer is not None and self._timer.active() and not self._over:
            self._timer.cancel()
            self._kill()

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._timer = self._time.callLater(GIVE_UP, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        if self._forked is not None:
            self._forked.give_up()
        self.log.error(
            "process {pid} does not end after SIGKILL; gave it up",
            pid=self.pid,
            request_id=self.request_id,
        )
        self._finish(
            CommandFailed(self.command, "the process could not be ended", kind=FailureKind.OURS)
        )

    def _signal(self, number: int) -> None:
        if self._forked is not None:
            self._forked.signal(number)  # it has no group: it could start no process
            return
        if self.pid is None:
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # the launcher has not created its group yet
            if self._exited:
                return  # the number may belong to another process by now
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
            if self._ready:
                # Before that it is the launcher's.
                self.peak_memory = max(self.peak_memory, process.memory_info().rss)
        except psutil.Error:
            pass  # it ended between two measurements

    def _check_later(self) -> None:
        # At least twice within a short timeout.
        delay = min(STALL_CHECK, self._stall_timeout / 2)
        self._next_check = self._time.callLater(delay, self._check_alive)

    def _check_alive(self) -> None:
        """Stop the process if it has stalled."""
        now = self._now()
        try:
            if self.pid is not None:
                self._watchdog.sampled(_cpu_time(psutil.Process(self.pid)), now)
        except psutil.Error:
            pass  # it has ended; processEnded is on its way
        if self._watchdog.stalled(now) and not self._stopping:
            self.log.warn(
                "process {pid} stalled; stopping it", pid=self.pid, request_id=self.request_id
            )
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
        elif childFD == READY_FD:
            self._ready += data
        else:
            for progress in self._progress.feed(data):
                self._watchdog.reported(progress, self._now())
                self._on_progress(progress)

    def childForked(self, pid: int) -> None:
        self.pid = pid

    def childReady(self, word: bytes) -> None:
        self._ready += word

    def childEnding(self) -> float:
        self.measure()
        return self.cpu_time

    def childLost(self) -> None:
        """Do it as if there were no fork server: the probe has changed nothing."""
        self._forked = self.pid = None
        self._ready = b""
        self._stdout.clear()
        self._stderr.clear()
        if self._stopping:
            self._finish(self._stopped_for or CommandStopped("stopped on request"))
        elif not self._over:
            self._execute()

    def processExited(self, reason: Failure) -> None:
        # Grandchildren would keep the pipes open, and so delay processEnded, for as long as they
        # like.
        self._exited = True
        assert self.pid is not None
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # the group is empty, as it should be: media processes start no others
        self.log.error(
            "process {pid} left processes behind; killed them",
            pid=self.pid,
            request_id=self.request_id,
        )

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
                ran=self._ready == _READY,
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
    """Raise `OSError` unless this many descriptors can be opened now.

    A child process that gets none ends without saying why.
    """
    opened = []
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for fd in opened:
            os.close(fd)
