"""The fork server as this process sees it: kept alive, asked for children, replaced.

A probe that is forked takes a few milliseconds to start, one that is executed five times the CPU
time of what it does: Python and PyAV take that long to import. `ForkServer.fork` is never the only
way: it returns None if no child can be had, and a child whose fork server dies is reported as lost;
`vidproc.runners.ffmpeg_process` then executes the probe instead.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet import fdesc
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from vidproc.ffmpeg.fork_server import CONTROL
from vidproc.ffmpeg.probe import PROBE_CHILD, PROBE_PACKAGE
from vidproc.ffmpeg.sandbox import fork_server
from vidproc.reactor import IFullReactor
from vidproc.runners.failures import name_of_signal
from vidproc.topics import Topic, TopicLogger

PATIENCE = 20.0
"""Seconds that a fork server may take to fork, and to report the end of a child that has closed its
pipes, before it is killed."""
MOST_FORKS = 100
"""Children of one fork server. All have the same address layout, about which each file may find
something out."""
_RESTART = 1.0
_LONGEST_RESTART = 60.0
_LONG_LIFE = 60.0
_WORDS = re.compile(rb"([PE])(\d+);|([.!])")


class Parent(Protocol):
    """The owner of a forked child; mostly a `ProcessProtocol`."""

    def childForked(self, pid: int) -> None:
        """The child exists."""

    def childReady(self, word: bytes) -> None:
        """Its launcher says "." or "!", as on the descriptor `ready`."""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """It has written to descriptor 1 or 2."""

    def childEnding(self) -> float:
        """It is a zombie, whose CPU time can still be read: return that, in seconds."""

    def processEnded(self, reason: Failure) -> None:
        """It has ended, and everything it wrote has been delivered."""

    def childLost(self) -> None:
        """It was never forked, or died with its fork server."""


class ForkServer:
    """Keeps one fork server running, from `start` to `stop`; `argv` starts it.

    `stop` returns a Deferred that fires when the process, and with it every child, has ended.
    """

    log = TopicLogger(Topic.MEDIA)

    def __init__(self, reactor: IFullReactor, argv: Callable[[], Sequence[str]]) -> None:
        self._reactor = reactor
        self._argv = argv
        self._process: _Process | None = None
        self._all: set[_Process] = set()
        self._pause = _RESTART
        self._restart: IDelayedCall | None = None
        self._stopping = False
        self._stopped: Deferred[None] | None = None
        self._forks = 0

    @property
    def pid(self) -> int | None:
        """The process that forks now."""
        return self._process.pid if self._process is not None else None

    @property
    def children_cpu(self) -> float:
        """CPU time in seconds of ended children, as far as it is not among the kernel's total of
        this process's own children; it is once their fork server has ended."""
        return sum(process.children_cpu for process in self._all)

    def start(self) -> None:
        """Start the process. It serves at once, though it may take a moment to get ready."""
        self._restart = None
        process = _Process(self._reactor, self._ended)
        try:
            process.spawn(self._argv())
        except OSError as error:
            self.log.warn("the fork server can't be started: {error}", error=str(error))
            self._start_later()
            return
        self._all.add(process)
        self._process = process
        self._forks = 0

    def stop(self) -> Deferred[None]:
        """Kill the process and its children."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        for process in self._all:
            process.kill()
        if not self._all:
            return succeed(None)
        self._stopped = Deferred()
        return self._stopped

    def fork(self, parent: Parent, job: bytes) -> ForkedProcess | None:
        """Have a child forked for a job; None if that is not possible now."""
        if self._process is None or self._stopping:
            return None
        child = self._process.fork(parent, job, self._child_ended)
        self._forks += child is not None
        if self._forks >= MOST_FORKS:
            self._replace()
        return child

    def _child_ended(self, process: _Process, status: int) -> None:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number and number not in (signal.SIGTERM, signal.SIGKILL) and process is self._process:
            self.log.info(
                "a probe ended with {signal}: the fork server is replaced",
                signal=name_of_signal(number),
            )
            self._replace()

    def _replace(self) -> None:
        """Let the process end with its last child, and start another."""
        if self._process is not None:
            self._process.retire()
            self._process = None
        if not self._stopping and self._restart is None:
            self.start()

    def _ended(self, process: _Process, reason: Failure) -> None:
        self._all.discard(process)
        if self._stopping:
            if not self._all and self._stopped is not None:
                self._stopped.callback(None)
            return
        if process is not self._process:
            return  # it was replaced
        self._process = None
        lived = self._reactor.seconds() - process.started_at
        self._pause = _RESTART if lived > _LONG_LIFE else min(_LONGEST_RESTART, self._pause * 2)
        self.log.warn(
            "the fork server has ended ({reason}); starts again in {pause:g} s: {said}",
            reason=reason.getErrorMessage(),
            pause=self._pause,
            said=process.said.decode(errors="replace")[-500:],
        )
        self._start_later()

    def _start_later(self) -> None:
        self._restart = self._reactor.callLater(self._pause, self.start)


def probe_fork_server(reactor: IFullReactor, layers: frozenset[str]) -> ForkServer | None:
    """Return a fork server for probes; None where only executing them is safe.

    Without seccomp a child could start processes, which need a group to be killed by.
    """
    if "seccomp" not in layers or not hasattr(os, "pidfd_open"):
        return None
    return ForkServer(reactor, lambda: fork_server(PROBE_CHILD, PROBE_PACKAGE))


class _Process(ProcessProtocol):
    """One fork server process."""

    def __init__(
        self, reactor: IFullReactor, on_ended: Callable[[_Process, Failure], None]
    ) -> None:
        self._reactor = reactor
        self._on_ended = on_ended
        self.started_at = reactor.seconds()
        self.children_cpu = 0.0
        self.said = b""
        self._control: socket.socket | None = None
        self.pid: int | None = None

    def spawn(self, argv: Sequence[str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs, open(os.devnull, "r+b") as nothing:
            null = nothing.fileno()
            try:
                process = self._reactor.spawnProcess(
                    self,
                    argv[0],
                    list(argv),
                    env={},
                    path="/",
                    childFDs={0: null, 1: null, 2: "r", CONTROL: theirs.fileno()},
                )
            except Exception as error:
                ours.close()
                raise error if isinstance(error, OSError) else OSError(str(error)) from error
        self.pid = process.pid
        self._control = ours

    def retire(self) -> None:
        """Ask for no more children: the process ends with its last one."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def kill(self) -> None:
        """Kill it at once; the kernel then kills its children."""
        self.retire()
        transport: Any = self.transport
        if transport is not None and transport.pid is not None:
            transport.signalProcess("KILL")

    def fork(
        self, parent: Parent, job: bytes, on_ended: Callable[[_Process, int], None]
    ) -> ForkedProcess | None:
        """Ask for a child; None if this process does not take the request."""
        if self._control is None:
            return None
        opened: list[int] = []
        try:
            for _ in range(4):
                opened += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            whole = os.write(opened[1], job) == len(job)
            # What the child uses must block.
            for fd in (opened[0], opened[3], opened[5]):
                os.set_blocking(fd, True)
            if whole:
                theirs = [opened[0], opened[3], opened[5], opened[7]]
                socket.send_fds(self._control, [b"f"], theirs)
        except OSError:
            whole = False
        keep = (opened[2], opened[4], opened[6]) if whole else ()
        for fd in opened:
            if fd not in keep:
                os.close(fd)
        if not whole:
            return None
        return ForkedProcess(self._reactor, parent, self, keep, on_ended)

    def errReceived(self, data: bytes) -> None:
        self.said = (self.said + data)[-4096:]

    def processEnded(self, reason: Failure) -> None:
        self.retire()
        self._on_ended(self, reason)


class ForkedProcess:
    """One child of a fork server. `pid` is None until it has been forked."""

    def __init__(
        self,
        reactor: IFullReactor,
        parent: Parent,
        server: _Process,
        pipes: Sequence[int],
        on_ended: Callable[[_Process, int], None],
    ) -> None:
        self.pid: int | None = None
        self._reactor = reactor
        self._parent = parent
        self._server = server
        self._on_ended = on_ended
        self._words = b""
        self._status: int | None = None
        self._cpu = 0.0
        self._signal: int | None = None
        self._timer: IDelayedCall | None = reactor.callLater(PATIENCE, server.kill)
        output, error, self._status_pipe = (_Pipe(reactor, fd, self._closed) for fd in pipes)
        self._open = {output, error, self._status_pipe}
        output.read(lambda data: parent.childDataReceived(1, data))
        error.read(lambda data: parent.childDataReceived(2, data))
        self._status_pipe.read(self._told)

    def signal(self, number: int) -> None:
        """Send it a signal, at once or as soon as it exists."""
        if self.pid is None:
            self._signal = number
        elif self._status_pipe in self._open and self._status is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass  # its fork server has died, and so it has too

    def give_up(self) -> None:
        """Kill its fork server, since the child does not end."""
        self._server.kill()

    def _told(self, data: bytes) -> None:
        self._words += data
        while (word := _WORDS.match(self._words)) is not None:
            self._words = self._words[word.end() :]
            kind, number, launcher = word.groups()
            if launcher is not None:
                self._parent.childReady(launcher)
            elif kind == b"P":
                self._wait_for_server(None)
                self.pid = int(number)
                self._parent.childForked(self.pid)
                if self._signal is not None:
                    self.signal(self._signal)
            else:
                self._status = int(number)
                self._cpu = self._parent.childEnding()
                self._status_pipe.close()

    def _closed(self, pipe: _Pipe) -> None:
        self._open.discard(pipe)
        if self._open:
            # It has closed its own pipes: its end must be reported soon.
            self._wait_for_server(PATIENCE if self._open == {self._status_pipe} else None)
            return
        self._wait_for_server(None)
        if self._status is None:
            self._parent.childLost()
            return
        self._server.children_cpu += self._cpu
        self._on_ended(self._server, self._status)
        code = os.WEXITSTATUS(self._status) if os.WIFEXITED(self._status) else None
        number = os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else None
        ended = ProcessTerminated(code, number, self._status) if self._status else ProcessDone(0)
        self._parent.processEnded(Failure(ended))

    def _wait_for_server(self, seconds: float | None) -> None:
        """Kill the fork server unless it reports something within so many seconds."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = self._reactor.callLater(seconds, self._server.kill)


class _Pipe(FileDescriptor):
    """The reading end of a pipe."""

    def __init__(self, reactor: IFullReactor, fd: int, on_end: Callable[[_Pipe], None]) -> None:
        super().__init__(reactor)
        self._fd = fd
        self._on_data: Callable[[bytes], None] = lambda data: None
        self._on_end = on_end
        self._done = False

    def read(self, on_data: Callable[[bytes], None]) -> None:
        """Call `on_data` with what comes."""
        self._on_data = on_data
        self.startReading()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Read no more; for use by `on_data`."""
        self._done = True

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> object:
        result = fdesc.readFromFD(self._fd, self._on_data)
        return CONNECTION_DONE if self._done else result

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        os.close(self._fd)
        self._on_end(self)
