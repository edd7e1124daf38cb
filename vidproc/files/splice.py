"""From plain TCP connections to files without copies.

`splice_into` moves what a socket has received to the file of a `FileWriter`, past the reactor;
where `can_splice` says no, it is read and written.
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
_GATHER = 256 << 10  # bytes that a waiting thread lets gather before it is woken up
_LEAST = 32 << 10  # bytes in one wait below which a stream is too slow to keep a thread for
_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ, which Python names on Linux only


@dataclass(slots=True)
class Spliced:
    """What became of a turn of `splice_into`."""

    size: int = 0
    """Bytes taken from the socket."""
    more: bool = False
    """Whether there may be more to take at once."""


def can_splice(writer: FileWriter, transport: ITransport) -> bool:
    """Whether the kernel can move what this transport receives to the writer's file by itself."""
    return (
        hasattr(os, "splice")
        and not _Pipe.refused
        and not writer.hashes
        and isinstance(transport, Connection)
        and not transport.TLS
    )


def splice_into(writer: FileWriter, transport: ITransport, size: int) -> Deferred[Spliced]:
    """Move up to `size` received bytes to the writer's file, for one turn.

    Nobody else may read the transport until the Deferred fires. It never fails: an error of the
    disk is told by the writer's `on_error` first, and a connection that is lost is left to the
    reactor to find.
    """
    assert isinstance(transport, Connection)  # `can_splice` said so
    turn = Spliced()
    source = transport.getHandle().dup()  # the transport may close its own meanwhile

    def over(result: bool | Failure) -> Spliced:
        source.close()
        turn.more = result is True
        return turn

    taking = writer.take(lambda fd: _splice_in_thread(source, fd, size, turn))
    return taking.addBoth(over)


def _splice_in_thread(source: socket.socket, fd: int, size: int, turn: Spliced) -> tuple[int, bool]:
    """Move bytes until the turn is over; return how many and whether there may be more."""
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
                return turn.size, False  # the reactor will meet it
            if not taken:
                return turn.size, False
            turn.size += taken
            pipe.empty(fd, taken)
            if waited and taken < _LEAST:
                return turn.size, False  # too slow to keep a thread for
            waited = False
    finally:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    return turn.size, not _Pipe.refused


class _Pipe:
    """The pipe that bytes pass through; one for each thread, empty between turns."""

    refused = False
    """Whether the data folder's file system can't do it."""
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
            pass  # a smaller one does too (it has a limit for each user)

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def fill(self, source: socket.socket, size: int) -> int:
        return os.splice(
            source.fileno(), self._write, min(self._size, size), flags=os.SPLICE_F_NONBLOCK
        )

    def empty(self, fd: int, size: int) -> None:
        """Move the `size` bytes that it holds to a file; raises `OSError` and is useless then."""
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
