"""One HTTP connection: the gate, flow control, slow clients, and how it ends.

Requests are served one after another: a client that sends ahead is paused in its own buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from vidproc.errors import ServiceError
from vidproc.files.splice import Spliced
from vidproc.frontends.http import dispatch
from vidproc.frontends.http.lifecycle import Life, ReadingHolds
from vidproc.frontends.http.malformed import raw_answer
from vidproc.frontends.http.parser import StreamingChannel
from vidproc.frontends.http.problems import HTTPError, problem_answer
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.site import Site
from vidproc.frontends.peers import peer_key
from vidproc.frontends.receiving import DIRECT_FROM, Receiving
from vidproc.frontends.refusals import TurnedAway
from vidproc.frontends.slow_clients import SlowClientWatch, Waiting
from vidproc.frontends.timer import Timer
from vidproc.topics import Topic, TopicLogger

DISCARD_TIME = 30.0
"""Seconds for which the body of a refused request is read and thrown away."""
LINGER_TIME = 5.0
"""Seconds for which a connection that is done for is read, so that its last answer arrives."""
HEAD_TIME = 20.0
"""Seconds within which a request's head must arrive."""
REQUESTS_PER_TURN = 16
"""Requests of one connection that are served before other connections have their turn."""


@implementer(IHalfCloseableProtocol)
class HTTPConnection(StreamingChannel):
    """Serves one connection. Implements `vidproc.frontends.gate.Connection`."""

    log = TopicLogger(Topic.CONNECTIONS)

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.backend = site.backend
        self.shared = site.shared
        self._site = site
        self.peer: str | None = None
        """Whose the connection is; None until that is known."""
        self.from_proxy = False
        """Whether it is a trusted proxy's, so that each request has a client of its own."""
        self._gate = site.backend.gate
        self._clock = site.backend.reactor
        self._life = Life.OPEN
        self._input_ended = False
        self._write_blocked = False
        self._taking = False
        self._came_fast = False
        self._turns = REQUESTS_PER_TURN
        self._waits_for_turn: Request | None = None
        self._discarding = Timer(self._clock, self.abort)
        self._lingering = Timer(self._clock, self.abort)
        self._head_late = Timer(self._clock, self._cut_off_head)
        self._next_turn = Timer(self._clock, self._take_turn)
        self._throttled = Timer(self._clock, self._unthrottle)

    # --- the connection ------------------------------------------------------------------------

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
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
        if not self._passes(lambda: self._gate.connected(self)):
            return
        proxied = isinstance(self.transport, ProtocolWrapper) and not ISSLTransport.providedBy(
            self.transport
        )
        if not proxied:
            self._meet()

    def _meet(self) -> None:
        """Learn whose it is; by a proxy protocol that is known when its first bytes are here."""
        address = self.transport.getPeer()
        peer = self.peer = peer_key(address)
        self.from_proxy = self._site.proxies.trusts(str(getattr(address, "host", "")))
        if not self.from_proxy:
            # A proxy's connections are many clients'; it limits them itself.
            self._passes(lambda: self._gate.met(self, peer))

    def _passes(self, step: Callable[[], None]) -> bool:
        """Take a step through the gate; end the connection when it is refused there."""
        try:
            step()
        except TurnedAway:
            self._life = Life.ENDING
            self.abort()
        except ServiceError as refusal:
            self.refuse(refusal)
        return self._life is Life.OPEN

    def dataReceived(self, data: bytes) -> None:
        if self.peer is None and self._life is Life.OPEN:
            self._meet()
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
        """Note bytes from the client; a body that is ahead of its share pauses, one that is thrown
        away too: it costs as much to read."""
        self._slow_client.received(size)
        self._gate.traffic.received += size
        if (self.in_body or self._life is Life.ENDING) and not self._throttled.running:
            wait = self._gate.throttle.take(size)
            if wait > 0:
                self._came_fast = size >= DIRECT_FROM
                self._throttled.start(wait)
                self._holds.hold("throttle", True)

    def _unthrottle(self) -> None:
        self._slow_client.forgive()
        if self._came_fast:
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
                HTTPError(400, "The request's body is not whole.", "Send all of it.", close=True)
            )
        else:
            self._end_if_dry()

    def writeConnectionLost(self) -> None:
        """Our own sending side is closed, by `_end`, which bounds what is left."""

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
        super().connectionLost(reason)
        self._gate.disconnected(self)

    # --- heads ---------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether further requests are served."""
        return self._life is Life.OPEN

    def on_head(self) -> None:
        """A head is whole."""
        self._head_late.stop()

    def on_body_end(self) -> None:
        """A body is whole, or there was none."""
        self._discarding.stop()
        self._gate.traffic.sample(self.transport)

    def serve(self, request: Request) -> None:
        """Begin to answer a request whose head is whole."""
        dispatch.serve(self._site, request)

    def _time_head(self) -> None:
        """A head that has begun must end soon: byte by byte it would hold its connection for hours.

        Called when everything that has arrived is dealt with.
        """
        if self.in_head and self._life is Life.OPEN:
            self._head_late.start(HEAD_TIME)
        else:
            self._head_late.stop()

    def _cut_off_head(self) -> None:
        if self.in_head and self._life is Life.OPEN:
            self._cut_off(f"The request did not arrive within {HEAD_TIME:.0f} s.")

    # --- bodies --------------------------------------------------------------------------------

    def hold(self, reason: str, held: bool) -> None:
        """Pause the client for one more reason, or for one fewer; it is no fault of the client."""
        if self._life is not Life.LOST:
            self._holds.hold(reason, held and self._life is Life.OPEN)
            self._slow_client.forgive()

    def release(self) -> None:
        """Read the client again, whatever a request's body was held back for."""
        for reason in ("body", "form", "upload"):
            self.hold(reason, False)

    def send_continue(self) -> None:
        """Ask for the body of a client that waits to be asked."""
        if self._life is Life.OPEN:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _receiving(self) -> Receiving | None:
        return self.requests[-1].receiving if self.in_body else None

    def _take_directly(self) -> None:
        """Let a thread move the body from the socket to the file, while it comes fast."""
        receiving = self._receiving()
        if (
            receiving is None
            or self._life is not Life.OPEN
            or self._taking
            or self._throttled.running
        ):
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
        """Serve no further request once this one is answered."""
        self.persistent = False
        request.responseHeaders.setRawHeaders("Connection", ["close"])

    def answered_early(self, request: Request) -> None:
        """A request was answered before its body had come: what follows is thrown away."""
        if self.persistent:
            self._discarding.start(DISCARD_TIME)
        else:
            self._end()

    def write(self, data: bytes) -> None:
        if self._life is not Life.OPEN:
            return  # its last answer was written
        self._gate.traffic.sent += len(data)
        self.transport.write(data)

    def sent(self, size: int) -> None:
        """Note bytes of a file that the client's side has taken."""
        self._slow_client.sent(size)
        self._gate.traffic.sent += size

    def file_begins(self) -> None:
        """A file is sent from now on: how fast the client takes it counts from here."""
        self._slow_client.forgive()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if self._write_blocked:
            producer.pauseProducing()  # the transport will not tell it: it has told us

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
        """A request is answered: serve the next one, in its turn."""
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
        """Tell a client that its connection ends, and why. Nothing is said within an answer."""
        if self._life is not Life.OPEN:
            return
        if not (self.requests and self.requests[-1].startedWriting):
            answer = problem_answer(error)
            self._gate.count_error("http", answer.status)
            self.log.info("peer {peer}: {why}", peer=self.peer, why=error.description)
            self.write(raw_answer(answer))
        self._end()

    def _cut_off(self, why: str) -> None:
        """The client is too slow: say so, and end the connection."""
        self.refuse(
            HTTPError(
                408,
                why,
                "Send it again on a better line; an upload by tus goes on where it stopped.",
                close=True,
            )
        )

    def loseConnection(self) -> None:
        """End the connection in good order: twisted.web calls it after the last answer."""
        self._end()

    def close(self) -> None:
        """End the connection in good order, for a stop of the server."""
        if self._life is not Life.OPEN:
            return
        request = self.requests[0] if self.requests else None
        if request is None or self.line_mode:
            self._end()
        elif request.on_drain is not None:
            self.persistent = False
            request.on_drain()
        else:
            self.persistent = False  # it is answered first

    @property
    def transferring(self) -> bool:
        """Whether a file is on its way, in or out."""
        request = self.requests[0] if self.requests else None
        if self._life is not Life.OPEN or request is None:
            return False
        return request.sending is not None or request.receiving is not None

    def abort(self) -> None:
        """Cut the connection off."""
        if self._life is not Life.LOST:
            self.transport.abortConnection()

    def _end(self) -> None:
        """End the connection; what was written still leaves, and what still comes is thrown away
        for a bounded time: a client that writes all before it reads would see a reset else."""
        if self._life is not Life.OPEN:
            return
        in_body = self.in_body
        self._life = Life.ENDING
        self._head_late.stop()
        for request in self.requests:
            request.body.lose()
        self.transport.unregisterProducer()
        self._holds.only("throttle")
        ends_writing = ITCPTransport.providedBy(self.transport) and not ISSLTransport.providedBy(
            self.transport
        )
        if self._input_ended:
            self.transport.loseConnection()
        elif ends_writing:
            self.transport.loseWriteConnection()
        elif not in_body:
            self.transport.loseConnection()
        self._lingering.restart(DISCARD_TIME if in_body else LINGER_TIME)

    def _end_if_dry(self) -> None:
        """End a connection whose client sends no more, once everything is answered."""
        between_requests = not self.requests or self.line_mode
        if self._input_ended and between_requests and not self.parsing:
            self._end()

    # --- slow clients --------------------------------------------------------------------------

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
        self.log.info("peer {peer}: idle, cut off", peer=self.peer)
        if self.in_body and not blocks:
            self._cut_off(f"Nothing came for {self._gate.idle_timeout:.0f} s within a request.")
        elif blocks or not self.requests:
            self.abort()
        else:
            self._cut_off("The request's head is not whole.")

    def _client_is_slow(self, why: str) -> None:
        if self.in_body:
            self._cut_off(why)
        else:
            self.log.info("peer {peer}: {why}", peer=self.peer, why=why)
            self.abort()
