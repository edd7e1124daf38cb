"""One HTTP connection: twisted.web parses it, and bodies stream through it.

twisted.web as it comes gathers a whole body before anybody sees the request. Here the request sees
its head at once and its body as it comes. Requests are served one after another: a client that
sends ahead is paused in its own buffers. `tests/test_http_twisted.py` holds what is used of
twisted.web that it does not promise.
"""

from __future__ import annotations

import re
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
from twisted.web.http_headers import Headers
from zope.interface import implementer

from vidproc.errors import ServiceError
from vidproc.files.splice import Spliced
from vidproc.frontends.http import dispatch
from vidproc.frontends.http.answers import Answer
from vidproc.frontends.http.lifecycle import Life, ReadingHolds
from vidproc.frontends.http.problems import HTTPError, problem_answer, title_of
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
MOST_URL = 8 << 10
"""Bytes of a request line."""
MOST_LINE = 16 << 10
"""Bytes of a header's line."""
MOST_HEAD = 32 << 10
"""Bytes of a request's head."""
MOST_HEADERS = 100
"""Headers of a request."""
MOST_DIGITS = 18
"""Digits of a Content-Length."""
MOST_CHUNK_WASTE = 64 << 10
"""Bytes that chunks may cost beside what they carry, before they must carry more than they cost."""

_VERSION = re.compile(rb"HTTP/\d\.\d", re.ASCII)


@implementer(IHalfCloseableProtocol)
class HTTPConnection(http.HTTPChannel):
    """Serves one connection. Implements `vidproc.frontends.gate.Connection`."""

    log = TopicLogger(Topic.CONNECTIONS)

    requestFactory = Request  # type: ignore[assignment]  # a callable; a type by accident
    MAX_LENGTH = MOST_LINE
    # Ours come first:
    maxHeaders = 1 << 20
    totalHeadersSize = 1 << 30
    timeOut = None

    requests: list[Request]
    transport: Any
    _transferDecoder: Any

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
        self._head_size = 0
        self._head_lines = 0
        self._header = b""
        self._body_due = False
        """Whether the last request's head has come, and its body not yet."""
        self._chunked_received = 0
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
        self._networkProducer: Any = self._holds
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
            self._refuse(refusal)
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

    def setLineMode(self, extra: bytes = b"") -> None:
        """Parse what came while the last request was answered. It was counted when it came."""
        self.line_mode = 1
        if extra:
            super().dataReceived(extra)

    def _took(self, size: int) -> None:
        """Note bytes from the client; a body that is ahead of its share pauses, one that is thrown
        away too: it costs as much to read."""
        self._slow_client.received(size)
        self._gate.traffic.received += size
        if (self._in_body or self._life is Life.ENDING) and not self._throttled.running:
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
        elif self._in_body:
            self.requests[-1].body.lose()
            self._refuse(
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
    def _in_head(self) -> bool:
        """Whether a head has begun to arrive and is not whole."""
        between_or_within = self.line_mode and not self._body_due
        return bool(between_or_within and (self._buffer or self.requests))

    @property
    def _in_body(self) -> bool:
        """Whether a request's body is on its way."""
        return self._body_due and bool(self.requests) and not self.requests[-1].body.ended

    def lineReceived(self, line: bytes) -> None:
        if self._life is not Life.OPEN:
            return
        self._head_size += len(line) + 2
        if not self.requests:
            self._head_size = len(line) + 2
            self._head_lines = 0
            self._header = b""
            if len(line) > MOST_URL:
                self._refuse(_long_url())
                return
            version = line.rpartition(b" ")[2]
            if _VERSION.fullmatch(version) and version not in (b"HTTP/1.0", b"HTTP/1.1"):
                self._refuse(
                    HTTPError(505, "This server speaks HTTP/1.1.", "Use that.", close=True)
                )
                return
        else:
            self._head_lines += 1
            if self._head_size > MOST_HEAD or self._head_lines > MOST_HEADERS + 1:
                self._refuse(_long_head())
                return
        super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        self._header = name.strip().lower()
        if self._header == b"content-length" and len(value.strip()) > MOST_DIGITS:
            self._respondToBadRequestAndDisconnect()  # Python would not read such a number
        return self._life is Life.OPEN and bool(super().headerReceived(line))

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(_long_head() if self.requests else _long_url())

    def allHeadersReceived(self) -> None:
        """A head is whole: let the request see it now, not only when its body is there."""
        self._head_late.stop()
        request = self.requests[-1]
        if self._life is not Life.OPEN:
            return
        self._body_due = True
        self._chunked_received = 0
        self.persistent = self.checkPersistence(request, self._version)
        codings = request.headers("Transfer-Encoding")
        if codings and (self._version != b"HTTP/1.1" or request.headers("Content-Length")):
            self._refuse(_bad_framing())
            return
        request.clientproto = self._version
        request.gotLength(self.length)
        request.head_received(self._command, self._path)

    def serve(self, request: Request) -> None:
        """Begin to answer a request whose head is whole."""
        dispatch.serve(self._site, request)

    def allContentReceived(self) -> None:
        if self._life is Life.OPEN:
            self._body_due = False
            self._discarding.stop()
            self._gate.traffic.sample(self.transport)
            super().allContentReceived()

    def rawDataReceived(self, data: bytes) -> None:
        if self._life is not Life.OPEN:
            return
        if self._in_body and self.length is None:
            self._count_chunks(len(data))
            if self._life is not Life.OPEN:
                return
        super().rawDataReceived(data)

    def _count_chunks(self, size: int) -> None:
        """Refuse chunks whose sizes and extensions cost more than what they carry."""
        self._chunked_received += size
        waste = self._chunked_received - size - self.requests[-1].body.received
        if waste > MOST_CHUNK_WASTE + self.requests[-1].body.received:
            self._refuse(
                HTTPError(
                    400,
                    "The chunks of the body carry less than they cost.",
                    "Send larger chunks, without extensions.",
                    close=True,
                )
            )

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Return whether the connection may serve another request after this one."""
        tokens = [
            token.strip().lower()
            for value in request.headers("Connection")
            for token in value.split(",")
        ]
        keeps = version == b"HTTP/1.1" and "close" not in tokens
        if not keeps:
            request.responseHeaders.setRawHeaders("Connection", ["close"])
        return keeps

    def _time_head(self) -> None:
        """A head that has begun must end soon: byte by byte it would hold its connection for hours.

        Called when everything that has arrived is dealt with.
        """
        if self._in_head and self._life is Life.OPEN:
            self._head_late.start(HEAD_TIME)
        else:
            self._head_late.stop()

    def _cut_off_head(self) -> None:
        if self._in_head and self._life is Life.OPEN:
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
        return self.requests[-1].receiving if self._in_body else None

    def _take_directly(self) -> None:
        """Let a thread move the body from the socket to the file, while it comes fast."""
        receiving = self._receiving()
        if (
            receiving is None
            or self._life is not Life.OPEN
            or self._taking
            or self._throttled.running
            or self.length is None
        ):
            return
        remaining = self._transferDecoder.contentLength
        if not receiving.can_take_directly(remaining):
            return
        self._taking = True
        self._holds.hold("taking", True)
        taking = receiving.take_directly(remaining, self._gate.throttle.rate)
        taking.addCallback(self._directly_taken)

    def _directly_taken(self, spliced: Spliced) -> None:
        self._taking = False
        if self._life is Life.LOST:
            return
        if spliced.size:
            self._took(spliced.size)
        if self._in_body and self._transferDecoder is not None:
            self._transferDecoder.contentLength -= spliced.size
            self.requests[-1].body.count(spliced.size)
            if not self._transferDecoder.contentLength:
                self.rawDataReceived(b"")
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

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        lines = [b"%b %b %b\r\n" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            lines += [b"%b: %b\r\n" % (name, value) for value in values]
        self.write(b"".join([*lines, b"\r\n"]))

    def write(self, data: bytes) -> None:
        if self._life is not Life.OPEN:
            return  # its last answer was written
        self._gate.traffic.sent += len(data)
        self.transport.write(data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

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

    def _respondToBadRequestAndDisconnect(self) -> None:
        framing = self._in_body or self._header in (b"content-length", b"transfer-encoding")
        self._refuse(_bad_framing() if framing else _bad_request())

    def _refuse(self, error: ServiceError | HTTPError) -> None:
        """Tell a client that its connection ends, and why. Nothing is said within an answer."""
        if self._life is not Life.OPEN:
            return
        if not (self.requests and self.requests[-1].startedWriting):
            answer = problem_answer(error)
            self._gate.count_error("http", answer.status)
            self.log.info("peer {peer}: {why}", peer=self.peer, why=error.description)
            self.write(_raw(answer))
        self._end()

    def _cut_off(self, why: str) -> None:
        """The client is too slow: say so, and end the connection."""
        self._refuse(
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
        in_body = self._in_body
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
        if self._input_ended and between_requests and not self._busyReceiving:
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
        if self._in_body and not self._holds.held:
            return Waiting.CLIENT_SENDS
        return Waiting.US

    def _client_is_silent(self, blocks: bool) -> None:
        self.log.info("peer {peer}: idle, cut off", peer=self.peer)
        if self._in_body and not blocks:
            self._cut_off(f"Nothing came for {self._gate.idle_timeout:.0f} s within a request.")
        elif blocks or not self.requests:
            self.abort()
        else:
            self._cut_off("The request's head is not whole.")

    def _client_is_slow(self, why: str) -> None:
        if self._in_body:
            self._cut_off(why)
        else:
            self.log.info("peer {peer}: {why}", peer=self.peer, why=why)
            self.abort()


def _raw(answer: Answer) -> bytes:
    """Return the bytes of an answer that ends its connection, without a request."""
    reason = title_of(answer.status)
    headers = answer.headers | {
        "Content-Length": str(len(answer.body)),
        "Connection": "close",
        "X-Content-Type-Options": "nosniff",
        "Date": http.datetimeToString().decode(),
    }
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body


def _bad_request() -> HTTPError:
    return HTTPError(
        400,
        "This is not an HTTP/1.1 request.",
        "This port speaks HTTP, not MMP and not TLS. Example: GET /api/v1/info",
        close=True,
    )


def _bad_framing() -> HTTPError:
    return HTTPError(
        400,
        "The length of the request's body is not clear.",
        "Send one Content-Length, or Transfer-Encoding: chunked with well-formed chunks.",
        close=True,
    )


def _long_url() -> HTTPError:
    return HTTPError(
        414,
        f"The URL has more than {MOST_URL} bytes.",
        "Send a shorter one; parameters of an upload fit the metadata of tus, too.",
        close=True,
    )


def _long_head() -> HTTPError:
    return HTTPError(
        431,
        f"The head has more than {MOST_HEADERS} headers, {MOST_LINE} bytes in one of them or"
        f" {MOST_HEAD} bytes in all.",
        "Send fewer or shorter headers.",
        close=True,
    )
