"""Sending a file to a transport: threads read the next chunk while the last one is being sent."""

from __future__ import annotations

import os

from twisted.internet.interfaces import ITransport

from vidproc.files.sender import Sender

CHUNK = 512 << 10
"""Bytes that a `FileSender` reads at a time."""


class FileSender(Sender[ITransport]):
    """Reads the next chunk while the transport sends the last one. Works with any transport."""

    _ready: bytes | None = None

    def start(self) -> None:
        if self._position >= self._end:
            self._finish(None)
        else:
            self._read()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._ready is not None and not self._over:
            data, self._ready = self._ready, None
            self._send(data)

    def _read(self) -> None:
        size = min(CHUNK, self._end - self._position)
        self._in_thread = True
        reading = self._threads.call(os.pread, self._fd, size, self._position)
        reading.addCallbacks(self._got, self._failed)

    def _got(self, data: bytes) -> None:
        self._in_thread = False
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

    def _send(self, data: bytes) -> None:
        self._on_progress(len(data))
        self._transport.write(data)
        if self._position >= self._end:
            self._finish(None)
        elif not self._over:
            self._read()

    def _finish(self, outcome: BaseException | None) -> None:
        self._ready = None
        super()._finish(outcome)
