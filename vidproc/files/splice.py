"""Receiving files from plain TCP connections without copying.

`splice_into` moves received bytes from a socket to the file of a `FileWriter` without the reactor.
If `can_splice` says no, bytes are read and written instead.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import threading
import time
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from vidproc.files.file_writer import FileWriter
from vidproc.files.turns import PATIENCE, TURN_BYTES, TURN_TIME, UNABLE

_PIPE_SIZE = 1 << 20
_GATHER = 256 << 10  # bytes that accumulate before a waiting thread is woken up
_LEAST = 32 << 10  # bytes per wait below which a stream is too slow to occupy a thread
_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ, which Python defines on Linux only


@dataclass(slots=True)
class Spliced:
    """The result of one turn of `splice_into`."""

    size: int = 0
    """Bytes taken from the socket."""
    more: bool = False
    """Whether more bytes may be available at once."""


def can_splice(writer: FileWriter, transport: ITransport) -> bool:
    """Whether the kernel can move bytes from this transport to the writer's file directly."""
    return (
        hasattr(os, "splice")
        and not _Pipe.refused
        and not writer.hashes
        and isinstance(transport, Connection)
        and not transport.TLS
    )


def splice_into(writer: FileWriter, transport: ITransport, size: int) -> Deferred[Spliced]:
    """Move up to `size` received bytes to the writer's file, in one turn.

    No one else may read from the transport until the Deferred fires. It never fails: a disk error
    is reported by the writer's `on_error` first, and a lost connection is left for the reactor to
    notice.
    """
    assert isinstance(transport, Connection)  # checked by `can_splice`
    turn = Spliced()
    source = transport.getHandle().dup()  # the transport may close its socket meanwhile

    def over(result: bool | Failure) -> Spliced:
        source.close()
        turn.more = result is True
        return turn

    taking = writer.take(lambda fd: _splice_in_thread(source, fd, size, turn))
    return taking.addBoth(over)


def _splice_in_thread(source: socket.socket, fd: int, size: int, turn: Spliced) -> tuple[int, bool]:
    """Move bytes until the turn is over; return how many, and whether there may be more."""
    pipe = _Pipe.of_this_thread()
    size = min(size, TURN_BYTES)
    deadline = time.monotonic() + TURN_TIME
    bytes_there = select.poll()
    bytes_there.register(source, select.POLLIN)
    waited = False
    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(_GATHER, size))
    try:
        while turn.size < size and time.monotonic() < deadline:
            try:
                taken = pipe.fill(source, size - turn.size)
            except BlockingIOError:
                if waited:
                    return turn.size, False
                bytes_there.poll(PATIENCE * 1000)
                waited = True
                continue
            except OSError:
                return turn.size, False  # the reactor will notice it
            if not taken:
                return turn.size, False
            turn.size += taken
            pipe.empty(fd, taken)
            if waited and taken < _LEAST:
                return turn.size, False  # too slow to occupy a thread
            waited = False
    finally:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    return turn.size, not _Pipe.refused


class _Pipe:
    """The pipe between socket and file; one per thread, empty between turns."""

    refused = False
    """Whether the data folder's file system does not support splice."""
    _local = threading.local()

    @classmethod
    def of_this_thread(cls) -> _Pipe:
        pipe: _Pipe | None = getattr(cls._local, "pipe", None)
        if pipe is None:
            pipe = cls._local.pipe = cls()
        return pipe

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._size = _PIPE_SIZE
        try:
            fcntl.fcntl(self._write, _F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass  # a smaller one works too (pipe sizes are limited per user)

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def fill(self, source: socket.socket, size: int) -> int:
        return os.splice(
            source.fileno(), self._write, min(self._size, size), flags=os.SPLICE_F_NONBLOCK
        )

    def empty(self, fd: int, size: int) -> None:
        """Move the `size` bytes in it to a file; after an `OSError` the pipe is unusable."""
        try:
            while size:
                size -= os.splice(self._read, fd, size)
        except OSError as error:
            if error.errno not in UNABLE:
                del self._local.pipe
                raise
            _Pipe.refused = True
            while size:
                data = memoryview(os.read(self._read, size))
                size -= len(data)
                while data:
                    data = data[os.write(fd, data) :]
