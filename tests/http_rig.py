"""In-memory HTTP connections to a rig's server, and answers parsed by the rules of http.client."""

from __future__ import annotations

import email.parser
import json
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.rig import Rig, Transport
from vidproc.frontends.http.connection import HTTPConnection
from vidproc.frontends.http.frontend import HTTPFrontend


class Response:
    """One answer: `status`, `headers` (by any case) and `body`; `rest` is what followed it."""

    def __init__(self, data: bytes, *, head_only: bool = False) -> None:
        head, separator, self.rest = data.partition(b"\r\n\r\n")
        if not separator:
            raise AssertionError(f"no whole answer in {data!r}")
        first, _, lines = head.decode("latin-1").partition("\r\n")
        self.version, status, *_ = first.split(" ")
        self.status = int(status)
        self.headers = email.parser.HeaderParser().parsestr(lines)
        self.body = b""
        if head_only or self.status in (204, 304) or self.status < 200:
            return
        if self.headers["Transfer-Encoding"] == "chunked":
            self._read_chunks()
        else:
            length = int(self.headers["Content-Length"])
            self.body, self.rest = self.rest[:length], self.rest[length:]
            if len(self.body) < length:
                raise AssertionError(f"the body is cut short: {data!r}")

    def _read_chunks(self) -> None:
        while True:
            size, _, rest = self.rest.partition(b"\r\n")
            length = int(size, 16)
            self.body += rest[:length]
            self.rest = rest[length + 2 :]
            if not length:
                return

    @property
    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        """Whether the server announces that the connection ends."""
        return self.headers["Connection"] == "close"


@implementer(ITCPTransport)
class TCPTransport(Transport):
    """A transport that can be closed in one direction, as TCP can."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.arriving = b""
        """Bytes that the client has sent and the server has not read."""
        self._delivering = False

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self.deliver()

    def deliver(self) -> None:
        """Let the server read what was sent, until it pauses."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self.arriving and self.producerState == "producing" and not self.aborted:
                data, self.arriving = self.arriving, b""
                self.protocol.dataReceived(data)
        finally:
            self._delivering = False

    def getTcpNoDelay(self) -> bool:
        return True

    def getTcpKeepAlive(self) -> bool:
        return True

    def getHost(self) -> Any:
        return self.hostAddr

    def getPeer(self) -> Any:
        return self.peerAddr


class HTTPClient:
    """One connection to an HTTP frontend, in memory."""

    def __init__(self, frontend: HTTPFrontend, host: str = "192.0.2.1") -> None:
        address = IPv4Address("TCP", host, 40000)
        self.transport = TCPTransport(
            hostAddress=IPv4Address("TCP", "192.0.2.99", 80), peerAddress=address
        )
        connection = frontend.factory.buildProtocol(address)
        assert connection is not None
        self.connection: HTTPConnection = connection
        self.transport.protocol = connection
        connection.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Send bytes to the server, which reads them unless it has paused."""
        self.transport.arriving += data
        self.transport.deliver()

    def written(self) -> bytes:
        """Return what the server has written since the last call."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def responses(self) -> list[Response]:
        """Return the answers that have arrived since the last call."""
        found, data = [], self.written()
        while data:
            response = Response(data)
            data = response.rest
            found.append(response)
        return found

    def response(self, *, head_only: bool = False) -> Response:
        """Return the one answer that has arrived since the last call."""
        response = Response(self.written(), head_only=head_only)
        if response.rest:
            raise AssertionError(f"more than one answer: {response.rest!r}")
        return response

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: Any
    ) -> Response:
        """Send a complete request and return its answer. ``_`` in header names stands for ``-``."""
        self.send(request(method, path, body, **headers))
        return self.response(head_only=method == "HEAD")

    def half_close(self) -> None:
        """Close the sending side."""
        self.connection.readConnectionLost()

    def lose(self) -> None:
        """Lose the connection."""
        self.connection.connectionLost(Failure(ConnectionDone()))


def request(method: str, path: str, body: bytes | None = None, **headers: Any) -> bytes:
    """Return a request's bytes, with ``Host: localhost`` by default."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers.setdefault("Host", "localhost")
    if body is not None:
        headers.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class HTTPRig(Rig):
    """A rig whose server has an HTTP frontend, with `http` as its options."""

    def __init__(self, root: Path, *, http: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(root, **options)
        self.http = HTTPFrontend(self.backend, **(http or {}))

    def http_client(self, host: str = "192.0.2.1") -> HTTPClient:
        return HTTPClient(self.http, host)
