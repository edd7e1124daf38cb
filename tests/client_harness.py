"""A scripted server, and the base classes of the client's tests."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast
from unittest import mock

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol, Protocol, ServerFactory
from twisted.trial.unittest import TestCase

from tests.ports import port_of
from vidproc.client.client import Client
from vidproc.client.command_line import parse_command_line
from vidproc.client.display import PlainDisplay
from vidproc.client.files import PartFile
from vidproc.client.link import Link, RetryPolicy, Server
from vidproc.client.options import Options
from vidproc.client.session import Session
from vidproc.client.source import Source
from vidproc.client.upload import UploadRequest
from vidproc.mmp.codec import (
    Decoder,
    MessageEnded,
    MessageStarted,
    NeedData,
    PayloadChunk,
    encode_head,
)
from vidproc.reactor import IFullReactor
from vidproc.transport import IStreamTransport

TASK = "00112233445566778899aabbccddeeff"

LIST = "--list --token-file TOKEN"
COMMAND = [sys.executable, "-m", "vidproc.client"]


class FakeTransport:
    """The parts of a transport that a connection uses."""

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


def refusal(code: int, **extra: Any) -> dict[str, Any]:
    """Return an error answer as a server would send it."""
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

    transport: IStreamTransport

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


class ScriptedServer(ServerFactory):
    """A small MMP server that follows a script. `requests` are the requests it received.

    The `cut_...` settings work once each. `plan` lists the statuses that watches and polls get.
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
        """The requested actions, in order."""
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
                # Only after the client has got what was written.
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
    """A test with a scripted server on its own loopback port, and a folder.

    All clients, even those in other processes, store their resume files in `state`.
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
        folder: str = self.mktemp()
        os.makedirs(folder)
        return folder

    def listen(self, factory: ServerFactory) -> int:
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")

        def stop() -> Deferred[None]:
            for peer in list(getattr(factory, "peers", ())):
                peer.transport.abortConnection()
            # Both ends need an iteration of the reactor to notice that they are closed.
            done = Deferred.fromCoroutine(self.settle())
            return done.addCallback(lambda _: listening.stopListening())

        self.addCleanup(stop)
        return port_of(listening)

    async def settle(self) -> None:
        for _ in range(3):
            await task.deferLater(reactor, 0)

    def client(self, **options: Any) -> Client:
        options = {"retry": RetryPolicy(base=0.001), "stall_timeout": 10.0, **options}
        server = Server(
            "127.0.0.1",
            options.pop("port", self.port),
            options.pop("tls", None),
            options.pop("token", None),
        )
        link = Link(
            cast(IFullReactor, reactor),
            server,
            log=self.log,
            notice=self.notices.append,
            **options,
        )
        self.addCleanup(link.close)
        return Client(link)

    def film(self, size: int = 3_000_000, name: str = "film.mp4") -> Path:
        path = self.folder / name
        path.write_bytes(os.urandom(min(size, 65536)) * (size // 65536 + 1))
        os.truncate(path, size)
        return path

    async def send(self, client: Client, path: Path, on_progress: Any = None) -> str:
        source = Source(path)
        self.addCleanup(source.close)
        return await client.upload(
            UploadRequest(
                operation="gif",
                parameters={"start_time": 0, "duration": 5},
                file=source.file,
                size=source.size,
                media_type=source.media_type,
                filename=source.label,
                on_progress=on_progress or (lambda sent: None),
                unchanged=source.unchanged,
            )
        )

    def part(self, task_id: str = TASK) -> PartFile:
        part = PartFile(self.folder, task_id)
        part.open()
        self.addCleanup(part.close)
        return part

    async def fails(self, kind: type[BaseException], awaitable: Any) -> Any:
        """Wait for a failure with `kind`, and return the exception."""
        return await self.assertFailure(Deferred.fromCoroutine(awaitable), kind)


class SessionCase(ServerCase):
    """A complete run against the scripted server, in this process."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.film(100_000)
        self.out = io.StringIO()
        self.err = io.StringIO()

    def options(self, line: str, port: int | None = None) -> Options:
        token = self.state.parent / "token"
        token.write_text("s3cret\n")
        places = {"FILM": self.path, "FOLDER": self.folder, "TOKEN": token}
        words = [str(places.get(word, word)) for word in shlex.split(line)]
        return parse_command_line(
            [*words, "--host", "127.0.0.1", "--port", str(self.port if port is None else port)]
        )

    def session(self, line: str, **client: Any) -> Session:
        options = self.options(line, client.get("port"))
        display = PlainDisplay(self.err, options.check_interval, time.monotonic)
        self.notices = Notices(display)  # type: ignore[assignment]
        return Session(
            options,
            cast(IFullReactor, reactor),
            client=self.client(**client),
            display=display,
            out=self.out,
            err=self.err,
            log=self.log,
            early=client.get("early"),
        )

    async def run_command(self, line: str, **client: Any) -> int:
        return await self.session(line, **client).start()

    @property
    def errors(self) -> str:
        return self.err.getvalue()

    @property
    def printed(self) -> str:
        return self.out.getvalue()


class Notices:
    """Passes notices to a display, as `run` does."""

    def __init__(self, display: PlainDisplay) -> None:
        self.append = display.line


class Collector(ProcessProtocol):
    def __init__(self) -> None:
        self.done: Deferred[tuple[int, str, str]] = Deferred()
        self.out, self.err = io.BytesIO(), io.BytesIO()
        self.outReceived = self.out.write  # type: ignore[assignment]
        self.errReceived = self.err.write  # type: ignore[assignment]

    def processEnded(self, reason: Any) -> None:
        code = reason.value.exitCode if reason.check(ProcessTerminated) else 0
        self.done.callback((code, self.out.getvalue().decode(), self.err.getvalue().decode()))
