"""One MMP connection: bytes to requests, requests to the task service, answers to bytes.

The decoder is asked for the next event only when the last request has been answered, so answers
come in order and nothing piles up. Flow control, both ways: reading pauses when the disk lags or
when a client sends ahead of its answers; nothing is written to a client that does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.answers import Answer, RequestId
from vidproc.errors import ErrorCode, ServiceError
from vidproc.files.splice import Spliced
from vidproc.files.transfer import TransferStopped
from vidproc.frontends.interface import Backend
from vidproc.frontends.mmp.reports import describe_server, list_report, status_report
from vidproc.frontends.mmp.watching import Watching
from vidproc.frontends.peers import peer_key
from vidproc.frontends.receiving import DIRECT_FROM, MAX_READ_AHEAD, Receiving
from vidproc.frontends.refusals import TurnedAway
from vidproc.frontends.reports import accepted, cancelled
from vidproc.frontends.sending import Sending
from vidproc.frontends.slow_clients import SlowClientWatch, Waiting
from vidproc.frontends.timer import Timer
from vidproc.mmp import messages
from vidproc.mmp.codec import (
    NEED_DATA,
    Decoder,
    Event,
    MessageStarted,
    PayloadChunk,
)
from vidproc.mmp.errors import RemoteProtocolError
from vidproc.tasks.results import Result
from vidproc.tasks.settings import Caller
from vidproc.tasks.uploads.refusals import taken_over
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload
from vidproc.tasks.uploads.submission import Submission
from vidproc.tasks.views import TaskView
from vidproc.topics import Topic, TopicLogger
from vidproc.transport import IStreamTransport

DISCARD_TIME = 30.0
"""Seconds for which the payload of a refused request is read and thrown away."""
LINGER_TIME = 5.0
"""Seconds for which a connection that is done for is read, so that its last answer arrives."""
REQUESTS_PER_TURN = 16
"""Requests of one connection that are served before other connections have their turn."""
HEAD_TIME = 20.0
"""Seconds within which a message's header, JSON and media type must arrive."""


class Life(Enum):
    """How far a connection has come."""

    OPEN = auto()
    """It serves requests."""
    ENDING = auto()
    """Its last answer was written; what still comes in is read and thrown away."""
    LOST = auto()
    """It is gone."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class MMPServerProtocol(Protocol):
    """Serves one connection. Implements `vidproc.frontends.gate.Connection`."""

    log = TopicLogger(Topic.CONNECTIONS)

    transport: IStreamTransport

    def __init__(self, backend: Backend) -> None:
        self.peer: str | None = None
        self._backend = backend
        self._gate = backend.gate
        self._tasks = backend.tasks
        self.clock = backend.reactor
        self._decoder = Decoder()
        self._life = Life.OPEN
        self._request: messages.Request | None = None
        self._busy = False
        """Whether a request is being answered."""
        self._pumping = False
        self._input_ended = False
        self._write_blocked = False
        self._reading_paused = False
        self._taking = False
        """Whether a thread reads the socket, past the reactor."""
        # What the connection is at, besides requests:
        self._receiving: Receiving | None = None
        self._sending: Sending | None = None
        self._watching: Watching | None = None
        # What ends or goes on after a time:
        self._discarding = Timer(self.clock, self.abort)
        self._lingering = Timer(self.clock, self.abort)
        self._head_late = Timer(self.clock, self._cut_off_head)
        self._next_turn = Timer(self.clock, self._pump)
        self._throttled = Timer(self.clock, self._unthrottle)
        self._came_fast = False

    # --- the connection ------------------------------------------------------------------------

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        self._slow_client = SlowClientWatch(
            self.clock,
            self._gate.idle_timeout,
            self._waiting,
            self._client_is_silent,
            self._client_is_slow,
        )
        if not self._passes(lambda: self._gate.connected(self)):
            return
        proxied = isinstance(self.transport, ProtocolWrapper) and not ISSLTransport.providedBy(
            self.transport
        )
        if not proxied:
            self._meet()

    def _meet(self) -> None:
        """Learn who the client is; behind a proxy that is known when its first bytes are here."""
        self.peer = peer_key(self.transport.getPeer())
        peer = self.peer
        self._passes(lambda: self._gate.met(self, peer))

    def _passes(self, step: Callable[[], None]) -> bool:
        """Take a step through the gate; end the connection when it is refused there."""
        try:
            step()
        except TurnedAway:
            self._life = Life.ENDING
            self.abort()
        except ServiceError as refusal:
            self._send(messages.error_answer(refusal))
            self._end_connection()
        return self._life is Life.OPEN

    def dataReceived(self, data: bytes) -> None:
        if self.peer is None and self._life is Life.OPEN:
            self._meet()
        self._took(len(data))
        if self._life is not Life.OPEN:
            return
        self._decoder.receive_data(data)
        self._pump()
        if len(data) >= DIRECT_FROM:
            self._take_directly()

    def _took(self, size: int) -> None:
        """Note bytes from the client; a payload that is ahead of its share pauses, one that is
        thrown away too: it costs as much to read."""
        self._slow_client.received(size)
        self._gate.traffic.received += size
        payload = self._receiving is not None or self._decoder.payload_remaining > 0
        if (payload or self._life is Life.ENDING) and not self._throttled.running:
            wait = self._gate.throttle.take(size)
            if wait > 0:
                self._came_fast = size >= DIRECT_FROM
                self._throttled.start(wait)
                self._adjust_reading()

    def _unthrottle(self) -> None:
        self._slow_client.forgive()
        if self._came_fast:
            self._take_directly()
        self._adjust_reading()

    def readConnectionLost(self) -> None:
        """The client has closed its sending side; it still gets its answers."""
        self._input_ended = True
        self._pump()

    def writeConnectionLost(self) -> None:
        """Our own sending side is closed, by `_end_connection`, which bounds what is left."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._life = Life.LOST
        for timer in (
            self._discarding,
            self._lingering,
            self._head_late,
            self._next_turn,
            self._throttled,
            self._slow_client,
        ):
            timer.stop()
        self._end_watch()
        if self._sending is not None:
            self._sending.stop()
        self._abort_upload()
        self._gate.disconnected(self)

    # --- requests ------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Take what events there are, as long as no request is being answered."""
        if self._pumping or self._next_turn.running:
            return
        self._pumping = True
        turns = REQUESTS_PER_TURN
        try:
            while self._life is Life.OPEN and not (self._busy or self._write_blocked):
                event = self._decoder.next_event()
                if event is NEED_DATA:
                    self._time_head()
                    self._input_dry()
                    break
                self._take(event)
                turns -= isinstance(event, MessageStarted)
                if turns == 0:
                    # Others want to be served, too.
                    self._next_turn.start(0)
                    break
        except RemoteProtocolError as error:
            self._refuse_stream(error)
        finally:
            self._pumping = False
        self._adjust_reading()

    def _take(self, event: Event | Any) -> None:
        if isinstance(event, PayloadChunk):
            if self._receiving is not None:
                self._receiving.write(event.data)
        elif isinstance(event, MessageStarted):
            self._begin_request(event)
        else:
            self._end_request()

    def _time_head(self) -> None:
        """A head that has begun must end soon: byte by byte it would hold its connection for hours.

        Called when everything that has arrived is dealt with.
        """
        if self._decoder.in_head:
            self._head_late.start(HEAD_TIME)
        else:
            self._head_late.stop()

    def _cut_off_head(self) -> None:
        if self._decoder.in_head and not self._busy and self._life is Life.OPEN:
            self._cut_off(f"The request did not arrive within {HEAD_TIME:.0f} s.")

    def _begin_request(self, head: MessageStarted) -> None:
        assert self.peer is not None
        self._head_late.stop()
        self._end_watch()
        self._request = None
        try:
            request = self._request = messages.parse_request(head.json)
            caller = self._gate.caller(self.peer, request.token)
        except ServiceError as error:
            self._send(messages.error_answer(error, messages.request_id(head.json)))
            self._discard_payload(head.payload_size)
            return
        self._serve(self._handle(request, head, caller), head.payload_size)

    def _end_request(self) -> None:
        self._gate.traffic.sample(self.transport)
        self._discarding.stop()
        if self._receiving is not None:
            self._serve(self._finish_upload(self._receiving), 0)

    def _serve(self, answering: Coroutine[Any, Any, None], payload_size: int) -> None:
        """Answer a request; the next event waits until that is done."""
        self._busy = True

        def failed(failure: Failure) -> None:
            if self._life is Life.LOST or failure.check(TransferStopped):
                return
            if isinstance(failure.value, ServiceError):
                error = failure.value
            else:
                error = self._gate.fault(failure)
            self._send(messages.error_answer(error, self._request_id()))
            self._receiving = None
            self._discard_payload(payload_size)

        def done(_: object) -> None:
            self._busy = False
            if self._life is not Life.LOST:
                self._slow_client.stirred()
                self._pump()
                self._close_if_draining()

        def unanswered(failure: Failure) -> None:
            # Not even the error could be said: the end of the connection has to.
            self._gate.fault(failure)
            self.abort()

        ensureDeferred(answering).addErrback(failed).addErrback(unanswered).addBoth(done)

    async def _handle(
        self, request: messages.Request, head: MessageStarted, caller: Caller
    ) -> None:
        match request:
            case messages.Upload():
                await self._upload(request, head, caller)
            case messages.Status():
                view = await self._tasks.status(request.task_id, caller)
                self._send(status_report(view, request), detail=request.detail)
            case messages.Watch():
                await self._start_watch(request, caller)
            case messages.Download():
                await self._download(request, caller)
            case messages.Cancel():
                state = await self._tasks.cancel(request.task_id, caller)
                self._answer(cancelled(state))
            case messages.UploadStatus():
                known = await self._tasks.upload_status(str(request.upload_id), caller)
                self._send_upload_result(known)
            case messages.List():
                views = await self._tasks.list(caller)
                # Not cut to one packet: a hundred tasks take some 50 KB.
                self._send(list_report(views, request), detail=True)
            case messages.Info():
                self._send(
                    describe_server(self._backend.server_info(), request), detail=request.detail
                )
        if self._receiving is None:
            self._discard_payload(head.payload_size)

    # --- uploads -------------------------------------------------------------------------------

    async def _upload(self, request: messages.Upload, head: MessageStarted, caller: Caller) -> None:
        submission = Submission(
            type=request.type,
            parameters=request.parameters,
            media_type=head.media_type,
            payload_size=head.payload_size,
            filename=request.filename,
            upload_id=str(request.upload_id) if request.upload_id else None,
            size=request.size,
            offset=request.offset,
            sha256=request.sha256,
        )
        admitted = await self._tasks.admit(submission, caller)
        if isinstance(admitted, AcceptedTask):
            self._send_upload_result(admitted)
            return
        if self._life is Life.LOST:
            admitted.abort()
            return
        if admitted.over:  # a newer connection was quicker
            raise taken_over()
        self._receiving = Receiving(
            admitted, self.transport, self._upload_held, self._upload_broken
        )
        self._slow_client.forgive()

    async def _finish_upload(self, receiving: Receiving) -> None:
        receiving.payload_ended()
        result = await receiving.session.finish()
        self._receiving = None
        self._send_upload_result(result)

    def _upload_held(self) -> None:
        """We wait for the disk or for space, or do so no more."""
        self._slow_client.forgive()
        self._adjust_reading()

    def _upload_broken(self, error: ServiceError) -> None:
        """The session can't go on: say so at once, and throw the rest of the payload away."""
        if self._abort_upload():
            self._send(messages.error_answer(error, self._request_id()))
            self._discard_payload(self._decoder.payload_remaining)

    def _abort_upload(self) -> bool:
        """Give an upload up if one is under way; return whether there was one."""
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.abort()
        return receiving is not None

    def _send_upload_result(self, result: AcceptedTask | PartialUpload) -> None:
        if isinstance(result, AcceptedTask):
            self._answer(accepted(result.task_id))
        else:
            self._answer(messages.Partial(status="partial", offset=result.offset))

    def _answer(self, answer: Answer) -> None:
        """Send an answer with the request's id."""
        answer.id = self._request_id()
        self._send(answer)

    def _take_directly(self) -> None:
        """Let a thread move the payload from the socket to the file, while it comes fast."""
        receiving = self._receiving
        if (
            receiving is None
            or self._life is not Life.OPEN
            or self._busy
            or self._taking
            or self._throttled.running
            or self._decoder.buffered
            or not receiving.can_take_directly(self._decoder.payload_remaining)
        ):
            return
        self._taking = True
        self._adjust_reading()
        taking = receiving.take_directly(self._decoder.payload_remaining, self._gate.throttle.rate)
        taking.addCallback(self._directly_taken)

    def _directly_taken(self, spliced: Spliced) -> None:
        self._taking = False
        if self._life is Life.LOST:
            return
        if spliced.size:
            self._took(spliced.size)
        self._decoder.payload_taken(spliced.size)
        self._pump()
        if spliced.more:
            self._take_directly()

    def _discard_payload(self, size: int) -> None:
        """Read the rest of a payload and throw it away, for a bounded time.

        A client that writes its whole request before it reads would see a reset, not the answer.
        """
        if size and self._life is Life.OPEN:
            self._discarding.start(DISCARD_TIME)

    # --- downloads -----------------------------------------------------------------------------

    async def _download(self, request: messages.Download, caller: Caller) -> None:
        result = await self._tasks.result(request.task_id, caller)
        try:
            if self._life is not Life.LOST:
                await self._send_result(request, result)
        finally:
            result.close()
            self._tasks.note_sent(result, request.offset, request.offset + result.sent)

    async def _send_result(self, request: messages.Download, result: Result) -> None:
        if request.offset > result.size:
            raise ServiceError(
                ErrorCode.CONFLICT,
                f"The offset is {request.offset}, but the result has {result.size} bytes.",
                "Download it from offset 0.",
                offset=result.size,
            )
        answer = messages.DownloadStarts(
            id=request.id,
            status="completed",
            size=result.size,
            offset=request.offset,
            sha256=result.sha256,
        )
        self._send(answer, result.media_type, result.size - request.offset)
        self._slow_client.forgive()
        self._sending = Sending(
            self._backend.disk, result, request.offset, self.transport, self._sent
        )
        if self._write_blocked:
            self._sending.pause()
        try:
            await self._sending.run()
        except OSError as error:
            # The header has promised bytes that can't come: only the end of the connection says so.
            self.log.error(
                "result of task {task_id} can't be read: {error}",
                task_id=request.task_id,
                error=error,
            )
            self.abort()
            raise TransferStopped from error
        finally:
            self._sending = None

    def _sent(self, size: int) -> None:
        self._slow_client.sent(size)
        self._gate.traffic.sent += size

    # --- watching ------------------------------------------------------------------------------

    async def _start_watch(self, request: messages.Watch, caller: Caller) -> None:
        def send(view: TaskView) -> bool:
            if not self._write_blocked:
                self._send(status_report(view, request), detail=request.detail)
            return not self._write_blocked

        watching = Watching(
            self.clock, request.interval, send, self._watch_ended, self._watch_failed
        )
        view, subscription = await self._tasks.watch(request.task_id, caller, watching.show)
        if subscription is not None:
            if self._life is Life.LOST:
                subscription.stop()
                return
            watching.begin(subscription)
        self._watching = watching
        watching.show(view)

    def _watch_ended(self, watching: Watching) -> None:
        """The watched task has ended and its last status was sent."""
        if self._watching is watching:
            self._watching = None
            self._slow_client.stirred()
            self._pump()

    def _watch_failed(self, watching: Watching) -> None:
        """The watched task's status can't be sent, for a fault of ours: say so and close."""
        watching.end()
        if self._watching is watching:
            self._watching = None
        error = self._gate.fault(Failure())
        self._send(messages.error_answer(error, self._request_id()))
        self._end_connection()

    def _end_watch(self) -> None:
        if self._watching is not None:
            watching, self._watching = self._watching, None
            watching.end()

    # --- answers and flow control --------------------------------------------------------------

    def _request_id(self) -> RequestId:
        return None if self._request is None else self._request.id

    def _send(
        self,
        answer: Answer,
        media_type: str = "",
        payload_size: int = 0,
        *,
        detail: bool = False,
    ) -> None:
        if self._life is not Life.LOST:
            data = messages.encode_answer(answer, media_type, payload_size, detail=detail)
            self._gate.traffic.sent += len(data)
            self.transport.write(data)

    def pauseProducing(self) -> None:
        """The client does not read: write nothing more."""
        self._write_blocked = True
        if self._sending is not None:
            self._sending.pause()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._write_blocked = False
        self._slow_client.stirred()
        if self._sending is not None:
            self._sending.resume()
        if self._watching is not None:
            self._watching.catch_up()
        self._pump()

    def stopProducing(self) -> None:
        """The connection is lost; `connectionLost` follows."""

    def _adjust_reading(self) -> None:
        """Read when somebody takes what is read."""
        if self._life is Life.LOST:
            return
        receiving = self._receiving
        ahead = self._decoder.buffered > MAX_READ_AHEAD and (self._busy or self._write_blocked)
        held = receiving is not None and receiving.held
        pause = self._throttled.running or (
            self._life is Life.OPEN and (ahead or held or self._taking)
        )
        if pause != self._reading_paused:
            self._reading_paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _input_dry(self) -> None:
        """Everything that has arrived is dealt with; see whether more can come."""
        if not self._input_ended or self._watching is not None:
            return
        try:
            self._decoder.receive_eof()
        except RemoteProtocolError as error:
            self._abort_upload()
            self._refuse_stream(error)
        else:
            self._end_connection()

    def _refuse_stream(self, error: RemoteProtocolError) -> None:
        """The client does not speak MMP: say so, and end the connection."""
        self.log.info("peer {peer}: {error}", peer=self.peer, error=str(error))
        self._send(
            messages.error_answer(
                ServiceError(
                    ErrorCode.BAD_REQUEST,
                    f"This is not an MMP request: {error}.",
                    "This port speaks MMP (docs/mmp.md), not HTTP and not TLS. Use the vidproc"
                    " client, or send an 8-byte header, then JSON, media type and payload.",
                )
            )
        )
        self._end_connection()

    def _cut_off(self, why: str) -> None:
        """The client is too slow: say so, and end the connection."""
        self.log.info("peer {peer}: {why}", peer=self.peer, why=why)
        error = ServiceError(
            ErrorCode.BAD_REQUEST,
            why,
            "Send it again on a better line; an upload with an upload_id goes on where it stopped.",
        )
        self._send(messages.error_answer(error, self._request_id()))
        self._end_connection()

    # --- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection in good order, for a stop of the server."""
        if self._life is Life.OPEN:
            self._end_connection()

    @property
    def transferring(self) -> bool:
        """Whether a file is on its way, in or out."""
        return self._sending is not None or self._receiving is not None

    def _close_if_draining(self) -> None:
        if self._gate.draining and not self.transferring and not self._busy:
            self.close()

    def _end_connection(self) -> None:
        """Send what was written, then close. What still comes in is read and thrown away.

        Closing with bytes unread makes the kernel reset the connection, and the client lose the
        answer; so only the sending side is closed, until the client closes its own.
        """
        if self._life is Life.OPEN:
            self._life = Life.ENDING
        self._end_watch()
        self._abort_upload()
        if self._life is Life.LOST:
            return
        self.transport.unregisterProducer()
        self._adjust_reading()
        half_closes = ITCPTransport.providedBy(self.transport) and not ISSLTransport.providedBy(
            self.transport
        )
        if self._input_ended or not half_closes:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()
        self._discarding.stop()
        self._lingering.restart(LINGER_TIME)

    def abort(self) -> None:
        """Cut the connection off."""
        if self._life is not Life.LOST:
            self.transport.abortConnection()

    def _waiting(self) -> Waiting:
        """Return who is waited for."""
        if self._sending is not None and (self._write_blocked or self._sending.blocked):
            return Waiting.CLIENT_BLOCKS_FILE
        if self._write_blocked:
            return Waiting.CLIENT_BLOCKS
        receiving = self._receiving
        held = receiving is not None and receiving.held
        if held or self._taking or self._throttled.running:
            return Waiting.US
        if self._busy or self._watching is not None:
            return Waiting.US
        return Waiting.CLIENT if receiving is None else Waiting.CLIENT_SENDS

    def _client_is_silent(self, blocks: bool) -> None:
        self.log.info("peer {peer}: idle, cut off", peer=self.peer)
        if self._decoder.idle or blocks:
            self.abort()
        else:
            timeout = self._gate.idle_timeout
            self._cut_off(f"Nothing came for {timeout:.0f} s within a request.")

    def _client_is_slow(self, why: str) -> None:
        if self._sending is None:
            self._cut_off(why)
        else:
            # No answer can follow within a payload: only the end of the connection says so.
            self.log.info("peer {peer}: {why}", peer=self.peer, why=why)
            self.abort()
