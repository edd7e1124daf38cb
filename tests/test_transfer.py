"""Bytes to and from disk in threads, on real files."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase

from vidproc.files.file_sender import CHUNK, FileSender
from vidproc.files.file_writer import HIGH_WATER, READ_PART, FileWriter
from vidproc.files.sender import TransferStopped
from vidproc.files.threads import WorkerThreads
from vidproc.files.write_budget import WriteBudget


class _Base(TestCase):
    def setUp(self) -> None:
        self.threads = WorkerThreads(IReactorFromThreads(reactor), "disk", 4)
        self.threads.start()
        self.addCleanup(self.threads.stop)
        self.path = Path(self.mktemp())


class FileWriterTests(_Base):
    async def test_what_is_written_is_in_the_file_in_order(self) -> None:
        """The SHA-256 computed meanwhile is that of the file."""
        writer = FileWriter(self.threads, self.path, hashed=True)
        data = os.urandom(3_000_000)
        for start in range(0, len(data), 1400):
            writer.write(memoryview(data)[start : start + 1400])
        digest = await writer.finish()
        self.assertEqual(self.path.read_bytes(), data)
        self.assertEqual(digest, hashlib.sha256(data).hexdigest())
        self.assertEqual(writer.written, len(data))

    async def test_it_goes_on_at_an_offset_and_hashes_the_whole(self) -> None:
        """Bytes after the offset are cut off."""
        self.path.write_bytes(b"0123456789-too-much")
        writer = FileWriter(self.threads, self.path, offset=10, hashed=True)
        writer.write(b"abc")
        digest = await writer.finish()
        self.assertEqual(self.path.read_bytes(), b"0123456789abc")
        self.assertEqual(digest, hashlib.sha256(b"0123456789abc").hexdigest())

    async def test_a_part_of_an_upload_is_not_hashed(self) -> None:
        """A shutdown does not wait for a checksum, either."""
        self.path.write_bytes(b"0123456789")
        writer = FileWriter(self.threads, self.path, offset=10, hashed=True)
        self.assertIsNone(await writer.finish(digest=False))
        writer = FileWriter(self.threads, self.path, offset=10, hashed=True)
        writer.hurry()
        with self.assertRaises(OSError):
            await writer.finish()

    async def test_a_lagging_disk_asks_for_a_pause_and_then_for_more(self) -> None:
        """The producer is paused at the high-water mark, and resumed when the disk has caught
        up."""
        told: list[str] = []
        caught_up: Deferred[None] = Deferred()

        def tell() -> None:
            told.append("caught up")
            caught_up.callback(None)

        writer = FileWriter(
            self.threads, self.path, on_lag=lambda: told.append("lag"), on_caught_up=tell
        )
        for _ in range(HIGH_WATER // (1 << 20) + 1):
            writer.write(bytes(1 << 20))
        self.assertEqual(told, ["lag"])
        await caught_up
        self.assertEqual(told, ["lag", "caught up"])
        await writer.finish()

    async def test_many_writers_keep_within_one_budget(self) -> None:
        """However much each gets before it pauses, all together keep at most the budget and one
        read each, and none waits forever."""
        total, count = 1 << 20, 20
        budget = WriteBudget(total)
        lagging: set[int] = set()

        def writer(number: int) -> FileWriter:
            return FileWriter(
                self.threads,
                self.path.with_name(f"{self.path.name}.{number}"),
                budget=budget,
                on_lag=lambda: lagging.add(number),
                on_caught_up=lambda: lagging.discard(number),
            )

        writers = [writer(number) for number in range(count)]
        share = total // count
        self.assertEqual(writers[0].read_size, share // READ_PART)
        highest, left = 0, dict.fromkeys(range(count), 10)
        while left:
            for number in [number for number in left if number not in lagging]:
                writers[number].write(bytes(share))
                left[number] -= 1
                if not left[number]:
                    del left[number]
                highest = max(highest, sum(each.backlog for each in writers))
            await deferLater(reactor, 0)
        for each in writers:
            await each.finish()
            self.assertEqual(each.written, 10 * share)
        self.assertGreater(highest, total // 2)
        self.assertLessEqual(highest, total + count * share)
        self.assertFalse(budget.spent)
        self.assertEqual(budget.share, total)

    async def test_a_write_that_fails_frees_its_budget(self) -> None:
        """Other writers are not affected."""
        budget = WriteBudget(1000)
        writer = FileWriter(self.threads, self.path / "nowhere" / "file", budget=budget)
        failed: Deferred[Any] = Deferred()
        writer.on_error = failed.callback
        writer.write(bytes(2000))
        self.assertTrue(budget.spent)
        with self.assertRaises(FileNotFoundError):
            await failed
        self.assertFalse(budget.spent)

    async def test_it_is_synced_on_the_way(self) -> None:
        """Each time that many bytes were written; the reported size is on the disk."""
        synced: list[int] = []
        told: Deferred[None] = Deferred()
        real = os.fdatasync

        def sync(fd: int) -> None:
            real(fd)
            sizes.append(os.fstat(fd).st_size)

        def on_synced(size: int) -> None:
            synced.append(size)
            if len(synced) == 2:
                told.callback(None)

        sizes: list[int] = []
        self.patch(os, "fdatasync", sync)
        writer = FileWriter(self.threads, self.path, sync_every=1000, on_synced=on_synced)
        writer.write(bytes(999))
        await self.written(writer, 999)
        self.assertEqual(sizes, [])
        writer.write(bytes(1))
        while not synced:  # a sync under way is not joined by another
            await deferLater(reactor, 0.001)
        writer.write(bytes(2000))
        await told
        await writer.finish()
        self.assertEqual(synced[0], 1000)
        self.assertTrue(all(size <= there for size, there in zip(synced, sizes, strict=True)))

    async def written(self, writer: FileWriter, size: int) -> None:
        while writer.written < size:
            await deferLater(reactor, 0.001)

    async def test_a_sync_that_fails_fails_the_file(self) -> None:
        """Although a later one would succeed, because the kernel reports lost bytes only once."""

        def fail(fd: int) -> None:
            raise OSError(errno.EIO, "lost")

        errors: list[Any] = []
        self.patch(os, "fdatasync", fail)
        writer = FileWriter(self.threads, self.path, sync_every=10, on_error=errors.append)
        writer.write(bytes(10))
        with self.assertRaises(OSError):
            await writer.finish()
        self.assertEqual(len(errors), 1)

    async def test_a_disk_error_is_reported_and_ends_the_file(self) -> None:
        """on_error is called, and finish fails with the same error."""
        errors: list[Any] = []
        writer = FileWriter(self.threads, Path("/dev/full"), on_error=errors.append)
        # /dev/full can't be truncated either: both are errors of the disk to us.
        writer.write(b"x")
        await self.assertFailure(writer.finish(), OSError)
        self.assertEqual(len(errors), 1)

    async def test_nothing_written_still_makes_a_file(self) -> None:
        """An upload can be resumed exactly at its end."""
        await FileWriter(self.threads, self.path).finish()
        self.assertEqual(self.path.read_bytes(), b"")


class FileSenderTests(_Base):
    def sender(self, data: bytes, start: int, transport: Any) -> FileSender:
        self.path.write_bytes(data)
        fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        return FileSender(self.threads, fd, start, len(data), transport)

    async def test_it_sends_the_file_from_the_offset(self) -> None:
        """Everything in order, in several chunks."""
        data = os.urandom(3 * CHUNK + 17)
        transport = StringTransport()
        sender = self.sender(data, 5, transport)
        sender.start()
        await sender.result
        self.assertEqual(transport.value(), data[5:])

    async def test_an_offset_at_the_end_sends_nothing(self) -> None:
        """And is done at once."""
        transport = StringTransport()
        sender = self.sender(b"abc", 3, transport)
        sender.start()
        await sender.result
        self.assertEqual(transport.value(), b"")

    async def test_a_paused_sender_holds_at_most_one_chunk(self) -> None:
        """It writes nothing until it is resumed."""
        data = os.urandom(4 * CHUNK)
        transport = StringTransport()
        sender = self.sender(data, 0, transport)
        sender.pauseProducing()
        sender.start()
        settled: Deferred[None] = Deferred()
        reactor.callLater(0.05, settled.callback, None)  # enough time to do something wrong
        await settled
        self.assertEqual(transport.value(), b"")
        sender.resumeProducing()
        await sender.result
        self.assertEqual(transport.value(), data)

    async def test_a_lost_connection_stops_it(self) -> None:
        """The result fails only when no thread uses the descriptor any more."""
        sender = self.sender(os.urandom(4 * CHUNK), 0, StringTransport())
        sender.start()
        sender.stopProducing()
        await self.assertFailure(sender.result, TransferStopped)

    async def test_a_file_that_shrinks_is_an_error(self) -> None:
        """The header announced more bytes than there are."""
        sender = self.sender(bytes(CHUNK), 0, StringTransport())
        self.path.write_bytes(b"short")
        sender.start()
        await self.assertFailure(sender.result, OSError)
