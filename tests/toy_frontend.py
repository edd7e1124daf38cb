"""The smallest possible frontend: a client sends ``gif SIZE`` and the bytes, and gets a line."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from vidproc.errors import ServiceError
from vidproc.frontends.arrival import Arrival
from vidproc.frontends.interface import Backend
from vidproc.frontends.pacing import Pacing
from vidproc.frontends.receiving import Receiving
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
        self.arrival = Arrival(self.gate, self, lambda no: self.end(no) if no else self.abort())
        self.pacing = Pacing(backend.reactor, self.gate.throttle, self.adjust, self.adjust)

    def connectionMade(self) -> None:
        self.close, self.abort = self.transport.loseConnection, self.transport.abortConnection
        self.arrival.made()

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
        self.left = int(size)
        submission = Submission(name, {"start_time": 0, "duration": 1}, "mp4", self.left)
        caller = self.gate.caller(self.arrival.peer or "", None)
        session = cast(UploadSession, await self.tasks.admit(submission, caller))
        self.upload = Receiving(session, self.transport, self.adjust, self.end)
        if self.lost:
            self.upload.abort()
        self.setRawMode()
        self.resumeProducing()

    def rawDataReceived(self, data: bytes) -> None:
        self.gate.traffic.received += len(data)
        if self.upload is None or self.left <= 0:
            return
        self.upload.write(data[: self.left])
        self.left -= len(data)
        self.pacing.took(len(data))
        if self.left <= 0:
            ensureDeferred(self.finish(self.upload.session)).addErrback(self.failed)

    def adjust(self, last_read: int = 0) -> None:
        held = self.pacing.paused or (self.upload is not None and self.upload.held)
        self.transport.pauseProducing() if held else self.transport.resumeProducing()

    async def finish(self, session: UploadSession) -> None:
        accepted = cast(AcceptedTask, await session.finish())
        self.end(f"accepted {accepted.task_id}")

    def failed(self, failure: Failure) -> None:
        error = failure.value
        self.end(error if isinstance(error, ServiceError) else self.gate.fault(failure))

    def end(self, answer: object) -> None:
        if self.upload is not None:
            self.upload.abort()  # no effect once it is finished
            self.upload = None
        self.sendLine(str(answer).encode())
        self.transport.loseConnection()

    @property
    def transferring(self) -> bool:
        return self.upload is not None


class ToyFrontend:
    def __init__(self, backend: Backend) -> None:
        self.factory = Factory.forProtocol(lambda: ToyProtocol(backend))

    def start(self) -> None: ...
    def reload(self) -> None: ...
    def stop(self) -> None: ...
