"""The payload of an upload: a file, sent chunk by chunk as the network takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from vidproc.client.errors import InputChanged

CHUNK_SIZE = 1 << 20
"""Bytes read from a file, or from the network, at a time."""


@implementer(IPullProducer)
class FileBody:
    """Sends `size` bytes of `file` by `write`, with one chunk in memory.

    `on_sent` gets the size of each chunk. `on_end` is called after the last one, `on_fail` with an
    error if the file cannot be read.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        write: Callable[[bytes], None],
        *,
        on_sent: Callable[[int], None],
        on_end: Callable[[], None],
        on_fail: Callable[[Exception], None],
    ) -> None:
        self._file = file
        self._remaining = size
        self._write = write
        self._on_sent = on_sent
        self._on_end = on_end
        self._on_fail = on_fail
        self.finished = False

    def resumeProducing(self) -> None:
        """Send the next chunk; called by the transport when it can take more."""
        if self.finished:
            return
        try:
            chunk = self._file.read(min(CHUNK_SIZE, self._remaining))
        except OSError as error:
            reason = error.strerror or str(error)
            self._on_fail(InputChanged(f"The input file cannot be read: {reason}"))
            return
        if not chunk:
            self._on_fail(InputChanged("The input file became shorter while it was sent."))
            return
        self._remaining -= len(chunk)
        self._write(chunk)
        self._on_sent(len(chunk))
        if self._remaining == 0:
            self.finished = True
            self._on_end()

    def stopProducing(self) -> None:
        """Send nothing more; called by the transport when the connection is lost."""
        self.finished = True
