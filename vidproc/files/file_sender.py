"""Sending a file to a transport: threads read the next chunk while the last one is being sent."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.files.threads import WorkerThreads

CHUNK = 512 << 10
"""Bytes that a `FileSender` reads at a time."""


class TransferStopped(Exception):
    """A transfer ended early because the other side disconnected."""


@implementer(IPushProducer)
class FileSender:
    """Sends bytes `start` to `end` of the open file `fd` to a transport.

    `result` fires with None when the last byte has been handed to the transport, or fails with the
    `OSError` of a read or with `TransferStopped`. The next chunk is read while the last one is
    being sent.
    """

    def __init__(
        self,
        threads: WorkerThreads,
        fd: int,
        start: int,
        end: int,
        transport: ITransport,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.result: Deferred[None] = Deferred()
        self.blocked = False
        """Always False: the transport tells its own producer that the client does not read."""
        self._threads = threads
        self._fd = fd
        self._position = start
        self._end = end
        self._transport = transport
        self._on_progress = on_progress
        self._paused = False
        self._reading = False
        self._ready: bytes | None = None
        self._over = False
        self._outcome: BaseException | None = None

    def start(self) -> None:
        """Start; call it once."""
        if self._position >= self._end:
            self._finish(None)
        else:
            self._read()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._ready is not None and not self._over:
            data, self._ready = self._ready, None
            self._send(data)

    def stopProducing(self) -> None:
        self._finish(TransferStopped("the connection was lost"))

    def _read(self) -> None:
        size = min(CHUNK, self._end - self._position)
        self._reading = True
        reading = self._threads.call(os.pread, self._fd, size, self._position)
        reading.addCallbacks(self._got, self._read_failed)

    def _got(self, data: bytes) -> None:
        self._reading = False
        if self._over:
            self._fire()
        elif not data:
            self._finish(OSError("the file is shorter than it was"))
        else:
            self._position += len(data)
            if self._paused:
                self._ready = data
            else:
                self._send(data)

    def _read_failed(self, failure: Failure) -> None:
        self._reading = False
        if self._over:
            self._fire()
        else:
            self._finish(failure.value or OSError("reading failed"))

    def _send(self, data: bytes) -> None:
        self._on_progress(len(data))
        self._transport.write(data)
        if self._position >= self._end:
            self._finish(None)
        elif not self._over:
            self._read()

    def _finish(self, outcome: BaseException | None) -> None:
        if not self._over:
            self._over = True
            self._ready = None
            self._outcome = outcome
            if not self._reading:
                self._fire()

    def _fire(self) -> None:
        # Only when no thread is reading: the owner closes the descriptor next.
        if self._outcome is None:
            self.result.callback(None)
        else:
            self.result.errback(self._outcome)
