"""Writing files in threads, with flow control.

A disk that stalls must not block the reactor, so a `FileWriter` accesses its file only in a thread
pool. It tells its producer when it falls behind and when it has caught up. (The idea comes from
Synapse's BackgroundFileConsumer.)
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from vidproc.files.threads import WorkerThreads, when_fired
from vidproc.files.write_budget import WriteBudget

HIGH_WATER = 4 << 20
"""Bytes waiting for the disk at which the producer is asked to pause; fewer if many writers share a
budget."""
LOW_WATER_PART = 4
"""The producer may resume when at most the high-water mark divided by this is waiting."""
READ_PART = 4
"""A read has at most the writer's share of the budget divided by this."""
READ_SIZE = 1 << 20
"""The most bytes that a transport should read at a time (``transport.bufferSize``)."""

Source: TypeAlias = Callable[[int], tuple[int, bool]]
"""Appends to the open file whose descriptor it gets, at the file's end; returns the number of bytes
appended and whether there may be more at once."""

_HASH_CHUNK = 4 << 20
_MOST_SLICES = 1024  # IOV_MAX of Linux and macOS


def keep_large_blocks() -> None:
    """Make the C library keep freed blocks of the size of a read instead of returning them.

    glibc gets large blocks from the kernel one by one until the first block of that size is freed
    (mallopt(3), M_MMAP_THRESHOLD), and the page faults of a new megabyte cost twice as much as
    reading into it. Has no effect on other systems.
    """
    bytes(31 << 20)  # never accessed; glibc adapts to at most 32 MiB


class FileWriter:
    """Appends to a file in threads, in order, starting at byte `offset`.

    Anything in the file after `offset` is cut off. With `hashed` the SHA-256 of the whole file is
    computed while writing, or at the end if the file was not empty: an upload that is interrupted
    again and again would otherwise read it each time. `writers` (by default `threads`) move bytes;
    `threads` are for slow calls that move none. With `sync_every` the file is synced each time that
    many bytes have been written, while writing continues, and `on_synced` is called with the size
    that survives a power cut. Writers with the same `budget` together keep no more bytes waiting
    than it allows. `on_lag` and `on_caught_up` are called in the reactor thread; `on_error` is
    called once, with the failure of a write, after which everything written is discarded.
    """

    def __init__(
        self,
        threads: WorkerThreads,
        path: Path,
        *,
        offset: int = 0,
        hashed: bool = False,
        writers: WorkerThreads | None = None,
        budget: WriteBudget | None = None,
        sync_every: int | None = None,
        on_synced: Callable[[int], None] = lambda _: None,
        on_lag: Callable[[], None] = lambda: None,
        on_caught_up: Callable[[], None] = lambda: None,
        on_error: Callable[[Failure], None] = lambda _: None,
    ) -> None:
        self._threads = threads
        self._writers = writers or threads
        self._budget = budget or WriteBudget()
        self._budget.join()
        self._path = path
        self._start = offset
        self._hashed = hashed
        self._digest = hashlib.sha256() if hashed and offset == 0 else None
        self._sync_every = sync_every
        self._sync_begun_at = offset
        self._syncing: Deferred[None] | None = None
        self.on_synced = on_synced
        self.on_lag = on_lag
        self.on_caught_up = on_caught_up
        self.on_error = on_error
        self._fd: int | None = None
        self._closing = self._closed = self._hurried = False
        self._pending: list[bytes | memoryview] = []
        self._pending_size = 0
        self._in_flight = 0
        self._at_work = False
        self._source: tuple[Source, Deferred[bool]] | None = None
        self._lagging = False
        self._failure: Failure | None = None
        self._waiting: Deferred[None] | None = None
        self.written = offset
        """Bytes in the file, as written to the operating system."""

    @property
    def backlog(self) -> int:
        """Bytes accepted but not yet written."""
        return self._pending_size + self._in_flight

    @property
    def read_size(self) -> int:
        """Bytes that the producer should read at a time.

        The buffers of reads lie between what waits for the disk, and the C library cannot give such
        memory back: 100 uploads over TLS took 157 MiB when each read its whole share of the budget,
        and take 106 now.
        """
        return min(READ_SIZE, self._budget.share // READ_PART)

    @property
    def _high_water(self) -> int:
        return min(HIGH_WATER, self._budget.share)

    def write(self, data: bytes | memoryview) -> None:
        """Accept bytes; returns at once."""
        if self._failure is not None or not data:
            return
        self._pending.append(data)
        self._pending_size += len(data)
        self._budget.add(len(data))
        if not self._at_work:
            self._flush()
        if not self._lagging and (self.backlog >= self._high_water or self._budget.spent):
            self._lagging = True
            self.on_lag()

    @property
    def hashes(self) -> bool:
        """Whether it needs to see the bytes while they are written."""
        return self._digest is not None

    def take(self, source: Source) -> Deferred[bool]:
        """Let `source` append to the file itself, in a thread, after the pending bytes.

        Fires with the result of `source`, or fails with its exception, which counts as a failed
        write. Only one call at a time.
        """
        if self._failure is not None:
            return fail(self._failure)
        taken: Deferred[bool] = Deferred()
        self._source = (source, taken)
        if not self._at_work:
            self._run_source()
        return taken

    def finish(self, *, digest: bool = True) -> Deferred[str | None]:
        """Write the pending bytes, fsync and close.

        The Deferred fires with the SHA-256 in hexadecimal (None without `hashed` or `digest`), or
        fails with the `OSError` of a write.
        """
        return self._close(sync=True, digest=digest)

    def hurry(self) -> None:
        """Make a `finish` that is still reading the file fail with `OSError`."""
        self._hurried = True

    def close(self) -> Deferred[str | None]:
        """Write the pending bytes and close, without fsync."""
        return self._close(sync=False)

    def _close(self, *, sync: bool, digest: bool = False) -> Deferred[str | None]:
        if not self._closing:
            self._closing = True
            self._budget.leave()
        drained: Deferred[None] = Deferred()
        if self._at_work:
            self._waiting = drained
        else:
            drained.callback(None)
        # A running sync uses the descriptor, and the kernel reports an error only once.
        drained.addCallback(lambda _: self._syncing and when_fired(self._syncing))
        return drained.addCallback(
            lambda _: self._threads.call(self._close_in_thread, sync, digest)
        )

    def _flush(self) -> None:
        chunks, self._pending = self._pending, []
        self._in_flight, self._pending_size = self._pending_size, 0
        self._at_work = True
        done = self._writers.call(self._write_in_thread, chunks)
        done.addCallbacks(self._work_done, self._failed)

    def _run_source(self) -> None:
        assert self._source is not None
        source, taken = self._source
        self._at_work = True
        working = self._writers.call(lambda: source(self._open()))

        def done(result: tuple[int, bool]) -> None:
            self._source = None
            self._work_done(result[0])
            taken.callback(result[1])

        working.addCallbacks(done, self._failed)

    def _work_done(self, size: int) -> None:
        self.written += size
        self._budget.add(-self._in_flight)
        self._in_flight = 0
        self._at_work = False
        self._sync_if_due()
        if self._pending:
            self._flush()
        elif self._source is not None:
            self._run_source()
        if self._lagging and self.backlog <= self._high_water // LOW_WATER_PART:
            self._lagging = False
            self.on_caught_up()
        self._tell_drained()

    def _sync_if_due(self) -> None:
        size = self.written
        if self._sync_every is None or size - self._sync_begun_at < self._sync_every:
            return
        if self._syncing is not None or self._failure is not None:
            return
        self._sync_begun_at = size
        self._syncing = self._threads.call(self._sync_in_thread)

        def synced(_: None) -> None:
            self._syncing = None
            self.on_synced(size)

        def failed(failure: Failure) -> None:
            self._syncing = None
            if self._failure is None:
                self._failure = failure
                self.on_error(failure)

        self._syncing.addCallbacks(synced, failed)

    def _failed(self, failure: Failure) -> None:
        self._failure = failure
        self._budget.add(-self.backlog)
        self._in_flight = self._pending_size = 0
        self._at_work = False
        self._pending = []
        if self._lagging:
            self._lagging = False
            self.on_caught_up()
        self.on_error(failure)
        if self._source is not None:
            (_, taken), self._source = self._source, None
            taken.errback(failure)
        self._tell_drained()

    def _tell_drained(self) -> None:
        if self._waiting is not None and not self._at_work:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    # In a pool thread, one call at a time:

    def _open(self) -> int:
        if self._closed:
            raise OSError(errno.EBADF, "the file is closed")
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, self._start)
            os.lseek(self._fd, self._start, os.SEEK_SET)
        return self._fd

    def _write_in_thread(self, chunks: list[bytes | memoryview]) -> int:
        fd = self._open()
        total = 0
        for first in range(0, len(chunks), _MOST_SLICES):
            slices = chunks[first : first + _MOST_SLICES]
            if self._digest is not None:
                for data in slices:
                    self._digest.update(data)
            size = sum(map(len, slices))
            total += size
            written = os.writev(fd, slices)
            if written < size:
                rest = memoryview(b"".join(slices))[written:]
                while rest:
                    rest = rest[os.write(fd, rest) :]
        return total

    def _sync_in_thread(self) -> None:
        os.fdatasync(self._open())

    def _close_in_thread(self, sync: bool, digest: bool) -> str | None:
        try:
            if self._failure is not None:
                self._failure.raiseException()
            fd = self._open()
            if sync:
                os.fsync(fd)
            if not (self._hashed and digest):
                return None
            return (self._digest or self._read_digest(fd)).hexdigest()
        finally:
            self._closed = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _read_digest(self, fd: int) -> hashlib._Hash:
        digest, position = hashlib.sha256(), 0
        while data := os.pread(fd, _HASH_CHUNK, position):
            if self._hurried:
                raise OSError(errno.ECANCELED, "the checksum was not waited for")
            digest.update(data)
            position += len(data)
        return digest
