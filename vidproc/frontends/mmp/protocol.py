"""One MMP connection: bytes to requests, answers to bytes, and how the connection ends.

The decoder is asked for the next event only when the last request has been answered, so answers
are in order and nothing accumulates. Flow control works both ways: reading pauses when the disk
lags or when a client sends requests ahead; nothing is written to a client that does not read.
`states.py` has the states of a connection, `serving.py` serves its requests.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.answers import Answer
from vidproc.errors import ServiceError
from vidproc.files.sender import TransferStopped
from vidproc.files.splice import Spliced
from vidproc.frontends.arrival import Arrival
from vidproc.frontends.interface import Backend
from vidproc.frontends.mmp import states
from vidproc.frontends.mmp.refusals import not_mmp, too_slow
from vidproc.frontends.mmp.serving import RequestServer
from vidproc.frontends.pacing import Pacing
from vidproc.frontends.receiving import DIRECT_FROM, MAX_READ_AHEAD
from vidproc.frontends.slow_clients import SlowClientWatch, Waiting
from vidproc.frontends.timer import Timer
from vidproc.mmp import messages
from vidproc.mmp.codec import NEED_DATA, Decoder, Event, MessageStarted, PayloadChunk
from vidproc.mmp.errors import RemoteProtocolError
from vidproc.request_id import new_request_id, within
from vidproc.topics import Topic, TopicLogger
from vidproc.transport import IStreamTransport, half_closes

REQUESTS_PER_TURN = 16
"""Requests of one connection that are served before it is the others' turn."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class MMPServerProtocol(Protocol):
    """One connection. Implements `vidproc.frontends.gate.Connection` and `ServedConnection`."""

    log = TopicLogger(Topic.CONNECTIONS)

    transport: IStreamTransport

    def __init__(self, backend: Backend) -> None:
        self.state: states.Ready = states.Ready()
        self.clock = backend.reactor
        self._gate = backend.gate
        self._arrival = Arrival(backend.gate, self, self._turn_away)
        self._server = RequestServer(self, backend)
        self._decoder = Decoder()
        self._pacing = Pacing(self.clock, self._gate.throttle, self.adjust_reading, self._may_go_on)
        self._discarding = Timer(self.clock, self.abort)
        self._next_turn = Timer(self.clock, self._pump)
        self._pumping = False
        self._input_ended = False
        self.write_blocked = False
        self._reading_paused = False
        self._request_id: str | None = None
        """Our id of the last request, for the log; not the one that its sender may have given."""
        self.taken_directly = False
        """Whether a thread, and not the reactor, is reading the socket."""

    # --- the connection ------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self.slow_client = SlowClientWatch(
            self.clock,
            self._gate.idle_timeout,
            self._waiting,
            self._client_is_silent,
            self._client_is_slow,
        )
        self._arrival.made()

    @property
    def peer(self) -> str | None:
        """The client, None until it is known."""
        return self._arrival.peer

    def _turn_away(self, refusal: ServiceError | None) -> None:
        """The gate refuses the connection."""
        if refusal is None:
            self.enter(states.Ending(self.clock, self.abort))
            self.abort()
        else:
            self.send(messages.error_answer(refusal))
            self.end()

    def dataReceived(self, data: bytes) -> None:
        if not self.state.over:
            self._arrival.identify()
        self._took(len(data))
        if self.state.over:
            return
        self._decoder.receive_data(data)
        self._pump()
        if len(data) >= DIRECT_FROM:
            self._take_directly()

    def _took(self, size: int) -> None:
        """Count bytes from the client. A discarded payload costs as much to read as any other, so
        it is paced as well."""
        self.slow_client.received(size)
        self._gate.traffic.received += size
        if self.state.over or self._decoder.payload_remaining > 0:
            self._pacing.took(size)

    def _may_go_on(self, last_read: int) -> None:
        self.slow_client.forgive()
        if last_read >= DIRECT_FROM:
            self._take_directly()
        self.adjust_reading()

    def readConnectionLost(self) -> None:
        """The client has closed its sending side; it still gets its answers."""
        self._input_ended = True
        self._pump()

    def writeConnectionLost(self) -> None:
        """Do nothing: `end` closed our sending side, and limits what follows."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.enter(states.Lost())
        for timer in (self._discarding, self._next_turn, self._pacing, self.slow_client):
            timer.stop()
        self._gate.disconnected(self)

    def enter(self, state: states.Ready) -> None:
        """Change the state; the old one ends what it was doing."""
        old, self.state = self.state, state
        old.leave()

    # --- requests ------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Process events, as long as no request is being answered."""
        if self._pumping or self._next_turn.running:
            return
        self._pumping = True
        turns = REQUESTS_PER_TURN
        try:
            while self.state.takes_requests and not self.write_blocked:
                event = self._decoder.next_event()
                if event is NEED_DATA:
                    self.slow_client.time_head(self._decoder.in_head)
                    self._input_dry()
                    break
                self._take(event)
                turns -= isinstance(event, MessageStarted)
                if turns == 0:
                    # Let other connections be served, too.
                    self._next_turn.start(0)
                    break
        except RemoteProtocolError as error:
            self._refuse_stream(error)
        finally:
            self._pumping = False
        self.adjust_reading()

    def _take(self, event: Event) -> None:
        if isinstance(event, PayloadChunk):
            self.state.take(event.data)
        elif isinstance(event, MessageStarted):
            self._begin_request(event)
        else:
            self._end_request()

    def _begin_request(self, head: MessageStarted) -> None:
        assert self.peer is not None
        if not (head.json or head.media_type or head.payload_size):
            raise RemoteProtocolError("the message is empty")
        self.slow_client.time_head(False)
        self.enter(states.Answering())
        self._request_id = new_request_id()
        try:
            request = messages.parse_request(head.json)
            caller = self._gate.caller(self.peer, request.token)
        except ServiceError as error:
            self.send(messages.error_answer(error, messages.request_id(head.json)))
            self.go_on(states.Ready())
        else:
            self.enter(states.Answering(request.id))
            self._serve(self._server.serve(request, head, caller))

    def _end_request(self) -> None:
        self._gate.traffic.sample(self.transport)
        self._discarding.stop()
        if isinstance(self.state, states.Uploading):
            upload, request_id = self.state.upload, self.state.request_id
            upload.payload_ended()
            with within(self._request_id):
                finished = upload.session.finish()
            self.enter(states.Finishing(request_id))
            self._serve(self._server.tell_upload(finished))

    def _serve(self, answering: Coroutine[Any, Any, states.Ready]) -> None:
        """Answer a request; the next event waits until `answering` returns the next state."""
        request_id = self._request_id

        def fault(failure: Failure) -> ServiceError:
            with within(request_id):
                return self._gate.fault(failure)

        def failed(failure: Failure) -> states.Ready:
            if not self.state.over and not failure.check(TransferStopped):
                error = failure.value
                if not isinstance(error, ServiceError):
                    error = fault(failure)
                self.send(messages.error_answer(error, self.state.request_id))
            return states.Ready()

        def unanswered(failure: Failure) -> None:
            # Not even the error could be sent, so end the connection.
            fault(failure)
            self.abort()

        with within(request_id):
            answered = ensureDeferred(answering)
        answered.addErrback(failed).addCallback(self.go_on)
        answered.addErrback(unanswered)

    def go_on(self, state: states.Ready) -> None:
        """Enter the state that follows an answer."""
        if self.state.over:
            state.leave()
            return
        self.enter(state)
        if not state.transferring and self._decoder.payload_remaining:
            # If its payload were not read, a client that writes its whole request before it reads
            # would see a reset instead of the answer.
            self._discarding.start(states.DISCARD_TIME)
        self.slow_client.stirred()
        self._pump()
        self._gate.settled(self)

    # --- payloads past the reactor -------------------------------------------------------------

    def _take_directly(self) -> None:
        """Let a thread move the payload from the socket to the file, as long as it is fast."""
        state = self.state
        if (
            not isinstance(state, states.Uploading)
            or self.taken_directly
            or self._pacing.paused
            or self._decoder.buffered
            or not state.upload.can_take_directly(self._decoder.payload_remaining)
        ):
            return
        self.taken_directly = True
        self.adjust_reading()
        taking = state.upload.take_directly(
            self._decoder.payload_remaining, self._gate.throttle.rate
        )
        taking.addCallback(self._directly_taken)

    def _directly_taken(self, spliced: Spliced) -> None:
        self.taken_directly = False
        if isinstance(self.state, states.Lost):
            return
        if spliced.size:
            self._took(spliced.size)
        self._decoder.payload_taken(spliced.size)
        self._pump()
        if spliced.more:
            self._take_directly()

    # --- answers and flow control --------------------------------------------------------------

    def send(
        self,
        answer: Answer,
        media_type: str = "",
        payload_size: int = 0,
        *,
        detail: bool = False,
    ) -> None:
        if isinstance(answer, messages.ErrorAnswer):
            self._gate.count_error("mmp", answer.error.code)
        if not isinstance(self.state, states.Lost):
            data = messages.encode_answer(answer, media_type, payload_size, detail=detail)
            self._gate.traffic.sent += len(data)
            self.transport.write(data)

    def pauseProducing(self) -> None:
        """The client does not read: write nothing more."""
        self.write_blocked = True
        self.state.client_blocks()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self.write_blocked = False
        self.slow_client.stirred()
        self.state.client_reads()
        self._pump()

    def stopProducing(self) -> None:
        """The connection is lost; `connectionLost` follows."""

    def adjust_reading(self) -> None:
        """Read only while the bytes are needed."""
        state = self.state
        if isinstance(state, states.Lost):
            return
        busy = self.write_blocked or not state.takes_requests
        ahead = self._decoder.buffered > MAX_READ_AHEAD and busy
        pause = self._pacing.paused or (
            not state.over and (ahead or state.held or self.taken_directly)
        )
        if pause != self._reading_paused:
            self._reading_paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _input_dry(self) -> None:
        """Everything received was processed: end the connection if nothing more can follow."""
        if not self._input_ended or isinstance(self.state, states.Watching):
            return
        try:
            self._decoder.receive_eof()
        except RemoteProtocolError as error:
            self._refuse_stream(error)
        else:
            self.end()

    # --- the end -------------------------------------------------------------------------------

    @property
    def transferring(self) -> bool:
        """Whether a file is being transferred, in or out."""
        return self.state.transferring

    def close(self) -> None:
        """End the connection gracefully, for a shutdown; after the answer to a current request."""
        if self.state.takes_requests:
            self.end()

    def abort(self) -> None:
        """Close the connection at once."""
        if not isinstance(self.state, states.Lost):
            self.transport.abortConnection()

    def end(self) -> None:
        """Send what was written, then close.

        Only the sending side is closed at first, until the client closes its own: see
        `states.Ending`.
        """
        if isinstance(self.state, states.Lost):
            return
        self.enter(states.Ending(self.clock, self.abort))
        self._discarding.stop()
        self.slow_client.time_head(False)
        self.transport.unregisterProducer()
        self.adjust_reading()
        if self._input_ended or not half_closes(self.transport):
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def _refuse_stream(self, error: RemoteProtocolError) -> None:
        """The client does not speak MMP: tell it, and end the connection."""
        self._log_peer(str(error))
        self.send(messages.error_answer(not_mmp(error)))
        self.end()

    def _cut_off(self, why: str) -> None:
        """The client is too slow: tell it, and end the connection."""
        self._log_peer(why)
        self.send(messages.error_answer(too_slow(why), self.state.request_id))
        self.end()

    def _log_peer(self, why: str) -> None:
        """Log why a connection ends, with the current request, if any."""
        request_id = None if self._decoder.idle else self._request_id
        self.log.info("peer {peer}: {why}", peer=self.peer, why=why, request_id=request_id)

    def _waiting(self) -> Waiting:
        """Return who is waited for."""
        state = self.state
        if self.write_blocked or state.blocked:
            return state.waiting_to_write
        if state.held or self.taken_directly or self._pacing.paused:
            return Waiting.US
        return state.waiting

    def _client_is_silent(self, blocks: bool) -> None:
        self._log_peer("idle, cut off")
        if blocks:
            self.abort()
        elif self._decoder.idle:
            self.end()
        else:
            timeout = self._gate.idle_timeout
            self._cut_off(f"Nothing came for {timeout:.0f} s within a request.")

    def _client_is_slow(self, why: str) -> None:
        if isinstance(self.state, states.Sending):
            # No answer can follow within a payload: only closing tells the client.
            self._log_peer(why)
            self.abort()
        else:
            self._cut_off(why)
