"""The client's side of the wire: uploads, watches and downloads that survive broken connections."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import error, reactor, task
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from vidproc.client.files import ChecksumMismatch, PartFile, Source
from vidproc.client.protocol import (
    Answer,
    Client,
    ConnectFailed,
    Connection,
    ConnectionBroken,
    InputChanged,
    LostForGood,
    Refused,
    ResultNotWritten,
    RetryPolicy,
)
from vidproc.mmp.codec import (
    Decoder,
    MessageEnded,
    MessageStarted,
    NeedData,
    PayloadChunk,
    encode_head,
)
from vidproc.mmp.errors import RemoteProtocolError

TASK = "00112233445566778899aabbccddeeff"


def refusal(code: int, **extra: Any) -> dict[str, Any]:
    """Return an error answer as a server sends it."""
    return {
        "error": {
            "code": code,
            "description": f"Description of {code}.",
            "solution": f"Solution of {code}.",
            **extra,
        }
    }


def status(state: str, **more: Any) -> dict[str, Any]:
    """Return a status answer in its short form."""
    return {"status": state, "task_id": TASK, "type": "gif", "error": None, **more}


class Peer(Protocol):
    """One connection to the scripted server."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.decoder = Decoder()
        self.fields: dict[str, Any] = {}
        self.media_type = ""
        self.received = 0
        self.deaf = False

    def connectionMade(self) -> None:
        self.server.peers.add(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.server.peers.discard(self)

    def dataReceived(self, data: bytes) -> None:
        self.decoder.receive_data(data)
        while not self.deaf:
            event = self.decoder.next_event()
            if isinstance(event, NeedData):
                return
            if isinstance(event, MessageStarted):
                self.fields = json.loads(event.json)
                self.media_type = event.media_type
                self.received = 0
                self.server.requests.append(self.fields)
                self.server.head(self, event.payload_size)
            elif isinstance(event, PayloadChunk):
                self.server.chunk(self, bytes(event.data))
                self.received += len(event.data)
            elif isinstance(event, MessageEnded):
                self.server.whole(self)

    def answer(self, fields: dict[str, Any], media_type: str = "", payload: bytes = b"") -> None:
        head = encode_head(json.dumps(fields).encode(), media_type, len(payload))
        self.transport.write(head + payload)
        if self.server.closes_after_answer:
            self.deaf = True
            self.transport.loseConnection()

    def cut(self) -> None:
        self.deaf = True
        self.transport.abortConnection()


class ScriptedServer(Factory):
    """A small MMP server that does as it is told; `requests` has what was asked.

    The `cut_...` settings work once each. `plan` lists what a watch or a poll sees, one by one.
    """

    def __init__(self) -> None:
        self.peers: set[Peer] = set()
        self.requests: list[dict[str, Any]] = []
        self.uploads: dict[str, bytearray] = {}
        self.unknown: set[str] = set()
        self.refuse: dict[str, dict[str, Any]] = {}
        self.refuse_head: dict[str, Any] | None = None
        self.closes_after_answer = False
        self.plan = [
            status("queued", queue_position=1),
            status("processing", stage="encoding", progress=0.5),
            status("completed"),
        ]
        self.details: dict[str, Any] = {}
        self.tasks: list[Any] = []
        self.result = b"result " * 1000
        self.kind = "gif"
        self.checksum = hashlib.sha256(self.result).hexdigest()
        self.cut_upload_at: int | None = None
        self.cut_download_at: int | None = None
        self.cut_watch = False
        self.cut_always = False
        self.silent_watch = False
        self.bare = False

    def buildProtocol(self, address: Any) -> Peer:
        return Peer(self)

    def actions(self) -> list[str]:
        """The actions asked for, in order."""
        return [fields["action"] for fields in self.requests]

    def head(self, peer: Peer, payload_size: int) -> None:
        if self.cut_always:
            peer.cut()
        elif self.refuse_head is not None and peer.fields["action"] == "upload":
            peer.answer(self.refuse_head)

    def chunk(self, peer: Peer, data: bytes) -> None:
        if self.refuse_head is not None:
            return
        stored = self.uploads.setdefault(peer.fields.get("upload_id", "plain"), bytearray())
        if peer.received == 0 and not peer.fields.get("offset"):
            stored.clear()
        stored += data
        if self.cut_upload_at is not None and len(stored) >= self.cut_upload_at:
            del stored[self.cut_upload_at :]
            self.cut_upload_at = None
            peer.cut()

    def whole(self, peer: Peer) -> None:
        action = peer.fields["action"]
        if action == "upload" and self.refuse_head is not None:
            return
        if action in self.unknown:
            peer.answer(refusal(400))
        elif action in self.refuse:
            peer.answer(self.refuse[action])
        else:
            getattr(self, f"do_{action}")(peer)

    def do_upload(self, peer: Peer) -> None:
        peer.answer({"status": "accepted", "task_id": TASK, "message": "ok"})

    def do_upload_status(self, peer: Peer) -> None:
        stored = self.uploads.get(peer.fields["upload_id"], b"")
        peer.answer({"status": "partial", "offset": len(stored)})

    def do_status(self, peer: Peer) -> None:
        if peer.fields.get("detail"):
            peer.answer({**status("completed"), **self.details})
        else:
            peer.answer(self.plan.pop(0) if len(self.plan) > 1 else self.plan[0])

    def do_watch(self, peer: Peer) -> None:
        if self.silent_watch:
            return
        while len(self.plan) > 1:
            peer.answer(self.plan.pop(0))
            if self.cut_watch:
                self.cut_watch = False
                peer.deaf = True
                # After what was written: the client shall see it.
                peer.transport.loseConnection()
                return
        peer.answer(self.plan[0])

    def do_download(self, peer: Peer) -> None:
        offset = 0 if self.bare else peer.fields.get("offset", 0)
        if offset > len(self.result):
            peer.answer(refusal(409))
            return
        fields: dict[str, Any] = {"status": "completed"}
        if not self.bare:
            fields |= {"size": len(self.result), "offset": offset, "sha256": self.checksum}
        payload = self.result[offset:]
        if self.cut_download_at is not None:
            head = encode_head(json.dumps(fields).encode(), self.kind, len(payload))
            peer.transport.write(head + payload[: self.cut_download_at])
            self.cut_download_at = None
            peer.deaf = True
            peer.transport.loseConnection()
        else:
            peer.answer(fields, self.kind, payload)

    def do_cancel(self, peer: Peer) -> None:
        peer.answer({"status": "cancelled"})

    def do_list(self, peer: Peer) -> None:
        if "token" in peer.fields:
            peer.answer({"status": "ok", "tasks": self.tasks})
        else:
            peer.answer(refusal(401))

    def do_info(self, peer: Peer) -> None:
        peer.answer(
            {
                "status": "ok",
                "version": "9.9",
                "limits": {"max_upload": 1 << 30, "retention": 86400},
                "operations": {"gif": {"fps": {"minimum": 1, "maximum": 50}}},
            }
        )


class ServerCase(TestCase):
    """A test with a scripted server on a loopback port of its own, and a folder.

    What clients remember goes to `state`, for those in processes of their own, too.
    """

    def setUp(self) -> None:
        self.server = ScriptedServer()
        self.port = self.listen(self.server)
        self.folder = Path(tempfile.mkdtemp(dir=self.mktemp_folder()))
        self.state = Path(self.mktemp()).absolute()
        environment = mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(self.state)})
        environment.start()
        self.addCleanup(environment.stop)
        self.notices: list[str] = []
        self.logged = io.StringIO()
        self.log = logging.Logger("test", logging.INFO)
        self.log.addHandler(logging.StreamHandler(self.logged))

    def mktemp_folder(self) -> str:
        folder = self.mktemp()
        os.makedirs(folder)
        return folder

    def listen(self, factory: Factory) -> int:
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")

        def stop() -> Deferred[None]:
            for peer in list(getattr(factory, "peers", ())):
                peer.transport.abortConnection()
            # Both ends need a turn of the reactor to see that they are closed.
            done = Deferred.fromCoroutine(self.settle())
            return done.addCallback(lambda _: listening.stopListening())

        self.addCleanup(stop)
        return listening.getHost().port

    async def settle(self) -> None:
        for _ in range(3):
            await task.deferLater(reactor, 0)

    def client(self, **options: Any) -> Client:
        options = {"retry": RetryPolicy(base=0.001), "stall_timeout": 10.0, **options}
        client = Client(
            reactor,
            "127.0.0.1",
            options.pop("port", self.port),
            log=self.log,
            notice=self.notices.append,
            **options,
        )
        self.addCleanup(client.close)
        return client

    def film(self, size: int = 3_000_000, name: str = "film.mp4") -> Path:
        path = self.folder / name
        path.write_bytes(os.urandom(min(size, 65536)) * (size // 65536 + 1))
        os.truncate(path, size)
        return path

    async def send(self, client: Client, path: Path, on_progress: Any = None) -> str:
        source = Source(path)
        self.addCleanup(source.close)
        return await client.upload(
            "gif",
            {"start_time": 0, "duration": 5},
            source.file,
            source.size,
            media_type=source.media_type,
            filename=source.label,
            on_progress=on_progress or (lambda sent: None),
            unchanged=source.unchanged,
        )

    def part(self, task_id: str = TASK) -> PartFile:
        part = PartFile(self.folder, task_id)
        part.open()
        self.addCleanup(part.close)
        return part

    async def fails(self, kind: type[BaseException], awaitable: Any) -> Any:
        """Wait for something that must fail with `kind` and return the exception."""
        return await self.assertFailure(Deferred.fromCoroutine(awaitable), kind)


class UploadTests(ServerCase):
    """Sending a file."""

    async def test_a_file_arrives_whole_with_its_kind_and_parameters(self) -> None:
        """The payload is the file, the media type its extension, the answer's task id is had."""
        path = self.film()
        sent: list[int] = []
        task_id = await self.send(self.client(), path, sent.append)
        self.assertEqual(task_id, TASK)
        [request] = self.server.requests
        self.assertEqual(request["action"], "upload")
        self.assertEqual(request["type"], "gif")
        self.assertEqual(request["parameters"], {"start_time": 0, "duration": 5})
        self.assertEqual(request["size"], 3_000_000)
        self.assertEqual(self.server.uploads[request["upload_id"]], path.read_bytes())
        self.assertEqual((sent[0], sent[-1]), (0, 3_000_000))

    async def test_a_token_goes_with_every_request_and_never_into_the_log(self) -> None:
        """The JSON has the token; the log has not."""
        client = self.client(token="s3cret")
        await self.send(client, self.film(1000))
        await client.request("status", task_id=TASK)
        self.assertEqual([fields.get("token") for fields in self.server.requests], ["s3cret"] * 2)
        self.assertNotIn("s3cret", self.logged.getvalue())

    async def test_an_early_refusal_ends_a_big_upload_at_once(self) -> None:
        """An error answer that comes during the payload is reported; the rest stays here."""
        self.server.refuse_head = refusal(413)
        path = self.folder / "big.mp4"
        path.touch()
        os.truncate(path, 1 << 30)  # sparse
        sent: list[int] = []
        refused = await self.fails(Refused, self.send(self.client(), path, sent.append))
        self.assertEqual((refused.code, refused.solution), (413, "Solution of 413."))
        self.assertLess(sent[-1], 1 << 28)

    async def test_a_broken_upload_goes_on_at_the_servers_offset(self) -> None:
        """After a cut the server is asked what it has, and only the rest is sent."""
        self.server.cut_upload_at = 1_000_000
        path = self.film()
        self.assertEqual(await self.send(self.client(), path), TASK)
        self.assertEqual(self.server.actions(), ["upload", "upload_status", "upload"])
        first, _, second = self.server.requests
        self.assertEqual(second["offset"], 1_000_000)
        self.assertEqual(second["upload_id"], first["upload_id"])
        self.assertEqual(self.server.uploads[first["upload_id"]], path.read_bytes())
        self.assertEqual(len(self.notices), 1)

    async def test_a_server_that_cannot_resume_gets_a_plain_upload_again(self) -> None:
        """A 400 to upload_status means starting over, not giving up."""
        self.server.cut_upload_at = 1_000_000
        self.server.unknown = {"upload_status"}
        path = self.film()
        self.assertEqual(await self.send(self.client(), path), TASK)
        last = self.server.requests[-1]
        self.assertNotIn("offset", last)
        self.assertEqual(self.server.uploads[last["upload_id"]], path.read_bytes())

    async def test_an_upload_that_was_complete_is_not_sent_again(self) -> None:
        """When upload_status answers accepted, that is the answer."""
        self.server.cut_upload_at = 3_000_000
        self.server.do_upload_status = self.server.do_upload  # type: ignore[method-assign]
        self.assertEqual(await self.send(self.client(), self.film()), TASK)
        self.assertEqual(self.server.actions(), ["upload", "upload_status"])

    async def test_a_wrong_offset_is_corrected_by_the_servers(self) -> None:
        """A 409 that names the right offset is followed; the file arrives whole."""
        answers = [refusal(409, offset=1_000_000), {"status": "accepted", "task_id": TASK}]
        self.server.do_upload = lambda peer: peer.answer(answers.pop(0))  # type: ignore
        self.assertEqual(await self.send(self.client(), self.film()), TASK)
        self.assertEqual(self.server.requests[-1]["offset"], 1_000_000)

    async def test_a_file_that_changes_is_not_resumed(self) -> None:
        """Half of the old file and half of the new one would be neither."""
        self.server.cut_upload_at = 1_000_000
        path = self.film()

        def change(sent: int) -> None:
            os.utime(path, ns=(1, 1))

        await self.fails(InputChanged, self.send(self.client(), path, change))

    async def test_a_file_that_shrinks_while_it_is_sent_is_reported(self) -> None:
        """A read that ends early ends the upload with a sentence."""
        path = self.film()

        def shrink(sent: int) -> None:
            os.truncate(path, 1000)

        await self.fails(InputChanged, self.send(self.client(), path, shrink))


class ConnectingTests(ServerCase):
    """Getting a connection, and losing it."""

    def closed_port(self) -> int:
        listening = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        port = listening.getHost().port
        self.addCleanup(lambda: None)
        self.closing = listening.stopListening()
        return port

    async def test_a_refused_first_connection_is_final_and_says_how_to_start_a_server(self) -> None:
        """No second try; the error names host and port."""
        port = self.closed_port()
        await self.closing
        problem = await self.fails(ConnectFailed, self.client(port=port).request("info"))
        self.assertIn(f"127.0.0.1 port {port}", str(problem))
        self.assertIn(f"twistd -n vidproc --port {port}", problem.advice)
        self.assertEqual(self.notices, [])

    async def test_a_connection_that_always_breaks_is_given_up(self) -> None:
        """Five tries more without any progress, then it is lost for good."""
        self.server.cut_always = True
        problem = await self.fails(LostForGood, self.client().request("status", task_id=TASK))
        self.assertIn("add --tls", problem.advice)
        self.assertEqual(len(self.server.requests), 6)
        self.assertEqual(len(self.notices), 5)

    async def test_a_peer_that_is_no_mmp_server_is_named_as_such(self) -> None:
        """Foreign bytes end it at once, with what to check: HTTP, or TLS that was sent plain."""
        http = b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100
        for said in (http, bytes.fromhex("15030300020246")):
            await self.meet_foreigner(said)

    async def meet_foreigner(self, said: bytes) -> None:
        factory = Factory()
        factory.peers = set()  # type: ignore[attr-defined]

        class Foreign(Protocol):
            def connectionMade(self) -> None:
                factory.peers.add(self)  # type: ignore[attr-defined]
                self.transport.write(said)

            def connectionLost(self, reason: Any = None) -> None:
                factory.peers.discard(self)  # type: ignore[attr-defined]

        factory.protocol = Foreign
        client = self.client(port=self.listen(factory))
        problem = await self.fails(ConnectFailed, client.request("info"))
        self.assertIn("does not speak the vidproc protocol", str(problem))
        self.assertIn("--tls", problem.advice)

    async def test_a_server_that_closes_after_each_answer_is_connected_to_again(self) -> None:
        """Requests, one connection each, as old servers want it; nothing of it is a failure."""
        self.server.closes_after_answer = True
        client = self.client()
        for _ in range(3):
            await client.request("status", task_id=TASK)
        self.assertEqual(self.notices, [])

    async def test_requests_share_a_connection_that_stays_open(self) -> None:
        """One connection carries any number of requests."""
        client = self.client()
        await client.request("info")
        await client.request("cancel", task_id=TASK)
        self.assertEqual(len(self.server.peers), 1)

    async def test_a_silent_server_is_given_up_by_the_clock(self) -> None:
        """No byte for the stall time is a broken connection."""
        clock = task.Clock()
        connection = Connection(clock, 30.0)
        transport = FakeTransport()
        connection.makeConnection(transport)  # type: ignore[arg-type]
        waiting = connection.request({"action": "info"})
        clock.advance(29)
        self.assertNoResult(waiting)
        connection.dataReceived(b"\0")
        clock.advance(29)
        self.assertNoResult(waiting)
        clock.advance(1)
        self.failureResultOf(waiting, ConnectionBroken)
        self.assertTrue(transport.aborted)
        self.assertEqual(clock.getDelayedCalls(), [])


class FakeTransport:
    """As much of a transport as a connection touches."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None


class ConnectionTests(TestCase):
    """One connection, without a network."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.connection = Connection(self.clock, 60.0)
        self.transport = FakeTransport()
        self.connection.makeConnection(self.transport)  # type: ignore[arg-type]

    def test_a_payload_is_read_only_as_the_network_takes_it(self) -> None:
        """Each time the transport asks there is one chunk, and no more of the file in memory."""
        file = io.BytesIO(b"x" * (5 << 20))
        sent: list[int] = []
        self.connection.upload({"action": "upload"}, "mp4", file, 5 << 20, sent.append)
        self.assertEqual(file.tell(), 0)
        self.transport.producer.resumeProducing()
        self.assertLessEqual(file.tell(), 1 << 20)
        self.assertEqual(sum(sent), file.tell())
        for _ in range(4):
            self.transport.producer.resumeProducing()
        self.assertIsNone(self.transport.producer)
        self.assertEqual(sum(sent), 5 << 20)

    def test_an_answer_split_in_any_way_is_one_answer(self) -> None:
        """Bytes come as the network likes."""
        waiting = self.connection.request({"action": "status"})
        for byte in encode_head(b'{"status":"queued"}', "", 0):
            self.connection.dataReceived(bytes([byte]))
        self.assertEqual(self.successResultOf(waiting), Answer({"status": "queued"}))

    def test_an_answer_that_is_no_json_object_is_a_clear_error(self) -> None:
        """Defective answers do not end in a traceback."""
        waiting = self.connection.request({"action": "status"})
        self.connection.dataReceived(encode_head(b'{"status":}'))
        self.failureResultOf(waiting, ConnectFailed)

    def test_cancelling_a_request_closes_the_connection(self) -> None:
        """A request that nobody waits for would answer the next one."""
        waiting = self.connection.request({"action": "watch"})
        waiting.addErrback(lambda failure: None)
        waiting.cancel()
        self.assertTrue(self.transport.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_break_says_whether_an_answer_had_begun(self) -> None:
        """That is how a reused connection is told from a broken server."""
        waiting = self.connection.request({"action": "status"})
        self.connection.connectionLost(Failure(error.ConnectionDone()))
        self.assertFalse(self.failureResultOf(waiting, ConnectionBroken).value.answered)


class WatchTests(ServerCase):
    """Following a task."""

    async def watch(self, **options: Any) -> tuple[dict[str, Any], list[str]]:
        seen: list[str] = []
        client = self.client(**options)
        last = await client.watch(TASK, 0.01, lambda fields: seen.append(fields["status"]))
        return last, seen

    async def test_every_status_is_seen_until_the_last(self) -> None:
        """One request; its answers come until a terminal status."""
        last, seen = await self.watch()
        self.assertEqual(seen, ["queued", "processing", "completed"])
        self.assertEqual(last["status"], "completed")
        self.assertEqual(self.server.actions(), ["watch"])

    async def test_a_broken_watch_is_watched_again(self) -> None:
        """The cut goes unnoticed but for a notice."""
        self.server.cut_watch = True
        _, seen = await self.watch()
        self.assertEqual(seen, ["queued", "processing", "completed"])
        self.assertEqual(self.server.actions(), ["watch", "watch"])

    async def test_a_server_without_watch_is_polled(self) -> None:
        """A 400 to watch makes it ask for the status, again and again."""
        self.server.unknown = {"watch"}
        _, seen = await self.watch()
        self.assertEqual(seen, ["queued", "processing", "completed"])
        self.assertEqual(self.server.actions(), ["watch", "status", "status", "status"])

    async def test_a_simple_server_is_polled_with_a_connection_each(self) -> None:
        """Neither watch nor a connection that stays open is needed."""
        self.server.unknown = {"watch"}
        self.server.closes_after_answer = True
        _, seen = await self.watch()
        self.assertEqual(seen, ["queued", "processing", "completed"])

    async def test_an_unknown_task_is_refused(self) -> None:
        """A 404 is no reason to poll."""
        self.server.refuse["watch"] = refusal(404)
        self.assertEqual((await self.fails(Refused, self.watch())).code, 404)

    async def test_a_server_that_restarts_is_waited_for(self) -> None:
        """A 503 in the middle is tried again."""
        self.server.refuse["watch"] = refusal(503)
        real = self.notices.append

        class Healing(list[str]):
            def append(inner, text: str) -> None:
                self.server.refuse.clear()
                real(text)

        self.notices = Healing()
        last, _ = await self.watch()
        self.assertEqual(last["status"], "completed")


class DownloadTests(ServerCase):
    """Fetching a result."""

    async def fetch(self, part: PartFile, target: Path) -> None:
        await self.client().download(TASK, part)
        part.finish(target)

    async def test_a_result_gets_its_name_only_when_it_is_checked(self) -> None:
        """Size and SHA-256 fit, so the part becomes the file."""
        part = self.part()
        target = self.folder / "out.gif"
        await self.fetch(part, target)
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(part.media_type, "gif")
        self.assertEqual(list(self.folder.iterdir()), [target])

    async def test_a_cut_download_goes_on_where_it_stopped(self) -> None:
        """The second request names the offset that the file has reached."""
        self.server.cut_download_at = 2500
        target = self.folder / "out.gif"
        await self.fetch(self.part(), target)
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual([fields.get("offset") for fields in self.server.requests], [None, 2500])

    async def test_what_an_earlier_run_left_is_not_fetched_again(self) -> None:
        """The part's name depends on the task alone, and its bytes count for the checksum."""
        left = self.folder / f".vidproc-{TASK}.part"
        left.write_bytes(self.server.result[:3000])
        target = self.folder / "out.gif"
        await self.fetch(self.part(), target)
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertEqual(self.server.requests[0]["offset"], 3000)
        self.assertFalse(left.exists())

    async def test_a_server_without_offsets_sends_it_all_again(self) -> None:
        """An answer without offset, size and checksum starts at byte 0."""
        (self.folder / f".vidproc-{TASK}.part").write_bytes(b"x" * 3000)
        self.server.bare = True
        target = self.folder / "out.gif"
        await self.fetch(self.part(), target)
        self.assertEqual(target.read_bytes(), self.server.result)

    async def test_a_wrong_checksum_gives_no_file(self) -> None:
        """A damaged result never gets the target's name."""
        self.server.checksum = "0" * 64
        part = self.part()
        target = self.folder / "out.gif"
        await self.fails(ChecksumMismatch, self.fetch(part, target))
        self.assertFalse(target.exists())

    async def test_an_answer_from_another_offset_is_not_mixed_in(self) -> None:
        """Bytes that do not follow those at hand are refused."""
        part = self.part()
        part.write(b"abc")
        with self.assertRaises(RemoteProtocolError):
            part.begin(Answer({"offset": 2, "size": 10}, "gif", 8))

    async def test_sizes_that_contradict_each_other_are_refused(self) -> None:
        """Header and JSON must agree."""
        with self.assertRaises(RemoteProtocolError):
            self.part().begin(Answer({"offset": 0, "size": 10}, "gif", 8))

    async def test_a_hostile_task_id_or_kind_does_not_leave_the_folder(self) -> None:
        """What the network says never becomes a path."""
        part = self.part("../../etc/passwd")
        self.assertEqual(part.path.parent, self.folder)
        part.begin(Answer({}, "/../x", 0))
        self.assertEqual(part.media_type, "bin")

    async def test_a_part_that_is_a_link_is_not_followed(self) -> None:
        """In a shared folder somebody else may have made it."""
        victim = self.folder / "victim"
        victim.write_bytes(b"precious")
        (self.folder / f".vidproc-{TASK}.part").symlink_to(victim)
        with self.assertRaises(ResultNotWritten):
            PartFile(self.folder, TASK).open()
        self.assertEqual(victim.read_bytes(), b"precious")

    async def test_a_part_with_a_second_name_is_left_to_that_name(self) -> None:
        """A run that was killed while it named its result: the result keeps its bytes."""
        named = self.folder / "film_processed.gif"
        named.write_bytes(b"x" * 5000)
        os.link(named, self.folder / f".vidproc-{TASK}.part")
        target = self.folder / "out.gif"
        await self.fetch(self.part(), target)
        self.assertEqual(named.read_bytes(), b"x" * 5000)
        self.assertEqual(target.read_bytes(), self.server.result)
        self.assertNotIn("offset", self.server.requests[0])

    async def test_a_taken_name_is_kept_on_a_file_system_without_links(self) -> None:
        """Also when it is taken in the moment between the look and the move."""
        part = self.part()
        target = self.folder / "out.gif"

        def refuse(source: Path, name: Path) -> None:
            if name == target:
                target.write_bytes(b"mine")
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "link", refuse)
        await self.client().download(TASK, part)
        named = part.finish(target, replace=False)
        self.assertEqual(target.read_bytes(), b"mine")
        self.assertEqual(named, self.folder / "out_2.gif")
        self.assertEqual(named.read_bytes(), self.server.result)

    async def test_a_failed_move_leaves_no_empty_file(self) -> None:
        """The name that it took is free again."""
        part = self.part()

        def refuse(*names: Any) -> None:
            raise OSError(5, "Input/output error")

        self.patch(os, "link", refuse)
        self.patch(Path, "replace", refuse)
        await self.client().download(TASK, part)
        with self.assertRaises(ResultNotWritten):
            part.finish(self.folder / "out.gif", replace=False)
        self.assertEqual(list(self.folder.iterdir()), [part.path])

    async def test_a_full_disk_ends_the_download_with_a_sentence(self) -> None:
        """What the disk says is said; the part stays for later."""

        class FullDisk:
            offset = 0

            def begin(self, answer: Answer) -> None:
                pass

            def write(self, data: Any) -> None:
                raise ResultNotWritten("The result can't be written: No space left on device.")

        await self.fails(ResultNotWritten, self.client().download(TASK, FullDisk()))


class RetryPolicyTests(TestCase):
    """How long to wait before the next try."""

    def pauses(self, jitter: Callable[[], float]) -> list[float]:
        policy = RetryPolicy(base=1.0, cap=10.0, jitter=jitter)
        return [policy.pause(failures) for failures in range(1, 7)]

    def test_pauses_grow_to_a_limit(self) -> None:
        """1, 2, 4, 8 seconds and then the cap."""
        self.assertEqual(self.pauses(lambda: 0.0), [1, 2, 4, 8, 10, 10])

    def test_a_random_part_spreads_them(self) -> None:
        """Up to half of each pause is left out at random."""
        self.assertEqual(self.pauses(lambda: 1.0), [0.5, 1, 2, 4, 5, 5])


class AnswerTests(TestCase):
    """What is an error, and what only looks like one."""

    def test_a_failed_tasks_status_is_not_a_refusal(self) -> None:
        """A status has an error text of its own."""
        self.assertIsNone(Answer({"status": "failed", "error": "Broken file."}).refusal())
        self.assertIsNone(Answer({"status": "queued", "error": None}).refusal())

    def test_errors_of_other_servers_are_understood(self) -> None:
        """Optional keys may be missing; a text instead of an object will do."""
        for fields in ({"error": {}}, {"error": "no"}, {"status": "error", "message": "no"}):
            self.assertIsInstance(Answer(fields).refusal(), Refused)
