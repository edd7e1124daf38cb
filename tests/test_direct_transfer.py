"""Files over real loopback connections: the fast path and the portable one pass the same tests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IPushProducer, IReactorFromThreads
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface import implementer

from tests.ports import port_of
from tests.rig import ByHand, Rig, message
from vidproc.files import splice as splicing
from vidproc.files.data_folder import input_key, upload_key
from vidproc.files.file_sender import FileSender
from vidproc.files.file_writer import READ_SIZE, FileWriter
from vidproc.files.sender import TransferStopped
from vidproc.files.sendfile import SendfileSender, can_sendfile, make_sender
from vidproc.files.splice import Spliced, can_splice, splice_into
from vidproc.files.threads import WorkerThreads
from vidproc.frontends.mmp.protocol import MMPServerProtocol
from vidproc.frontends.mmp.states import Uploading
from vidproc.frontends.receiving import DIRECT_SHARE
from vidproc.mmp.codec import NEED_DATA, Decoder, MessageStarted

UPLOAD = {"action": "upload", "type": "gif", "parameters": {"start_time": 0, "duration": 1}}
SIZE = (36 << 20) + 17
"""More than all buffers on the way can hold, and enough for several turns."""


@implementer(IPushProducer)
class ServerSide(Protocol):
    """Acts like the MMP frontend: it is the transport's producer and passes pauses on."""

    transport: Connection

    def __init__(self) -> None:
        self.sender: Any = None
        self.write_blocked = False
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def connectionLost(self, reason: Any = None) -> None:
        if self.sender is not None:
            self.sender.stopProducing()
        self.lost.callback(None)

    def pauseProducing(self) -> None:
        self.write_blocked = True
        if self.sender is not None:
            self.sender.pauseProducing()

    def resumeProducing(self) -> None:
        self.write_blocked = False
        if self.sender is not None:
            self.sender.resumeProducing()

    def stopProducing(self) -> None:
        pass

    @property
    def blocked(self) -> bool:
        return self.write_blocked or self.sender.blocked


class ClientSide(Protocol):
    """Stores what arrives. Tests can wait for a number of bytes."""

    transport: Connection

    def __init__(self) -> None:
        self.received = bytearray()
        self._waiting: tuple[int, Deferred[None]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def has(self, size: int) -> Deferred[None]:
        """Fires when `size` bytes have arrived."""
        self._waiting = (size, Deferred())
        waiting = self._waiting[1]
        self._look()
        return waiting

    def _look(self) -> None:
        if self._waiting is not None and len(self.received) >= self._waiting[0]:
            waiting, self._waiting = self._waiting[1], None
            waiting.callback(None)


class _OnLoopback(TestCase):
    timeout = 60

    def listen(self, factory: Any) -> int:
        """Serve on a port until the test is over; return it."""
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return port_of(port)

    async def connect(self, port: int) -> ClientSide:
        """Return a client that is connected to a port until the test is over."""
        client = ClientSide()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        await connectProtocol(endpoint, client)
        self.addCleanup(self.disconnect, client)
        return client

    async def disconnect(self, side: Any) -> None:
        """Close one side's connection at once."""
        if side.transport.connected:
            side.transport.abortConnection()
            await self.until(lambda: not side.transport.connected)

    async def turns(self, count: int) -> None:
        """Let the reactor run some iterations."""
        for _ in range(count):
            turn: Deferred[None] = Deferred()
            reactor.callLater(0.001, turn.callback, None)
            await turn

    async def until(self, condition: Any) -> None:
        """Let the reactor run until a condition holds, limited by trial's timeout."""
        while not condition():
            await self.turns(1)


class _Loopback(_OnLoopback):
    def setUp(self) -> Any:
        return Deferred.fromCoroutine(self.asyncSetUp())

    async def asyncSetUp(self) -> None:
        self.threads = WorkerThreads(IReactorFromThreads(reactor), "disk", 4)
        self.threads.start()
        self.addCleanup(self.threads.stop)
        self.server = ServerSide()
        factory = ServerFactory.forProtocol(lambda: self.server)
        self.client = await self.connect(self.listen(factory))
        await self.until(lambda: self.server.transport is not None)
        self.addCleanup(self.hang_up)

    async def hang_up(self) -> None:
        await self.disconnect(self.client)
        await self.disconnect(self.server)
        await self.server.lost


# Trial runs these only in subclasses; for mypy they are test cases.
if TYPE_CHECKING:
    _OnLoopbackMixin = _OnLoopback
    _LoopbackMixin = _Loopback
else:
    _OnLoopbackMixin = _LoopbackMixin = object


class SenderTests(_LoopbackMixin):
    """The tests for all senders. `kind` makes one."""

    kind: Any

    def sender(self, data: bytes, start: int = 0) -> Any:
        self.path = Path(self.mktemp())
        self.path.write_bytes(data)
        fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        self.progress: list[int] = []
        self.server.sender = self.kind(
            self.threads, fd, start, len(data), self.server.transport, self.progress.append
        )
        return self.server.sender

    async def test_it_sends_the_file_from_the_offset(self) -> None:
        """It sends everything in order and reports how much was sent."""
        data = os.urandom(SIZE)
        sender = self.sender(data, 5)
        sender.start()
        await sender.result
        await self.client.has(SIZE - 5)
        self.assertEqual(self.client.received, data[5:])
        self.assertEqual(sum(self.progress), SIZE - 5)

    async def test_what_was_written_before_goes_before(self) -> None:
        """What is written later is sent later."""
        data, before = os.urandom(100_000), os.urandom(900_000)
        sender = self.sender(data)
        self.server.transport.write(before)
        sender.start()
        await sender.result
        self.server.transport.write(b"after")
        await self.client.has(len(before) + len(data) + 5)
        self.assertEqual(self.client.received, before + data + b"after")

    async def test_a_full_buffer_holds_it_until_it_is_empty(self) -> None:
        """The transport's producer is paused before the sender starts."""
        self.client.transport.pauseProducing()
        before = bytes(12 << 20)
        self.server.transport.write(before)
        self.assertTrue(self.server.write_blocked)
        sender = self.sender(b"the file")
        sender.pauseProducing()
        sender.start()
        await self.turns(20)
        self.assertEqual(self.progress, [])
        self.client.transport.resumeProducing()
        await sender.result
        await self.client.has(len(before) + 8)
        self.assertEqual(self.client.received[-8:], b"the file")
        self.assertFalse(self.server.write_blocked)

    async def test_flow_control_is_the_old_producers_again_afterwards(self) -> None:
        """It is paused if the buffer is full, as before."""
        sender = self.sender(os.urandom(SIZE))
        sender.start()
        await sender.result
        await self.client.has(SIZE)
        self.client.transport.pauseProducing()
        self.server.transport.write(bytes(12 << 20))
        self.assertTrue(self.server.write_blocked)
        self.client.transport.resumeProducing()
        await self.until(lambda: not self.server.write_blocked)

    async def test_an_offset_at_the_end_sends_nothing(self) -> None:
        """And is done at once."""
        sender = self.sender(b"abc", 3)
        sender.start()
        await sender.result
        self.assertEqual(self.progress, [])

    async def test_a_client_that_does_not_read_blocks_it(self) -> None:
        """It reports that, sends no more than the buffers can hold, and continues later."""
        data = os.urandom(SIZE)
        self.client.transport.pauseProducing()
        sender = self.sender(data)
        sender.start()
        await self.until(lambda: self.server.blocked)
        await self.turns(20)
        sent = sum(self.progress)
        self.assertLess(sent, SIZE)
        await self.turns(20)
        self.assertEqual(sum(self.progress), sent)
        self.client.transport.resumeProducing()
        await sender.result
        await self.client.has(SIZE)
        self.assertEqual(self.client.received, data)
        self.assertFalse(self.server.blocked)

    async def test_a_paused_sender_sends_nothing(self) -> None:
        """Paused before the start, it waits; paused later, it stops soon; then it continues."""
        data = os.urandom(SIZE)
        sender = self.sender(data)
        sender.pauseProducing()
        sender.start()
        await self.turns(20)
        self.assertEqual(self.progress, [])
        sender.resumeProducing()
        await self.until(lambda: self.progress)
        sender.pauseProducing()
        await self.turns(200)
        sent = sum(self.progress)
        await self.turns(20)
        self.assertEqual(sum(self.progress), sent)
        sender.resumeProducing()
        await sender.result
        await self.client.has(SIZE)
        self.assertEqual(self.client.received, data)

    async def test_a_client_that_goes_away_stops_it(self) -> None:
        """The result fails only when no thread uses the descriptor any more."""
        self.client.transport.pauseProducing()
        sender = self.sender(os.urandom(SIZE))
        sender.start()
        await self.until(lambda: self.server.blocked)
        self.client.transport.abortConnection()
        await self.assertFailure(sender.result, TransferStopped)
        await self.server.lost

    async def test_it_is_stopped_at_work(self) -> None:
        """It leaves the connection to its owner."""
        sender = self.sender(os.urandom(SIZE))
        sender.start()
        sender.stopProducing()
        await self.assertFailure(sender.result, TransferStopped)

    async def test_a_file_that_shrinks_is_an_error(self) -> None:
        """The header announced more bytes than there are."""
        sender = self.sender(bytes(SIZE))
        self.path.write_bytes(b"short")
        sender.start()
        await self.assertFailure(sender.result, OSError)


class FileSenderTests(SenderTests, _Loopback):
    kind = FileSender


class SendfileSenderTests(SenderTests, _Loopback):
    kind = SendfileSender

    async def asyncSetUp(self) -> None:
        if not hasattr(os, "sendfile"):
            raise SkipTest("this system has no sendfile")
        await super().asyncSetUp()

    async def test_a_connection_reset_while_nothing_is_read_is_noticed(self) -> None:
        """While reading is paused for a client that sends ahead, the next send reveals it."""
        self.server.transport.pauseProducing()
        self.client.transport.pauseProducing()
        sender = self.sender(os.urandom(SIZE))
        sender.start()
        await self.until(lambda: self.server.blocked)
        self.client.transport.abortConnection()
        await self.assertFailure(sender.result, TransferStopped)
        await self.server.lost

    async def test_a_file_system_without_sendfile_is_copied(self) -> None:
        """From the current position."""
        real, calls = os.sendfile, []

        def sendfile(out: int, source: int, offset: int, count: int) -> int:
            calls.append(offset)
            if len(calls) == 3:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(out, source, offset, count)

        self.patch(os, "sendfile", sendfile)
        data = os.urandom(SIZE)
        sender = self.sender(data)
        sender.start()
        await sender.result
        await self.client.has(SIZE)
        self.assertEqual(self.client.received, data)
        self.assertEqual(sum(self.progress), SIZE)

    async def test_it_is_chosen_for_plain_tcp_only(self) -> None:
        """For TLS and transports that only look like TCP, the portable path is used."""
        transport: Any = self.server.transport
        self.assertIsInstance(make_sender(self.threads, 0, 0, 0, transport), SendfileSender)
        self.assertIsInstance(make_sender(self.threads, 0, 0, 0, StringTransport()), FileSender)
        transport.TLS = True
        self.assertFalse(can_sendfile(transport))


class Receiver(Protocol):
    """The server's side of an upload: its bytes are for `splice_into` to read."""

    transport: Connection

    def connectionMade(self) -> None:
        self.transport.pauseProducing()


class SpliceTests(_OnLoopback):
    def setUp(self) -> Any:
        if not hasattr(os, "splice"):
            raise SkipTest("this system has no splice")
        self.threads = WorkerThreads(IReactorFromThreads(reactor), "disk", 4)
        self.threads.start()
        self.addCleanup(self.threads.stop)
        self.path = Path(self.mktemp())
        self.errors: list[Any] = []
        self.writer = FileWriter(self.threads, self.path, on_error=self.errors.append)
        self.patch(splicing._Pipe, "refused", False)
        return Deferred.fromCoroutine(self.asyncSetUp())

    async def asyncSetUp(self) -> None:
        self.receiver = Receiver()
        factory = ServerFactory.forProtocol(lambda: self.receiver)
        self.client = await self.connect(self.listen(factory))
        await self.until(lambda: self.receiver.transport is not None)
        self.addCleanup(self.hang_up)

    async def hang_up(self) -> None:
        await self.disconnect(self.client)
        await self.disconnect(self.receiver)

    async def take(self, size: int) -> Spliced:
        return await splice_into(self.writer, self.receiver.transport, size)

    async def test_bytes_go_to_the_file_after_those_written(self) -> None:
        """Exactly as many as requested."""
        data = os.urandom(300_000)
        self.client.transport.write(data + b"next")
        self.writer.write(b"before")
        taken = 0
        while taken < len(data):
            taken += (await self.take(len(data) - taken)).size
        self.writer.write(b"after")
        await self.writer.finish()
        self.assertEqual(self.path.read_bytes(), b"before" + data + b"after")
        self.assertEqual(self.writer.written, len(data) + 11)
        rest: list[bytes] = []
        self.patch(self.receiver, "dataReceived", rest.append)
        self.receiver.transport.resumeProducing()
        await self.until(lambda: rest)
        self.assertEqual(rest, [b"next"])

    async def test_nothing_there_is_said_soon(self) -> None:
        """A silent client does not occupy the thread."""
        spliced = await self.take(1000)
        self.assertEqual((spliced.size, spliced.more), (0, False))
        await self.writer.close()

    async def test_a_turn_is_bounded(self) -> None:
        """Others need the thread, too."""
        self.patch(splicing, "TURN_BYTES", 100_000)
        self.client.transport.write(bytes(1_000_000))
        spliced = Spliced()
        while not spliced.size:
            spliced = await self.take(1_000_000)
        self.assertLessEqual(spliced.size, 100_000)
        await self.writer.close()

    async def test_the_end_of_the_stream_is_left_to_the_reactor(self) -> None:
        """The bytes before it are taken."""
        self.client.transport.write(b"last")
        self.client.transport.loseConnection()
        await self.until(lambda: not self.client.transport.connected)
        self.assertEqual((await self.take(1000)).size, 4)
        self.assertFalse((await self.take(1000)).more)
        await self.writer.finish()
        self.assertEqual(self.path.read_bytes(), b"last")

    async def test_a_full_disk_is_reported_and_the_bytes_are_counted(self) -> None:
        """The stream continues after them."""
        self.writer = FileWriter(self.threads, Path("/dev/full"), on_error=self.errors.append)
        self.patch(os, "ftruncate", lambda fd, size: None)
        self.patch(os, "lseek", lambda fd, position, whence: 0)
        self.client.transport.write(bytes(1000))
        spliced = Spliced()
        while not spliced.size:
            spliced = await self.take(1000)
        self.assertEqual((spliced.size, spliced.more), (1000, False))
        self.assertEqual(self.errors[0].value.errno, errno.ENOSPC)
        self.assertEqual((await self.take(1000)).size, 0)
        await self.assertFailure(self.writer.finish(), OSError)

    async def test_a_file_system_without_splice_gets_copies(self) -> None:
        """From then on the portable path is used."""
        real = os.splice

        def splice(source: int, target: int, count: int, flags: int = 0) -> int:
            if not flags:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(source, target, count, flags=flags)

        self.patch(os, "splice", splice)
        self.client.transport.write(b"x" * 100_000)
        taken = 0
        while taken < 100_000:
            taken += (await self.take(100_000 - taken)).size
        await self.writer.finish()
        self.assertEqual(self.path.read_bytes(), b"x" * 100_000)
        self.assertFalse(can_splice(self.writer, self.receiver.transport))

    async def test_it_is_chosen_for_plain_tcp_without_a_checksum_only(self) -> None:
        """For a checksum the bytes must be seen; TLS is not a plain stream."""
        transport: Any = self.receiver.transport
        self.assertTrue(can_splice(self.writer, transport))
        self.assertFalse(can_splice(FileWriter(self.threads, self.path, hashed=True), transport))
        self.assertFalse(can_splice(self.writer, StringTransport()))
        transport.TLS = True
        self.assertFalse(can_splice(self.writer, transport))
        await self.writer.close()


class UploadTests(_OnLoopbackMixin):
    """Uploads through the MMP frontend over a real connection, on both paths."""

    direct: ClassVar[bool]

    def setUp(self) -> None:
        self.rig = Rig(Path(self.mktemp()))
        self.addCleanup(self.rig.close)
        self.turns_taken = 0
        real = splicing._splice_in_thread

        def counted(*arguments: Any) -> Any:
            self.turns_taken += 1
            return real(*arguments)

        self.patch(splicing, "_splice_in_thread", counted)
        self.patch(splicing._Pipe, "refused", not self.direct)
        self.port = self.listen(self.rig.factory)

    async def answers(self, client: ClientSide, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        decoder = Decoder()
        seen = 0
        while len(found) < count:
            await self.until(lambda seen=seen: len(client.received) > seen)
            decoder.receive_data(bytes(client.received[seen:]))
            seen = len(client.received)
            while (event := decoder.next_event()) is not NEED_DATA:
                if isinstance(event, MessageStarted):
                    found.append(json.loads(event.json))
        return found

    async def test_a_large_upload_arrives_whole(self) -> None:
        """The next request, sent at once, is answered after it."""
        data = os.urandom(SIZE)
        client = await self.connect(self.port)
        client.transport.write(message(UPLOAD, data, "mp4") + message({"action": "info", "id": 2}))
        accepted, info = await self.answers(client, 2)
        self.assertEqual(accepted["status"], "accepted")
        self.assertEqual(info["id"], 2)
        stored = self.rig.storage.path(input_key(accepted["task_id"])).read_bytes()
        self.assertEqual(hashlib.sha256(stored).digest(), hashlib.sha256(data).digest())
        self.assertEqual(self.turns_taken > 0, self.direct)
        self.assertGreaterEqual(self.rig.gate.traffic.received, SIZE)

    async def test_an_upload_that_breaks_goes_on_where_it_stood(self) -> None:
        """upload_status returns the size of its file."""
        data = os.urandom(SIZE)
        upload_id = str(uuid4())
        request = {**UPLOAD, "upload_id": upload_id, "size": SIZE}
        client = await self.connect(self.port)
        client.transport.write(message(request, data, "mp4")[: SIZE // 2])
        await self.until(lambda: self.rig.gate.traffic.received >= SIZE // 2)
        await self.disconnect(client)
        await self.until(lambda: not self.rig.gate.connections)
        client = await self.connect(self.port)
        client.transport.write(message({"action": "upload_status", "upload_id": upload_id}))
        (status,) = await self.answers(client, 1)
        offset = status["offset"]
        task = self.rig.store.uploads.by_upload_id(upload_id)
        assert task is not None
        part = self.rig.storage.path(upload_key(task.task_id)).read_bytes()
        self.assertEqual(len(part), offset)
        self.assertEqual(part, data[:offset])
        self.assertGreater(offset, SIZE // 2 - 1000)
        client.received.clear()
        client.transport.write(message({**request, "offset": offset}, data[offset:], "mp4"))
        (accepted,) = await self.answers(client, 1)
        stored = self.rig.storage.path(input_key(accepted["task_id"])).read_bytes()
        self.assertEqual(hashlib.sha256(stored).digest(), hashlib.sha256(data).digest())

    async def test_a_disk_error_leaves_the_connection_usable(self) -> None:
        """The rest of the payload is discarded exactly."""
        room = [3 << 20]

        def use(size: int) -> None:
            room[0] -= size
            if room[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        def splice(source: int, target: int, count: int, flags: int = 0) -> int:
            if not flags:
                use(count)
            moved: int = real_splice(source, target, count, flags=flags)
            return moved

        def writev(fd: int, slices: list[Any]) -> int:
            use(sum(map(len, slices)))
            return real_writev(fd, slices)

        real_splice: Any = getattr(os, "splice", None)  # absent on some systems
        real_writev = os.writev
        if self.direct:
            self.patch(os, "splice", splice)
        self.patch(os, "writev", writev)
        client = await self.connect(self.port)
        client.transport.write(
            message(UPLOAD, bytes(SIZE), "mp4") + message({"action": "info", "id": 2})
        )
        refused, info = await self.answers(client, 2)
        self.assertEqual(refused["error"]["code"], 507)
        self.assertEqual(info["id"], 2)

    async def test_a_promised_checksum_is_compared(self) -> None:
        """So the bytes must be seen."""
        data = os.urandom(SIZE)
        digest = hashlib.sha256(data).hexdigest()
        client = await self.connect(self.port)
        client.transport.write(message({**UPLOAD, "sha256": digest}, data, "mp4"))
        (accepted,) = await self.answers(client, 1)
        self.assertEqual(accepted["status"], "accepted")
        self.assertEqual(self.turns_taken, 0)

    async def test_a_limit_on_uploads_holds(self) -> None:
        """On both paths."""
        rate = 100e6
        self.rig.gate.throttle.limit(rate)
        client = await self.connect(self.port)
        client.transport.write(message(UPLOAD, bytes(SIZE), "mp4"))
        seconds = 0.0
        while not client.received:
            self.rig.clock.advance(0.005)
            seconds += 0.005
            await self.turns(2)
        (accepted,) = await self.answers(client, 1)
        self.assertEqual(accepted["status"], "accepted")
        self.assertEqual(self.turns_taken > 0, self.direct)
        # There is no wait after the last read or turn.
        self.assertGreater(seconds, (SIZE - rate * DIRECT_SHARE - READ_SIZE) / rate)


class DirectUploadTests(UploadTests, _OnLoopback):
    direct = True

    def setUp(self) -> None:
        if not hasattr(os, "splice"):
            raise SkipTest("this system has no splice")
        super().setUp()

    async def test_a_disk_that_stalls_excuses_the_silence(self) -> None:
        """The client is not disconnected while a thread waits for our disk."""
        client = await self.connect(self.port)
        await self.until(lambda: self.rig.gate.connections)
        (protocol,) = self.rig.gate._welcome
        assert isinstance(protocol, MMPServerProtocol)
        begin, rest = message(UPLOAD, bytes(SIZE), "mp4")[:1000], bytes(SIZE)
        client.transport.write(begin)
        await self.until(lambda: isinstance(protocol.state, Uploading))
        assert isinstance(protocol.state, Uploading)
        writer = protocol.state.upload.session.writer
        disk = writer._threads = writer._writers = ByHand()
        client.transport.write(rest[: SIZE // 2])
        await self.until(lambda: protocol.taken_directly)
        for _ in range(5):
            self.rig.clock.advance(60)
        await self.turns(5)
        transport = protocol.transport
        assert isinstance(transport, Connection)
        self.assertTrue(transport.connected)
        client.transport.write(message(UPLOAD, bytes(SIZE), "mp4")[1000 + SIZE // 2 :])

        def goes_on() -> bool:
            disk.run_all()
            return bool(client.received)

        await self.until(goes_on)
        (accepted,) = await self.answers(client, 1)
        self.assertEqual(accepted["status"], "accepted")


class PortableUploadTests(UploadTests, _OnLoopback):
    direct = False
