"""Sending files to plain TCP connections without copying.

`make_sender` chooses `SendfileSender` if the kernel can send the file itself, otherwise the
portable `FileSender` (TLS, wrapped and in-memory transports, other systems). Both pass the same
tests.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from typing import TypeGuard

from twisted.internet.interfaces import IProducer, IPullProducer, ITransport
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.files.file_sender import FileSender
from vidproc.files.sender import Sender
from vidproc.files.threads import WorkerThreads
from vidproc.files.turns import PATIENCE, TURN_TIME, UNABLE

_SEND_STEP = 2 << 20


def can_sendfile(transport: ITransport) -> TypeGuard[Connection]:
    """Whether the kernel can send a file directly to this transport's socket."""
    return (
        hasattr(os, "sendfile")
        and hasattr(select, "poll")
        and isinstance(transport, Connection)
        and not transport.TLS
    )


def make_sender(
    threads: WorkerThreads,
    fd: int,
    start: int,
    end: int,
    transport: ITransport,
    on_progress: Callable[[int], None] = lambda _: None,
) -> FileSender | SendfileSender:
    """Return the fastest sender of bytes `start` to `end` of the open file `fd` to `transport`."""
    if can_sendfile(transport):
        return SendfileSender(threads, fd, start, end, transport, on_progress)
    return FileSender(threads, fd, start, end, transport, on_progress)


class SendfileSender(Sender[Connection]):
    """Sends with sendfile(2), after the transport's pending bytes.

    The call runs in a thread because it reads the disk. When the client's window is full, the
    thread is released and the reactor waits. Meanwhile this is the transport's producer; the
    previous producer is restored afterwards. `on_progress` gets the bytes that the kernel accepted.
    """

    def __init__(
        self,
        threads: WorkerThreads,
        fd: int,
        start: int,
        end: int,
        transport: Connection,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__(threads, fd, start, end, transport, on_progress)
        self._started = False
        self._waiting = False
        self._socket: int | None = None
        self._former: tuple[IProducer, bool] | None = None
        self._producer = _WhenWritable(self)
        self._fallback: FileSender | None = None

    def start(self) -> None:
        self._started = True
        if self._position >= self._end:
            self._finish(None)
        elif not self._paused:
            self._take_transport()

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._fallback is not None:
            self._fallback.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._fallback is not None:
            self._fallback.resumeProducing()
        elif self._started and not self._over and not self._in_thread and not self._waiting:
            if self._socket is None:
                self._take_transport()
            else:
                self._begin_turn()

    def stopProducing(self) -> None:
        if self._fallback is not None:
            self._fallback.stopProducing()
        else:
            super().stopProducing()

    def _take_transport(self) -> None:
        # A duplicate: the transport may close its descriptor while the thread is working.
        self._socket = os.dup(self._transport.fileno())
        self._cork(True)
        if self._transport.producer is not None:
            self._former = (self._transport.producer, self._transport.streamingProducer)
        self._transport.unregisterProducer()
        # A pull producer is asked when everything has been sent, and then whenever there is space.
        self._transport.registerProducer(self._producer, False)
        self._wait_for_room()

    def _give_transport_back(self) -> None:
        if self._socket is not None:
            self._cork(False)
            os.close(self._socket)
            self._socket = None
            if self._transport.producer is self._producer:
                self._transport.unregisterProducer()
                if self._former is not None and self._transport.connected:
                    self._transport.registerProducer(*self._former)

    def _cork(self, corked: bool) -> None:
        """Send only full segments: each segment that arrives wakes the client up."""
        if hasattr(socket, "TCP_CORK") and self._transport.connected:
            handle = self._transport.getHandle()
            try:
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, corked)
            except OSError:
                pass  # not TCP (a UNIX socket), or already gone

    def _wait_for_room(self) -> None:
        self._waiting = True
        self._transport.startWriting()

    def writable(self) -> None:
        """The transport has sent everything, and the socket is writable."""
        if self._waiting and not self._over:
            self._waiting = self.blocked = False
            if not self._paused:
                self._begin_turn()

    def _begin_turn(self) -> None:
        self._in_thread = True
        turn = self._threads.call(self._send_in_thread)
        turn.addCallbacks(self._turn_over, self._turn_failed)

    def _turn_over(self, turn: tuple[int, bool]) -> None:
        sent, full = turn
        self._in_thread = False
        self._position += sent
        if sent:
            self._on_progress(sent)
        if self._over:
            self._fire()
        elif self._position >= self._end:
            self._finish(None)
        elif full:
            self.blocked = True
            self._wait_for_room()
        elif not self._paused:
            self._begin_turn()

    def _turn_failed(self, failure: Failure) -> None:
        error = failure.value
        if not self._over and isinstance(error, ConnectionError):
            # The transport would notice at its next read, unless reading is paused.
            self._in_thread = False
            self.stopProducing()
            self._transport.abortConnection()
        elif not self._over and isinstance(error, OSError) and error.errno in UNABLE:
            self._in_thread = False
            self._fall_back()
        else:
            self._failed(failure)

    def _fall_back(self) -> None:
        """Continue by copying: the file system does not support sendfile."""
        self._give_transport_back()
        self._fallback = FileSender(
            self._threads, self._fd, self._position, self._end, self._transport, self._on_progress
        )
        self._fallback.result.addCallbacks(self.result.callback, self.result.errback)
        if self._paused:
            self._fallback.pauseProducing()
        self._fallback.start()

    def _fire(self) -> None:
        self._give_transport_back()
        super()._fire()

    # In a pool thread, one call at a time:

    def _send_in_thread(self) -> tuple[int, bool]:
        """Send until the turn is over; return the bytes sent and whether the socket is full."""
        assert self._socket is not None
        position = self._position
        deadline = time.monotonic() + TURN_TIME
        room = select.poll()
        room.register(self._socket, select.POLLOUT)
        while position < self._end and not self._over and time.monotonic() < deadline:
            try:
                sent = os.sendfile(
                    self._socket, self._fd, position, min(_SEND_STEP, self._end - position)
                )
            except BlockingIOError:
                if not room.poll(PATIENCE * 1000):
                    return position - self._position, True
                continue
            except OSError:
                if position == self._position:
                    raise
                break  # count what was sent; the next turn gets the error again
            if sent == 0:
                raise OSError("the file is shorter than it was")
            position += sent
        return position - self._position, False


@implementer(IPullProducer)
class _WhenWritable:
    """The producer that a `SendfileSender` registers with its transport."""

    def __init__(self, sender: SendfileSender) -> None:
        self._sender = sender
        self._registered = False

    def resumeProducing(self) -> None:
        # The first call comes from the registration itself, even if bytes are still pending.
        if self._registered:
            self._sender.writable()
        self._registered = True

    def stopProducing(self) -> None:
        self._sender.stopProducing()
