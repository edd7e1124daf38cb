"""twisted.web's parser of HTTP/1.1, with streaming bodies and limits of our own.

By itself, twisted.web collects the whole body before anybody sees the request. Here a request gets
its head at once and its body as it arrives. `tests/test_http_twisted.py` checks the parts of
twisted.web that we use although it does not document them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from twisted.web import http
from twisted.web.http_headers import Headers

from vidproc.errors import ServiceError
from vidproc.frontends.http.malformed import (
    MOST_HEAD,
    MOST_HEADERS,
    MOST_LINE,
    MOST_URL,
    bad_framing,
    bad_request,
    long_head,
    long_url,
    other_version,
    wasteful_chunks,
)
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.request import Request

MOST_DIGITS = 18
"""The most digits of a Content-Length."""
MOST_CHUNK_WASTE = 64 << 10
"""Bytes of overhead that chunks may have before they must carry more data than overhead."""

_REQUEST_LINE_SO_FAR = re.compile(
    rb"(\r\n)?([A-Za-z0-9!#$%&'*+.^_`|~-]+( [\x21-\xff]*( [\x21-\xff]*)?)?)?\r?", re.ASCII
)
"""What may become a request line: a token, a target, a version. An empty line may precede it."""
_VERSION = re.compile(rb"HTTP/\d\.\d", re.ASCII)


class StreamingChannel(http.HTTPChannel):
    """Parses what a client sends. Subclasses define `open` and `refuse`."""

    requestFactory = Request  # type: ignore[assignment]  # a callable; a type by accident
    MAX_LENGTH = MOST_LINE
    # Our own limits are stricter:
    maxHeaders = 1 << 20
    totalHeadersSize = 1 << 30
    timeOut = None

    requests: list[Request]
    transport: Any
    _transferDecoder: Any

    def __init__(self) -> None:
        super().__init__()
        self._head_size = 0
        self._head_lines = 0
        self._header = b""
        self._body_due = False
        """Whether the last request's head has arrived, but its body has not."""
        self._chunked_received = 0

    # --- what a connection adds ----------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether further requests are served."""
        raise NotImplementedError

    def refuse(self, error: ServiceError | HTTPError) -> None:
        """Tell the client that its connection ends, and why."""
        raise NotImplementedError

    def on_head(self) -> None:
        """A head is complete."""

    def on_body_end(self) -> None:
        """A body is complete, or there was none."""

    # --- what it is at -------------------------------------------------------------------------

    @property
    def parsing(self) -> bool:
        """Whether received bytes are being parsed, which may contain more."""
        return bool(self._busyReceiving)

    @property
    def body_left(self) -> int | None:
        """Bytes of the current body that are still to arrive, None if unknown."""
        if not self.in_body or self.length is None:
            return None
        return int(self._transferDecoder.contentLength)

    def body_taken(self, size: int) -> None:
        """Count bytes of the current body that bypassed the parser."""
        self._transferDecoder.contentLength -= size
        self.requests[-1].body.count(size)
        if not self._transferDecoder.contentLength:
            self.rawDataReceived(b"")

    def pause_by(self, pauses: Any) -> None:
        """Let `pauses` pause a client that sends further requests before it got its answers."""
        self._networkProducer: Any = pauses

    @property
    def in_head(self) -> bool:
        """Whether a head has arrived in part."""
        between_or_within = self.line_mode and not self._body_due
        return bool(between_or_within and (self._buffer or self.requests))

    @property
    def in_body(self) -> bool:
        """Whether a request's body is arriving."""
        return self._body_due and bool(self.requests) and not self.requests[-1].body.ended

    # --- parsing -------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        """Refuse what has arrived of a line as soon as it cannot become one.

        A client that speaks TLS or another protocol, or ends its lines with LF alone, would
        otherwise wait for an answer until the idle timeout.
        """
        so_far = self._buffer
        if self.parsing or not (self.open and self.line_mode) or self._body_due or not so_far:
            return
        if self.requests:
            if b"\n" in so_far or b"\r" in so_far[:-1] or b"\0" in so_far:
                self.refuse(bad_request())
        elif _REQUEST_LINE_SO_FAR.fullmatch(so_far) is None:
            self.refuse(bad_request())
        elif len(so_far) > MOST_URL:
            self.refuse(long_url())

    def lineReceived(self, line: bytes) -> None:
        if not self.open:
            return
        self._head_size += len(line) + 2
        if not self.requests:
            self._head_size = len(line) + 2
            self._head_lines = 0
            self._header = b""
            if len(line) > MOST_URL:
                self.refuse(long_url())
                return
            version = line.rpartition(b" ")[2]
            if _VERSION.fullmatch(version) and version not in (b"HTTP/1.0", b"HTTP/1.1"):
                self.refuse(other_version())
                return
        else:
            self._head_lines += 1
            if self._head_size > MOST_HEAD or self._head_lines > MOST_HEADERS + 1:
                self.refuse(long_head())
                return
            if line[:1] in (b" ", b"\t"):
                # RFC 9112, 5.2: a folded header may mean something else to a proxy.
                self.refuse(bad_request())
                return
        super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        self._header = name.strip().lower()
        if self._header == b"content-length" and len(value.strip()) > MOST_DIGITS:
            self._respondToBadRequestAndDisconnect()  # Python refuses to parse such a number
        return self.open and bool(super().headerReceived(line))

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(long_head() if self.requests else long_url())

    def allHeadersReceived(self) -> None:
        """Pass a complete head to the request now, not only once the body is there."""
        request = self.requests[-1]
        if not self.open:
            return
        self.on_head()
        self._body_due = True
        self._chunked_received = 0
        self.persistent = self.checkPersistence(request, self._version)
        codings = request.headers("Transfer-Encoding")
        if codings and (self._version != b"HTTP/1.1" or request.headers("Content-Length")):
            self.refuse(bad_framing())
            return
        request.clientproto = self._version
        request.gotLength(self.length)
        request.head_received(self._command, self._path)

    def allContentReceived(self) -> None:
        if self.open:
            self._body_due = False
            self.on_body_end()
            super().allContentReceived()

    def rawDataReceived(self, data: bytes) -> None:
        if not self.open:
            return
        if self.in_body and self.length is None:
            self._count_chunks(len(data))
            if not self.open:
                return
        super().rawDataReceived(data)

    def _count_chunks(self, size: int) -> None:
        """Refuse chunks whose sizes and extensions are longer than their data."""
        self._chunked_received += size
        waste = self._chunked_received - size - self.requests[-1].body.received
        if waste > MOST_CHUNK_WASTE + self.requests[-1].body.received:
            self.refuse(wasteful_chunks())

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Return whether another request may follow on the connection."""
        tokens = [
            token.strip().lower()
            for value in request.headers("Connection")
            for token in value.split(",")
        ]
        keeps = version == b"HTTP/1.1" and "close" not in tokens
        if not keeps:
            request.responseHeaders.setRawHeaders("Connection", ["close"])
        return keeps

    def setLineMode(self, extra: bytes = b"") -> None:
        """Parse what arrived while the last request was answered. It was counted then."""
        self.line_mode = 1
        if extra:
            StreamingChannel.dataReceived(self, extra)

    def _respondToBadRequestAndDisconnect(self) -> None:
        framing = self.in_body or self._header in (b"content-length", b"transfer-encoding")
        self.refuse(bad_framing() if framing else bad_request())

    # --- answers -------------------------------------------------------------------------------

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        lines = [b"%b %b %b\r\n" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            lines += [b"%b: %b\r\n" % (name, value) for value in values]
        self.write(b"".join([*lines, b"\r\n"]))

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))
