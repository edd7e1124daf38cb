"""One request: what a handler sees of it, and how it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.python.failure import Failure
from twisted.web import http

from vidproc.errors import ServiceError
from vidproc.frontends.http.answers import Answer
from vidproc.frontends.http.body import Body
from vidproc.frontends.http.problems import title_of
from vidproc.frontends.http.shared import Shared
from vidproc.frontends.interface import Backend
from vidproc.frontends.receiving import Receiving
from vidproc.frontends.sending import Sending
from vidproc.tasks.settings import Caller

DRAINABLE = 64 << 10
"""The longest refused body, in bytes, after which the connection is kept."""

_NO_BODY = (204, 304)


class Connection(Protocol):
    """A connection, as requests see it."""

    backend: Backend
    shared: Shared
    peer: str | None
    from_proxy: bool

    def serve(self, request: Request) -> None:
        """Start answering a request whose head is complete."""
        ...

    def hold(self, reason: str, held: bool) -> None:
        """Set or clear a reason to pause the client."""
        ...

    def release(self) -> None:
        """Resume reading, for whatever reason a request's body had paused it."""
        ...

    def send_continue(self) -> None:
        """Tell the client to send the body that it holds back."""
        ...

    def close_after(self, request: Request) -> None:
        """Close the connection once the request is answered."""
        ...

    def answered_early(self, request: Request) -> None:
        """Note that the request was answered before its body had arrived."""
        ...

    def sent(self, size: int) -> None:
        """Count bytes of an answer."""
        ...

    def file_begins(self) -> None:
        """Note that a file will be sent as an answer."""
        ...

    def abort(self) -> None:
        """Close the connection at once."""
        ...


class Request(http.Request):
    """A request, from its head on. Handlers use only this, not the connection.

    A handler finds the path's `arguments`, the `query`, headers by `header`, the `caller` and the
    `body`. It returns an `Answer`, or writes one by `begin`, `write` and `finish`.
    """

    def __init__(self, channel: Any, queued: Any = False) -> None:
        super().__init__(channel)
        self.connection: Connection = channel
        self.backend = self.connection.backend
        """The gate, the tasks and threads for files."""
        self.shared = self.connection.shared
        """What all handlers share: the feeds of events and the links to results."""
        self.foreign_origin = False
        """Whether a page of another origin sent it, one that is allowed."""
        self.host_name = ""
        """The Host header."""
        self.url_path = ""
        """The path, still encoded; `arguments` are decoded."""
        self.query: Sequence[tuple[str, str]] = ()
        """Names and values of the query, in order."""
        self.arguments: dict[str, str] = {}
        """The values of the words in braces in the route's path, decoded."""
        self.peer = ""
        """The client for which slots are counted; behind a trusted proxy, the one that it names."""
        self.request_id = ""
        """Its id in the logs; the client is told it."""
        self.caller = Caller("")
        """Who is asking."""
        self.secure = False
        """Whether it came by TLS, here or to a trusted proxy."""
        self.body = Body(lambda held: channel.hold("body", held), channel.send_continue)
        self.receiving: Receiving | None = None
        """The upload that gets the body, whose bytes may then bypass the connection."""
        self.sending: Sending | None = None
        """The file being sent. A client that reads it too slowly is disconnected."""
        self.on_drain: Callable[[], None] | None = None
        """Called at a shutdown; set by handlers whose answer would not end by itself. Other
        requests are answered first."""
        self.lost = False
        """Whether the connection is lost; then writes do nothing. `notifyFinish` reports it."""
        self.common_headers: dict[str, str] = {}
        """Headers of every answer; its own headers take precedence."""
        self._begun = False

    # --- what handlers ask ---------------------------------------------------------------------

    @property
    def verb(self) -> str:
        """The method, such as ``GET``."""
        return self.method.decode("ascii")

    def header(self, name: str) -> str | None:
        """Return a header's value, the last one if there are several."""
        values = self.headers(name)
        return values[-1] if values else None

    def headers(self, name: str) -> list[str]:
        """Return all values of a header, in order. Each byte becomes one character, as in RFC
        9110, so any value can be decoded."""
        values = self.requestHeaders.getRawHeaders(name.encode("ascii")) or ()
        return [value.decode("latin-1") for value in values]

    def parameter(self, name: str) -> str | None:
        """Return the last value of `name` in the query."""
        return next((value for key, value in reversed(self.query) if key == name), None)

    def reference(self, path: str) -> str:
        """Return a path of this server as a URL relative to the request's. A proxy may serve it
        below a prefix that only the client knows."""
        return "../" * (self.url_path.count("/") - 1) + path.removeprefix("/")

    def authenticate(self) -> None:
        """Set `caller` from the request's token. Raises `ServiceError` 401."""
        try:
            self.caller = self.backend.gate.caller(self.peer, self._token())
        except ServiceError as error:
            raise ServiceError(
                error.code,
                error.description,
                "Send the token in the header Authorization: Bearer TOKEN.",
            ) from None

    def _token(self) -> str | None:
        scheme, _, token = (self.header("Authorization") or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        return token.strip().encode("latin-1").decode(errors="replace")  # the token file is UTF-8

    # --- how handlers answer -------------------------------------------------------------------

    def answer(self, answer: Answer) -> None:
        """Send a complete answer. Handlers return theirs instead."""
        if self.startedWriting or self.lost or self.finished:
            return
        if answer.status >= 400:
            self.backend.gate.count_error("http", answer.status)
        if answer.close or not self._keeps_connection():
            self.connection.close_after(self)
        if answer.status not in _NO_BODY:
            self.responseHeaders.setRawHeaders("Content-Length", [str(len(answer.body))])
        self.begin(answer.status, answer.headers)
        self.write(answer.body)
        self.finish()

    def begin(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Set an answer's head, which is sent with the first `write`. Without a Content-Length, the
        body is sent in chunks."""
        self.setResponseCode(status, title_of(status).encode())
        date = http.datetimeToString(self.backend.reactor.seconds()).decode()
        if self.backend.gate.draining:
            self.connection.close_after(self)
        for name, value in ({"Date": date} | self.common_headers | dict(headers or {})).items():
            self.setHeader(name, value)

    def write(self, data: bytes) -> None:
        """Send bytes of the answer's body, after `begin`."""
        if not self.lost:
            super().write(data)

    def finish(self) -> None:
        """End the answer."""
        if self.lost or self.finished:
            return
        self.connection.release()
        if self.body.ended:
            super().finish()
            return
        # The answer came before the body; the rest of the body is discarded.
        if not self.startedWriting:
            self.write(b"")
        self.body.on_end = super().finish
        self.body.discard()
        self.connection.answered_early(self)

    def send(self, sending: Sending | None) -> None:
        """Note which file is being sent from now on; None when it is done."""
        self.sending = sending
        if sending is not None:
            self.connection.file_begins()

    def sent(self, size: int) -> None:
        """Count bytes of a file that were sent without `write`."""
        self.connection.sent(size)

    def _keeps_connection(self) -> bool:
        """Whether the next request on the connection can be found after this one."""
        remaining = self.body.remaining
        if remaining == 0:
            return True
        return remaining is not None and remaining <= DRAINABLE and not self.body.awaits_continue

    # --- from the connection -------------------------------------------------------------------

    def head_received(self, method: bytes, target: bytes) -> None:
        """The head is complete; `gotLength` was called."""
        self.method, self.uri = method, target
        if not self.body.ended:
            self._begun = True
            self.connection.serve(self)

    def gotLength(self, length: int | None) -> None:
        """Note the length of the body, None if it comes in chunks."""
        expects = (self.header("Expect") or "").lower() == "100-continue"
        expects = expects and self.clientproto == b"HTTP/1.1"
        self.body.begin(length, awaits_continue=expects)
        self.body.ended = length == 0

    def handleContentChunk(self, data: bytes) -> None:
        """Take bytes of the body."""
        self.body.receive(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is complete."""
        if self._begun:
            self.body.end()
        else:
            self._begun = True
            self.connection.serve(self)

    def connectionLost(self, reason: Failure) -> None:
        """The connection is lost."""
        self.lost = True
        self.body.lose()
        super().connectionLost(reason)
