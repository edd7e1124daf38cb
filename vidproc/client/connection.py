"""One connection to the server: the sans-IO decoder turns its bytes into answers.

It never keeps a payload in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import msgspec
from twisted.internet import error as net_error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from vidproc.client.answer import TERMINAL, Answer
from vidproc.client.errors import ClientError, ConnectFailed, ConnectionBroken
from vidproc.client.file_body import CHUNK_SIZE, FileBody
from vidproc.client.requests import encode_request
from vidproc.client.tls import tls_problem
from vidproc.mmp.codec import (
    Decoder,
    Event,
    MessageEnded,
    MessageStarted,
    NeedData,
)
from vidproc.mmp.errors import RemoteProtocolError

if TYPE_CHECKING:
    from vidproc.client.early import EarlyUpload

_TLS_ALERT = b"\x15\x03"  # content type and major version (RFC 8446, 5.1)


class Sink(Protocol):
    """Takes the payload of a download. Its exceptions end the download."""

    @property
    def offset(self) -> int:
        """Bytes that are there already: where the download resumes."""

    def begin(self, answer: Answer) -> None:
        """Note what the answer says about the bytes that follow."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""


@dataclass
class _Exchange:
    """One request in progress. `take` gets each complete answer and returns whether it was the
    last."""

    take: Callable[[Answer], bool]
    done: Deferred[Answer]
    sink: Sink | None = None
    body: FileBody | None = None
    answer: Answer | None = None
    answered: bool = False


class Connection(TwistedProtocol):
    """One connection to the server. Each request waits for the answer to the last one.

    Every request fails with `ConnectionBroken` when the connection ends or stalls, with
    `ConnectFailed` when the peer does not speak MMP, and with what a sink raised.
    A connection stalls if there is no byte in either direction for `stall_timeout` seconds.
    `early` is an upload that has begun over it: it must be the first request, and is continued.
    """

    def __init__(
        self, clock: IReactorTime, stall_timeout: float, early: EarlyUpload | None = None
    ) -> None:
        self._early = early
        self._clock = clock
        self._stall_timeout = stall_timeout
        self._timer: IDelayedCall | None = None
        self._decoder = Decoder()
        self._exchange: _Exchange | None = None
        self._heard = False
        self.usable = False

    @property
    def has_begun(self) -> bool:
        """Whether an upload has begun over it, before this object existed, that no one has
        continued yet."""
        return self._early is not None

    # requests

    def request(self, fields: dict[str, Any]) -> Deferred[Answer]:
        """Send a request without a payload; the result is its answer, even an error."""
        return self._begin(fields, _Exchange(lambda answer: True, self._deferred()))

    def watch(
        self, fields: dict[str, Any], on_status: Callable[[dict[str, Any]], None]
    ) -> Deferred[Answer]:
        """Send a watch; `on_status` gets every status. The result is the last one, or an error."""

        def take(answer: Answer) -> bool:
            if answer.refusal() is not None:
                return True
            on_status(answer.fields)
            return answer.fields.get("status") in TERMINAL

        # The server sends a status every interval, and may be late.
        patience = max(self._stall_timeout, 3 * float(fields.get("interval", 1)))
        return self._begin(fields, _Exchange(take, self._deferred()), patience)

    def upload(
        self,
        fields: dict[str, Any],
        media_type: str,
        file: BinaryIO,
        size: int,
        on_sent: Callable[[int], None],
    ) -> Deferred[Answer]:
        """Send a request with `size` bytes of `file` from its current position.

        `on_sent` gets the size of each chunk. An early answer ends the sending.
        """
        exchange = _Exchange(lambda answer: True, self._deferred())
        sent = self._early.file_sent if self._early is not None else 0
        # After the last byte, the server must still sync the file.
        done = self._begin(fields, exchange, 5 * self._stall_timeout, media_type, size)
        if sent:
            file.seek(sent, os.SEEK_CUR)
            size -= sent
            on_sent(sent)
        if size and self._exchange is exchange:
            exchange.body = FileBody(
                file,
                size,
                self._write,
                on_sent=on_sent,
                on_end=self._transport.unregisterProducer,
                on_fail=self._fail,
            )
            self._transport.registerProducer(exchange.body, False)
        return done

    def download(self, fields: dict[str, Any], sink: Sink) -> Deferred[Answer]:
        """Send a request whose answer's payload goes to `sink`."""
        return self._begin(fields, _Exchange(lambda answer: True, self._deferred(), sink))

    def close(self) -> None:
        """Close the connection at once; a request in progress fails."""
        self.usable = False
        if self.transport is not None:
            self._transport.abortConnection()

    # the inner workings

    @property
    def _transport(self) -> Any:
        return self.transport

    def _deferred(self) -> Deferred[Answer]:
        return Deferred(self._cancelled)

    def _cancelled(self, deferred: Deferred[Answer]) -> None:
        # Deferred.cancel itself raises CancelledError in the code that waits.
        self._end()
        self.close()

    def _begin(
        self,
        fields: dict[str, Any],
        exchange: _Exchange,
        patience: float | None = None,
        media_type: str = "",
        size: int = 0,
    ) -> Deferred[Answer]:
        if self._exchange is not None or not self.usable:
            raise ConnectionBroken("The connection is not free for a request.")
        head = encode_request(fields, media_type, size)
        early, self._early = self._early, None
        if early is not None:
            if head != early.head:
                self.close()
                raise ConnectionBroken("The connection is in use for another request.")
            head = head[early.sent :]
        self._exchange = exchange
        self._watch_for_stall(patience or self._stall_timeout)
        if head:
            self._write(head)
        return exchange.done

    def _write(self, data: bytes) -> None:
        """Send bytes; part of a message."""
        self._moved()
        self._transport.write(data)

    def _fail(self, problem: Exception) -> None:
        """Let the request in progress fail with `problem`, and close the connection."""
        exchange = self._end()
        self.close()
        if exchange is not None:
            exchange.done.errback(Failure(problem))

    def connectionMade(self) -> None:
        """Prepare the transport; large reads take half the time of small ones."""
        self.usable = True
        transport = self._transport
        if hasattr(transport, "bufferSize"):
            transport.bufferSize = CHUNK_SIZE
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes to the decoder and handle its events."""
        if not self.usable:
            return
        self._moved()
        first, self._heard = not self._heard, True
        if self._exchange is not None:
            self._exchange.answered = True
        try:
            if first and data.startswith(b"HTTP/"):
                self._fail(
                    ConnectFailed(
                        "What answers there speaks HTTP, not the vidproc protocol.",
                        "Name the server's MMP port, such as --port 9999; if the server uses TLS,"
                        " add --tls.",
                    )
                )
                return
            if first and data.startswith(_TLS_ALERT):
                # As an MMP header it would announce more bytes, which never arrive.
                raise RemoteProtocolError("it answers with a TLS alert")
            self._decoder.receive_data(data)
            while True:
                event = self._decoder.next_event()
                if isinstance(event, NeedData):
                    return
                self._take(event)
                if not self.usable:
                    return
        except RemoteProtocolError as problem:
            self._fail(
                ConnectFailed(
                    f"What answers there does not speak the vidproc protocol ({problem}).",
                    "Check --host and --port; if the server uses TLS, add --tls.",
                )
            )
        except Exception as problem:
            # The sink failed, or we have a bug: either way, end the request.
            self._fail(problem)

    def _take(self, event: Event) -> None:
        if isinstance(event, MessageStarted):
            self._started(event)
        elif isinstance(event, MessageEnded):
            self._ended()
        elif self._exchange is not None and self._exchange.sink is not None:
            self._exchange.sink.write(event.data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Let the request in progress fail."""
        self.usable = False
        exchange = self._end()
        if exchange is not None:
            exchange.done.errback(Failure(_broken(reason, exchange.answered, self._heard)))

    def _started(self, event: MessageStarted) -> None:
        exchange = self._exchange
        if exchange is None:
            # It must not become the answer to the next request.
            self.close()
            return
        try:
            fields = msgspec.json.decode(event.json) if event.json else {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise RemoteProtocolError("the answer's JSON can't be read")
        exchange.answer = Answer(fields, event.media_type, event.payload_size)
        if exchange.sink is not None:
            if exchange.answer.refusal() is not None:
                exchange.sink = None
            else:
                exchange.sink.begin(exchange.answer)

    def _ended(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.answer is None or not exchange.take(exchange.answer):
            return
        if exchange.body is not None and not exchange.body.finished:
            # An early answer. The server does not need the rest of the payload, but without it
            # this connection cannot be used again.
            self._end()
            self.close()
        else:
            self._end()
        exchange.done.callback(exchange.answer)

    def _end(self) -> _Exchange | None:
        exchange, self._exchange = self._exchange, None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if exchange is not None and exchange.body is not None and not exchange.body.finished:
            exchange.body.stopProducing()
            self._transport.unregisterProducer()
        return exchange

    def _watch_for_stall(self, patience: float) -> None:
        self._patience = patience
        self._timer = self._clock.callLater(patience, self._stalled)

    def _moved(self) -> None:
        if self._timer is not None:
            self._timer.reset(self._patience)

    def _stalled(self) -> None:
        self._timer = None
        answered = self._exchange is not None and self._exchange.answered
        self._fail(
            ConnectionBroken(
                f"The server was silent for {self._patience:.0f} seconds.", answered=answered
            )
        )


def _broken(reason: Failure, answered: bool, heard: bool) -> ClientError:
    """Return why a connection ended; before the first byte, TLS may be the reason."""
    value = reason.value
    problem = None if heard else tls_problem(value)
    if problem is not None:
        return problem
    if isinstance(value, net_error.ConnectionDone):
        return ConnectionBroken("The server closed the connection.", answered=answered)
    return ConnectionBroken("The connection to the server broke.", answered=answered)
