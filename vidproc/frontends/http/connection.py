"""One HTTP connection: the gate, flow control, slow clients, and how it ends.

Requests are served one after another. A client that sends ahead is paused, so its requests wait in
its own buffers.
"""

from __future__ import annotations

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from vidproc.errors import ServiceError
from vidproc.files.splice import Spliced
from vidproc.frontends.arrival import Arrival
from vidproc.frontends.http import dispatch
from vidproc.frontends.http.lifecycle import Life, ReadingHolds
from vidproc.frontends.http.malformed import raw_answer
from vidproc.frontends.http.parser import StreamingChannel
from vidproc.frontends.http.problems import HTTPError, problem_answer
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.site import Site
from vidproc.frontends.pacing import Pacing
from vidproc.frontends.receiving import DIRECT_FROM, Receiving
from vidproc.frontends.slow_clients import SlowClientWatch, Waiting
from vidproc.frontends.timer import Timer
from vidproc.request_id import new_request_id
from vidproc.topics import Topic, TopicLogger
from vidproc.transport import half_closes

DISCARD_TIME = 30.0
"""Seconds for which the body of a refused request is read and discarded."""
LINGER_TIME = 5.0
"""Seconds for which an ending connection is still read, so that its last answer arrives."""
REQUESTS_PER_TURN = 16
"""Requests of one connection that are served before it is the others' turn."""


@implementer(IHalfCloseableProtocol)
class HTTPConnection(StreamingChannel):
    """Serves one connection. Implements `vidproc.frontends.gate.Connection`."""

    log = TopicLogger(Topic.CONNECTIONS)

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.backend = site.backend
        self.shared = site.shared
        self._site = site
        self._gate = site.backend.gate
        self._arrival = Arrival(self._gate, self, self._turn_away, site.proxies.trusts)
        self._clock = site.backend.reactor
        self._life = Life.OPEN
        self._input_ended = False
        self._write_blocked = False
        self._taking = False
        self._turns = REQUESTS_PER_TURN
        self._waits_for_turn: Request | None = None
        self._discarding = Timer(self._clock, self.abort)
        self._lingering = Timer(self._clock, self.abort)
        self._next_turn = Timer(self._clock, self._take_turn)
        self._pacing = Pacing(self._clock, self._gate.throttle, self._pause, self._may_go_on)

    # --- the connection ------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._holds = ReadingHolds(self.transport)
        self.pause_by(self._holds)
        self.transport.registerProducer(self, True)
        self._slow_client = SlowClientWatch(
            self._clock,
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

    @property
    def from_proxy(self) -> bool:
        """Whether the client is a trusted proxy, so that each request has a client of its own."""
        return self._arrival.from_proxy

    def _turn_away(self, refusal: ServiceError | None) -> None:
        """The gate refuses the connection."""
        if refusal is None:
            self._life = Life.ENDING
            self.abort()
        else:
            self.refuse(refusal)

    def dataReceived(self, data: bytes) -> None:
        if self._life is Life.OPEN:
            self._arrival.identify()
        self._took(len(data))
        if self._life is not Life.OPEN:
            return
        self._turns = REQUESTS_PER_TURN
        super().dataReceived(data)
        self._time_head()
        self._end_if_dry()
        if len(data) >= DIRECT_FROM:
            self._take_directly()

    def _took(self, size: int) -> None:
        """Count bytes from the client. A discarded body costs as much to read as any other, so it
        is paced as well."""
        self._slow_client.received(size)
        self._gate.traffic.received += size
        if self.in_body or self._life is Life.ENDING:
            self._pacing.took(size)

    def _pause(self) -> None:
        self._holds.hold("throttle", True)

    def _may_go_on(self, last_read: int) -> None:
        self._slow_client.forgive()
        if last_read >= DIRECT_FROM:
            self._take_directly()
        self._holds.hold("throttle", False)

    def readConnectionLost(self) -> None:
        """The client has closed its sending side; it still gets its answers."""
        self._input_ended = True
        if self._life is not Life.OPEN:
            self.transport.loseConnection()
        elif self.in_body:
            self.requests[-1].body.lose()
            self.refuse(
                HTTPError(400, "The request's body is incomplete.", "Send all of it.", close=True)
            )
        else:
            self._end_if_dry()

    def writeConnectionLost(self) -> None:
        """Do nothing: `_end` closed our sending side, and limits what follows."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._life = Life.LOST
        for timer in (
            self._discarding,
            self._lingering,
            self._next_turn,
            self._pacing,
            self._slow_client,
        ):
            timer.stop()
        super().connectionLost(reason)
        self._gate.disconnected(self)

    # --- heads ---------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether further requests are served."""
        return self._life is Life.OPEN

    def on_head(self) -> None:
        """Note that a head is complete."""
        self._slow_client.time_head(False)

    def on_body_end(self) -> None:
        """Note that a body is complete, or that there was none."""
        self._discarding.stop()
        self._gate.traffic.sample(self.transport)

    def serve(self, request: Request) -> None:
        """Start answering a request whose head is complete."""
        dispatch.serve(self._site, request)

    def _time_head(self) -> None:
        """Limit the time for a head that has arrived in part.

        Call this when everything that has arrived is processed.
        """
        self._slow_client.time_head(self.in_head and self._life is Life.OPEN)

    # --- bodies --------------------------------------------------------------------------------

    def hold(self, reason: str, held: bool) -> None:
        """Set or clear a reason to pause the client. The pause is not the client's fault."""
        if self._life is not Life.LOST:
            self._holds.hold(reason, held and self._life is Life.OPEN)
            self._slow_client.forgive()

    def release(self) -> None:
        """Resume reading, for whatever reason a request's body had paused it."""
        for reason in ("body", "form", "upload"):
            self.hold(reason, False)

    def send_continue(self) -> None:
        """Ask for the body, if the client waits for that."""
        if self._life is Life.OPEN:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _receiving(self) -> Receiving | None:
        return self.requests[-1].receiving if self.in_body else None

    def _take_directly(self) -> None:
        """Let a thread move the body from the socket to the file, as long as it is fast."""
        receiving = self._receiving()
        if receiving is None or self._life is not Life.OPEN or self._taking or self._pacing.paused:
            return
        left = self.body_left
        if left is None or not receiving.can_take_directly(left):
            return
        self._taking = True
        self._holds.hold("taking", True)
        taking = receiving.take_directly(left, self._gate.throttle.rate)
        taking.addCallback(self._directly_taken)

    def _directly_taken(self, spliced: Spliced) -> None:
        self._taking = False
        if self._life is Life.LOST:
            return
        if spliced.size:
            self._took(spliced.size)
        if self.in_body:
            self.body_taken(spliced.size)
        if spliced.more:
            self._take_directly()
        if not self._taking:
            self._holds.hold("taking", False)

    # --- answers -------------------------------------------------------------------------------

    def close_after(self, request: Request) -> None:
        """Serve no further request after this one."""
        self.persistent = False
        request.responseHeaders.setRawHeaders("Connection", ["close"])

    def answered_early(self, request: Request) -> None:
        """Discard the rest of a body whose request was answered before it arrived."""
        if self.persistent:
            self._discarding.start(DISCARD_TIME)
        else:
            self._end()

    def write(self, data: bytes) -> None:
        if self._life is not Life.OPEN:
            return  # its last answer has been written
        self._gate.traffic.sent += len(data)
        self.transport.write(data)

    def sent(self, size: int) -> None:
        """Note bytes of a file that have been sent."""
        self._slow_client.sent(size)
        self._gate.traffic.sent += size

    def file_begins(self) -> None:
        """Note that a file is sent from now on: start measuring how fast the client reads."""
        self._slow_client.forgive()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if self._write_blocked:
            producer.pauseProducing()  # the transport told only us, earlier

    def pauseProducing(self) -> None:
        """The client does not read: write nothing more."""
        self._write_blocked = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._write_blocked = False
        self._slow_client.stirred()
        super().resumeProducing()

    def requestDone(self, request: http.Request) -> None:
        """Serve the next request, when it is this connection's turn."""
        self._turns -= 1
        if self._turns > 0:
            self._go_on(request)
        else:
            self._waits_for_turn = self.requests[0]
            self._next_turn.start(0)

    def _take_turn(self) -> None:
        self._turns = REQUESTS_PER_TURN
        request, self._waits_for_turn = self._waits_for_turn, None
        if request is not None:
            self._go_on(request)

    def _go_on(self, request: http.Request) -> None:
        if self._life is not Life.OPEN:
            return
        self._slow_client.stirred()
        if self._gate.draining:
            self.persistent = False
        super().requestDone(request)
        if self._life is Life.OPEN:
            self._time_head()
            self._end_if_dry()

    # --- the end -------------------------------------------------------------------------------

    def refuse(self, error: ServiceError | HTTPError) -> None:
        """Tell a client why its connection ends, unless an answer has begun."""
        if self._life is not Life.OPEN:
            return
        if not (self.requests and self.requests[-1].startedWriting):
            answer = problem_answer(error)
            self._gate.count_error("http", answer.status)
            request_id = self._request_id() or new_request_id()
            self._log_peer(error.description, request_id)
            self.write(raw_answer(answer, request_id))
        self._end()

    def _cut_off(self, why: str) -> None:
        """The client is too slow: tell it, and end the connection."""
        self.refuse(
            HTTPError(
                408,
                why,
                "Send it again over a faster connection; a tus upload continues where it stopped.",
                close=True,
            )
        )

    def loseConnection(self) -> None:
        """End the connection gracefully. twisted.web calls this after the last answer."""
        self._end()

    def close(self) -> None:
        """End the connection gracefully, for a shutdown; after the answer to a current request."""
        if self._life is not Life.OPEN:
            return
        request = self.requests[0] if self.requests else None
        if request is None or self.line_mode:
            self._end()
        elif request.on_drain is not None:
            self.persistent = False
            request.on_drain()
        else:
            self.persistent = False  # the answer comes first

    @property
    def transferring(self) -> bool:
        """Whether a file is being transferred, in or out."""
        request = self.requests[0] if self.requests else None
        if self._life is not Life.OPEN or request is None:
            return False
        return request.sending is not None or request.receiving is not None

    def abort(self) -> None:
        """Close the connection at once."""
        if self._life is not Life.LOST:
            self.transport.abortConnection()

    def _end(self) -> None:
        """Send what was written, then close. Until then discard what still arrives, for a limited
        time: a client that writes everything before it reads would see a reset otherwise."""
        if self._life is not Life.OPEN:
            return
        in_body = self.in_body
        self._life = Life.ENDING
        self._slow_client.time_head(False)
        for request in self.requests:
            request.body.lose()
        self.transport.unregisterProducer()
        self._holds.only("throttle")
        if self._input_ended:
            self.transport.loseConnection()
        elif half_closes(self.transport):
            self.transport.loseWriteConnection()
        elif not in_body:
            self.transport.loseConnection()
        self._lingering.restart(DISCARD_TIME if in_body else LINGER_TIME)

    def _end_if_dry(self) -> None:
        """End a connection whose client has closed its sending side, once everything is
        answered."""
        between_requests = not self.requests or self.line_mode
        if self._input_ended and between_requests and not self.parsing:
            self._end()

    # --- slow clients --------------------------------------------------------------------------

    def _request_id(self) -> str | None:
        """Return the id of the current request, None if there is none yet."""
        return (self.requests[0].request_id or None) if self.requests else None

    def _log_peer(self, why: str, request_id: str | None = None) -> None:
        """Log why a connection ends, with the current request, if any."""
        request_id = request_id or self._request_id()
        self.log.info("peer {peer}: {why}", peer=self.peer, why=why, request_id=request_id)

    def _waiting(self) -> Waiting:
        """Return who is waited for."""
        request = self.requests[0] if self.requests else None
        sending = None if request is None else request.sending
        if sending is not None and (self._write_blocked or sending.blocked):
            return Waiting.CLIENT_BLOCKS_FILE
        if self._write_blocked:
            return Waiting.CLIENT_BLOCKS
        if self._life is not Life.OPEN:
            return Waiting.CLIENT
        if request is None or self.line_mode:
            return Waiting.CLIENT
        if self.in_body and not self._holds.held:
            return Waiting.CLIENT_SENDS
        return Waiting.US

    def _client_is_silent(self, blocks: bool) -> None:
        self._log_peer("idle, cut off")
        if self.in_body and not blocks:
            self._cut_off(f"Nothing came for {self._gate.idle_timeout:.0f} s within a request.")
        elif blocks:
            self.abort()
        elif not self.requests:
            self._end()
        else:
            self._cut_off("The request's head is not whole.")

    def _client_is_slow(self, why: str) -> None:
        if self.in_body or self.in_head:
            self._cut_off(why)
        else:
            self._log_peer(why)
            self.abort()
