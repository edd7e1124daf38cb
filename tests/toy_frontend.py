"""A second frontend, as small as one can be: ``gif SIZE`` and the bytes; a line is the answer."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from vidproc.errors import ServiceError
from vidproc.frontends.interface import Backend
from vidproc.frontends.pacing import Pacing
from vidproc.frontends.peers import peer_key
from vidproc.frontends.receiving import Receiving
from vidproc.frontends.refusals import TurnedAway
from vidproc.tasks.uploads.session import AcceptedTask, UploadSession
from vidproc.tasks.uploads.submission import Submission
from vidproc.transport import IStreamTransport


class ToyProtocol(LineReceiver):
    delimiter = b"\n"
    transport: IStreamTransport
    upload: Receiving | None = None
    lost = False

    def __init__(self, backend: Backend) -> None:
        self.tasks, self.gate = backend.tasks, backend.gate
        self.pacing = Pacing(
            backend.reactor, self.gate.throttle, self.adjust, lambda _: self.adjust()
        )

    def connectionMade(self) -> None:
        self.peer = peer_key(self.transport.getPeer())
        try:
            self.gate.connected(self)
            self.gate.met(self, self.peer)
        except TurnedAway:
            self.abort()
        except ServiceError as error:
            self.end(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self.pacing.stop()
        if self.upload is not None:
            self.upload.abort()
        self.gate.disconnected(self)

    def lineReceived(self, line: bytes) -> None:
        self.pauseProducing()
        ensureDeferred(self.begin(line.decode())).addErrback(self.failed)

    async def begin(self, line: str) -> None:
        name, size = line.split()
        parameters = {"start_time": 0, "duration": 1}
        submission = Submission(name, parameters, "mp4", int(size))
        session = await self.tasks.admit(submission, self.gate.caller(self.peer, None))
        assert isinstance(session, UploadSession)
        self.upload, self.left = (
            Receiving(session, self.transport, self.adjust, self.end),
            int(size),
        )
        if self.lost:
            self.upload.abort()
            return
        self.setRawMode()
        self.resumeProducing()

    def rawDataReceived(self, data: bytes) -> None:
        self.gate.traffic.received += len(data)
        if self.upload is not None and self.left > 0:
            self.upload.write(data[: self.left])
            self.left -= len(data)
            self.pacing.took(len(data))
            if self.left <= 0:
                ensureDeferred(self.finish(self.upload.session)).addErrback(self.failed)

    def adjust(self) -> None:
        held = self.pacing.paused or (self.upload is not None and self.upload.held)
        self.transport.pauseProducing() if held else self.transport.resumeProducing()

    async def finish(self, session: UploadSession) -> None:
        accepted = await session.finish()
        assert isinstance(accepted, AcceptedTask)
        self.end(f"accepted {accepted.task_id}")

    def failed(self, failure: Failure) -> None:
        known = isinstance(failure.value, ServiceError)
        self.end(failure.value if known else self.gate.fault(failure))

    def end(self, answer: Any) -> None:
        if self.upload is not None:
            self.upload.abort()  # of no effect once it is finished
        self.upload = None
        self.sendLine(str(answer).encode())
        self.transport.loseConnection()

    @property
    def transferring(self) -> bool:
        return self.upload is not None

    def close(self) -> None:
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()


class ToyFrontend:
    def __init__(self, backend: Backend) -> None:
        self.factory = Factory.forProtocol(lambda: ToyProtocol(backend))

    def start(self) -> None: ...
    def reload(self) -> None: ...
    def stop(self) -> None: ...
