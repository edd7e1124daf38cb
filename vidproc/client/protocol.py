"""The client's side of MMP: one connection, and a client that goes on after a broken one.

`Connection` turns bytes into answers through the sans-IO decoder; it never holds a payload.
`Client` opens connections, tries again with growing pauses, and knows how to go on: an upload
at the offset that the server has, a watch with another watch, a download where the file ends.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, TypeVar

import msgspec
from twisted.internet import error as net_error
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.mmp.codec import (
    Decoder,
    MessageEnded,
    MessageStarted,
    NeedData,
    PayloadChunk,
    encode_head,
)
from vidproc.mmp.errors import RemoteProtocolError
from vidproc.units import format_size

CHUNK_SIZE = 1 << 20
"""Bytes read from a file, or from the network, at a time."""

TERMINAL = frozenset({"completed", "failed", "cancelled", "expired"})
"""Statuses after which nothing more happens to a task."""

_TLS_ALERT = b"\x15\x03"  # content type and major version (RFC 8446, 5.1)

MEDIA_TYPE = re.compile(r"[A-Za-z0-9]{1,16}", re.ASCII)

T = TypeVar("T")


# --- what can go wrong -----------------------------------------------------------------------


class ClientError(Exception):
    """A request could not be done. Its text is a sentence for a person."""


class ConnectFailed(ClientError):
    """No connection could be made, or what answers there is not what we look for."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice


class ConnectionBroken(ClientError):
    """A connection ended before its answer was there. Worth another try.

    `answered` is whether any byte of the answer had come.
    """

    def __init__(self, text: str, *, answered: bool = False) -> None:
        super().__init__(text)
        self.answered = answered


class LostForGood(ClientError):
    """The connection broke and could not be made again in a bounded number of tries."""

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice


class InputChanged(ClientError):
    """The input file is not what it was when the upload began, or can't be read any more."""


class ResultNotWritten(ClientError):
    """The result can't be stored here: a full or read-only disk."""


class Refused(ClientError):
    """The server answered with an error: its `code`, `description` and `solution`."""

    def __init__(self, code: int, description: str, solution: str, fields: dict[str, Any]) -> None:
        super().__init__(f"{code} {description}")
        self.code = code
        self.description = description
        self.solution = solution
        self.fields = fields

    @property
    def for_good(self) -> bool:
        """Whether the same would be refused later, too: no token, slot or room is wanting."""
        return self.code < 500 and self.code not in (401, 429)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's JSON, media type and payload size in bytes."""

    fields: dict[str, Any]
    media_type: str = ""
    payload_size: int = 0

    def refusal(self) -> Refused | None:
        """Return the error that this answer is, or None.

        A status has an ``error`` too: null, or the text of what went wrong with the task.
        """
        error = self.fields.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            return Refused(
                code if isinstance(code, int) else 0,
                str(error.get("description") or error.get("message") or "The server refused."),
                str(error.get("solution") or ""),
                error,
            )
        if self.fields.get("status") == "error" or (error and "status" not in self.fields):
            text = error or self.fields.get("message") or "The server refused."
            return Refused(0, str(text), str(self.fields.get("solution") or ""), self.fields)
        return None

    def checked(self) -> Answer:
        """Return this answer; raises `Refused` when it is an error."""
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        return self


class Sink(Protocol):
    """Where the payload of a download goes. Its exceptions end the download."""

    @property
    def offset(self) -> int:
        """Bytes that are there already: where the download goes on."""

    def begin(self, answer: Answer) -> None:
        """Take note of what the answer says about the bytes that follow."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""


class Log(Protocol):
    """The part of `logging.Logger` that is used here."""

    def info(self, message: str, *args: object) -> None:
        """Note an event."""

    def warning(self, message: str, *args: object) -> None:
        """Note an event that is not as it should be."""


# --- one connection --------------------------------------------------------------------------


@dataclass
class _Exchange:
    """One request under way. `take` gets each whole answer, says whether it was the last."""

    take: Callable[[Answer], bool]
    done: Deferred[Answer]
    sink: Sink | None = None
    body: FileBody | None = None
    answer: Answer | None = None
    answered: bool = False


@implementer(IPullProducer)
class FileBody:
    """Sends `size` bytes of `file` as fast as the network takes them, a chunk in memory."""

    def __init__(
        self, file: BinaryIO, size: int, connection: Connection, on_sent: Callable[[int], None]
    ) -> None:
        self._file = file
        self._remaining = size
        self._connection = connection
        self._on_sent = on_sent
        self.finished = False

    def resumeProducing(self) -> None:
        """Send the next chunk; called by the transport when it has room."""
        if self.finished:
            return
        try:
            chunk = self._file.read(min(CHUNK_SIZE, self._remaining))
        except OSError as error:
            reason = error.strerror or str(error)
            self._connection.fail(InputChanged(f"The input file can't be read: {reason}"))
            return
        if not chunk:
            self._connection.fail(InputChanged("The input file became shorter while it was sent."))
            return
        self._remaining -= len(chunk)
        self._connection.write(chunk)
        self._on_sent(len(chunk))
        if self._remaining == 0:
            self.finished = True
            self._connection.body_sent()

    def stopProducing(self) -> None:
        """Send nothing more; called by the transport when the connection is gone."""
        self.finished = True


class Connection(TwistedProtocol):
    """One connection to the server. Requests go out one at a time, each waits for its answer.

    Every request fails with `ConnectionBroken` when the connection ends or stalls, with
    `ConnectFailed` when the peer does not speak MMP, and with what a sink raised.
    `stall_timeout` is the seconds without a byte in either direction that are a stall.
    """

    def __init__(self, clock: Any, stall_timeout: float) -> None:
        self._clock = clock
        self._stall_timeout = stall_timeout
        self._timer: Any = None
        self._decoder = Decoder()
        self._exchange: _Exchange | None = None
        self._heard = False
        self.usable = False

    # requests

    def request(self, fields: dict[str, Any]) -> Deferred[Answer]:
        """Send a request without a payload; the result is its answer, an error answer too."""
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

        # The server says something every interval; it may take its time over it.
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
        """Send a request with `size` bytes of `file` from where it stands.

        `on_sent` gets the bytes of each chunk. An answer that comes early ends the sending.
        """
        exchange = _Exchange(lambda answer: True, self._deferred())
        # After the last byte the server still has to bring them all to the disk.
        done = self._begin(fields, exchange, 5 * self._stall_timeout, media_type, size)
        if size and self._exchange is exchange:
            exchange.body = FileBody(file, size, self, on_sent)
            self._transport.registerProducer(exchange.body, False)
        return done

    def download(self, fields: dict[str, Any], sink: Sink) -> Deferred[Answer]:
        """Send a request whose answer's payload goes to `sink`."""
        return self._begin(fields, _Exchange(lambda answer: True, self._deferred(), sink))

    def close(self) -> None:
        """Close the connection at once; a request under way fails."""
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
        # Deferred.cancel itself raises CancelledError in whoever waits.
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
        self._exchange = exchange
        self._watch_for_stall(patience or self._stall_timeout)
        self.write(encode_head(msgspec.json.encode(fields), media_type, size))
        return exchange.done

    def write(self, data: bytes) -> None:
        """Send bytes; part of a message."""
        self._moved()
        self._transport.write(data)

    def body_sent(self) -> None:
        """Note that the whole payload has been handed to the transport."""
        self._transport.unregisterProducer()

    def fail(self, problem: Exception) -> None:
        """End the request under way with `problem`, and the connection with it."""
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
        """Hand bytes to the decoder and act on what comes out."""
        if not self.usable:
            return
        self._moved()
        first, self._heard = not self._heard, True
        if self._exchange is not None:
            self._exchange.answered = True
        try:
            if first and data.startswith(_TLS_ALERT):
                # Read as a header of ours it would promise more, which never comes.
                raise RemoteProtocolError("it answers with a TLS alert")
            self._decoder.receive_data(data)
            while True:
                event = self._decoder.next_event()
                if isinstance(event, NeedData):
                    return
                if isinstance(event, MessageStarted):
                    self._started(event)
                elif isinstance(event, PayloadChunk):
                    if self._exchange is not None and self._exchange.sink is not None:
                        self._exchange.sink.write(event.data)
                elif isinstance(event, MessageEnded):
                    self._ended()
                if not self.usable:
                    return
        except RemoteProtocolError as problem:
            self.fail(
                ConnectFailed(
                    f"What answers there does not speak the vidproc protocol ({problem}).",
                    "Check --host and --port; if the server uses TLS, add --tls.",
                )
            )
        except Exception as problem:
            # A sink that can't go on, or a fault of ours: either way nobody waits in vain.
            self.fail(problem)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail the request under way."""
        self.usable = False
        exchange = self._end()
        if exchange is not None:
            exchange.done.errback(Failure(_broken(reason, exchange.answered, self._heard)))

    def _started(self, event: MessageStarted) -> None:
        exchange = self._exchange
        if exchange is None:
            # Nobody asked: a server that is out of step must not answer the next request.
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
            # An early answer. The rest of the payload is not wanted, and without it this
            # connection is good for nothing more.
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
        self.fail(
            ConnectionBroken(
                f"The server was silent for {self._patience:.0f} seconds.", answered=answered
            )
        )


def _broken(reason: Failure, answered: bool, heard: bool) -> ClientError:
    """Put into words why a connection ended; before anything was heard, TLS may be the reason."""
    value = reason.value
    problem = None if heard else _tls_problem(value)
    if problem is not None:
        return problem
    if isinstance(value, net_error.ConnectionDone):
        return ConnectionBroken("The server closed the connection.", answered=answered)
    return ConnectionBroken("The connection to the server broke.", answered=answered)


def _tls_problem(value: BaseException | None) -> ConnectFailed | None:
    """Return what a failed TLS handshake means; None when it is something else."""
    if value is None or isinstance(value, net_error.ConnectionClosed | OSError):
        return None
    kind = type(value).__module__.partition(".")[0]
    text = f"{type(value).__name__} {value}"
    if kind in ("service_identity", "twisted") and (
        "Verification" in text or "Mismatch" in text or "CertificateError" in text
    ):
        return ConnectFailed(
            "The server's certificate is for another name.",
            "Use the name in the certificate with --host.",
        )
    if kind != "OpenSSL":
        return None
    if "certificate verify failed" in text:
        return ConnectFailed(
            "The server's certificate can't be trusted.",
            "Give the certificate of its authority with --ca FILE, and use the name in the "
            "server's certificate with --host.",
        )
    if "wrong version number" in text or "record layer failure" in text:
        return ConnectFailed(
            "The server does not speak TLS on this port.", "Drop --tls, or use its TLS port."
        )
    if "alert" in text:
        return ConnectFailed(
            f"The TLS handshake was refused ({_ssl_reason(value)}).",
            "Check --port; the server may not speak TLS there, or want a client certificate.",
        )
    return None


def _ssl_reason(value: BaseException) -> str:
    try:
        return str(value.args[0][0][2]) or "no reason given"
    except (IndexError, TypeError):
        return "no reason given"


# --- a client that goes on -------------------------------------------------------------------


@dataclass
class RetryPolicy:
    """How often and how fast to try again: `tries` in a row without any progress.

    The pause before try n is `base` seconds times 2 to the n-1, at most `cap`, and a random part
    of up to half of it less, lest all clients of a restarted server come back at once.
    """

    tries: int = 5
    base: float = 1.0
    cap: float = 30.0
    jitter: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row, 1 at least."""
        longest = min(self.cap, self.base * 2.0 ** (failures - 1))
        return float(longest * (1 - self.jitter() / 2))


class Client:
    """A server as seen from here: does requests on one connection, or on as many as it takes.

    `notice` is called with a sentence when a connection broke and will be tried again, and when
    an earlier run's upload goes on.
    `tls` is what `optionsForClientTLS` returned, or None. Times are in seconds.
    """

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        *,
        log: Log,
        notice: Callable[[str], None] = lambda text: None,
        tls: Any = None,
        token: str | None = None,
        retry: RetryPolicy | None = None,
        connect_timeout: float = 10.0,
        stall_timeout: float = 60.0,
        clock: Any = None,
    ) -> None:
        self._reactor = reactor
        self._clock = reactor if clock is None else clock
        self.host = host
        self.port = port
        self._log = log
        self._notice = notice
        self._tls = tls
        self._token = token
        self._retry = retry or RetryPolicy()
        self._connect_timeout = connect_timeout
        self._stall_timeout = stall_timeout
        self._connection: Connection | None = None
        self._was_connected = False
        self._answered = False
        self._progress = 0

    async def request(self, action: str, **fields: Any) -> Answer:
        """Do a request without a payload; raises `Refused`, `ConnectFailed` and `LostForGood`."""

        async def attempt(connection: Connection) -> Answer:
            return (await self._ask(connection, action, **fields)).checked()

        return await self._persist(attempt)

    async def upload(
        self,
        operation: str,
        parameters: dict[str, Any],
        file: BinaryIO,
        size: int,
        *,
        media_type: str,
        filename: str,
        on_progress: Callable[[int], None],
        unchanged: Callable[[], bool] = lambda: True,
        earlier_id: str | None = None,
        on_upload_id: Callable[[str], None] = lambda upload_id: None,
    ) -> str:
        """Send `size` bytes of `file` and return the id of the task.

        A broken upload goes on at the offset that the server has; `on_progress` gets the bytes
        sent so far. `unchanged` tells whether the file is still the one that the upload began with.
        `earlier_id` is the upload_id of an earlier run that sent the same: what the server has of
        it is not sent again. `on_upload_id` gets the upload_id before anything is sent under it.
        Raises `Refused`, `ConnectFailed`, `LostForGood` and `InputChanged`.
        """
        head = {
            "type": operation,
            "parameters": parameters,
            "filename": filename,
            "size": size,
        }
        state = _UploadState(size)
        if earlier_id is not None:
            state.upload_id = earlier_id
            state.earlier = True

        async def attempt(connection: Connection) -> Answer:
            known = state.begun or state.earlier
            if known and not unchanged():
                raise InputChanged("The input file was changed while it was sent.")
            if known and state.resumable:
                answer = await self._ask(connection, "upload_status", upload_id=state.upload_id)
                if self._resume_at(state, answer):
                    if not state.earlier or state.begun or await self._worth_having(answer):
                        return answer
                    state.begin_anew()
                connection = await self._connected()
            while True:
                answer = await send(connection)
                refusal = answer.refusal()
                right = None
                if refusal is not None:
                    right = refusal.fields.get("offset") if refusal.code == 409 else None
                    if right is None and state.earlier and refusal.for_good:
                        # Somebody else's, or of another request: whatever it is, it is not ours.
                        self._log.info("the earlier upload can't go on: %s", refusal)
                        state.begin_anew()
                        connection = await self._connected()
                        continue
                    if refusal.code != 409:
                        raise refusal
                elif "task_id" in answer.fields:
                    return answer
                else:
                    right = answer.fields.get("offset")
                if not isinstance(right, int) or not 0 <= right <= size or not state.may_move():
                    if refusal is not None:
                        raise refusal
                    raise ConnectFailed("The server's answer to the upload names no task.")
                state.offset = right
                connection = await self._connected()

        async def send(connection: Connection) -> Answer:
            if not state.begun:
                on_upload_id(state.upload_id)
            state.begun = True
            sent = state.offset

            def moved(count: int) -> None:
                nonlocal sent
                sent += count
                on_progress(sent)

            try:
                file.seek(state.offset)
            except OSError as error:
                raise InputChanged(f"The input file can't be read: {error.strerror}") from None
            offset = {"offset": state.offset} if state.offset else {}
            fields = self._fields("upload", upload_id=state.upload_id, **head, **offset)
            self._log.info("upload of %d bytes begins at %d", size, state.offset)
            on_progress(sent)
            return await connection.upload(fields, media_type, file, size - state.offset, moved)

        answer = await self._persist(attempt, forgive=lambda: state.offset > 0)
        return str(answer.fields.get("task_id"))

    async def _worth_having(self, accepted: Answer) -> bool:
        """Whether the task that an earlier run's upload became may still have a result."""
        connection = await self._connected()
        answer = await self._ask(connection, "status", task_id=accepted.fields["task_id"])
        if answer.refusal() is not None or answer.fields.get("status") in TERMINAL - {"completed"}:
            return False
        self._notice("The upload was complete already. Going on with its task.")
        return True

    def _resume_at(self, state: _UploadState, answer: Answer) -> bool:
        """Set where the upload goes on; return whether it was complete already."""
        refusal = answer.refusal()
        first = state.earlier and not state.begun
        if refusal is None:
            if "task_id" in answer.fields:
                return True
            offset = answer.fields.get("offset")
            if isinstance(offset, int) and 0 <= offset <= state.size:
                if offset > state.best:
                    state.best = offset
                    self._progress += 1
                state.offset = offset
                if first and offset:
                    done, whole = format_size(offset), format_size(state.size)
                    self._notice(f"Going on with the upload at {done} of {whole}.")
        elif refusal.code in (400, 404, 0) or (state.earlier and refusal.for_good):
            # 404: nothing has arrived. 400: a server that knows no resuming.
            state.offset = 0
            state.resumable = refusal.code not in (400, 0)
            if state.earlier:
                self._log.info("the earlier upload can't go on: %s", refusal)
                state.begin_anew()
        else:
            raise refusal
        return False

    async def watch(
        self, task_id: str, interval: float, on_status: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Follow a task to its end and return the last status.

        `on_status` gets every status; `interval` is the seconds between two of them at most.
        A server that does not know ``watch`` is asked again and again.
        Raises `Refused`, `ConnectFailed` and `LostForGood`.
        """
        polling = False
        silent = 0

        def seen(fields: dict[str, Any]) -> None:
            self._progress += 1
            on_status(fields)

        async def attempt(connection: Connection) -> dict[str, Any]:
            nonlocal polling, silent
            if not polling:
                fields = self._fields("watch", task_id=task_id, interval=interval)
                try:
                    answer = await connection.watch(fields, seen)
                except ConnectionBroken as problem:
                    # Some servers hang up on what they do not know.
                    silent = 0 if problem.answered else silent + 1
                    polling = silent >= 2
                    raise
                refusal = answer.refusal()
                if refusal is None:
                    return answer.fields
                if refusal.code not in (0, 400, 405, 501):
                    raise refusal
                self._log.info("the server does not know watch; asking for the status instead")
                polling = True
            while True:
                answer = await self._ask(await self._connected(), "status", task_id=task_id)
                answer.checked()
                seen(answer.fields)
                if answer.fields.get("status") in TERMINAL:
                    return answer.fields
                await deferLater(self._clock, interval)

        return await self._persist(attempt, forgive=lambda: True)

    async def download(self, task_id: str, sink: Sink) -> Answer:
        """Fetch a task's result into `sink`, from the sink's offset on.

        Raises `Refused`, `ConnectFailed`, `LostForGood`, and what the sink raises.
        """
        best = sink.offset

        async def attempt(connection: Connection) -> Answer:
            nonlocal best
            offset = {"offset": sink.offset} if sink.offset else {}
            self._log.info("download of %s begins at %d", task_id, sink.offset)
            fields = self._fields("download", task_id=task_id, **offset)
            try:
                return (await connection.download(fields, sink)).checked()
            finally:
                if sink.offset > best:
                    best = sink.offset
                    self._progress += 1

        return await self._persist(attempt, forgive=lambda: True)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # the inner workings

    def _fields(self, action: str, **fields: Any) -> dict[str, Any]:
        if self._token is not None:
            fields["token"] = self._token
        return {"action": action, **fields}

    async def _ask(self, connection: Connection, action: str, **fields: Any) -> Answer:
        answer = await connection.request(self._fields(action, **fields))
        self._log.info("%s: %s", action, answer.fields.get("status") or "answered")
        return answer

    async def _connected(self) -> Connection:
        """Return the open connection, or a new one."""
        if self._connection is not None and self._connection.usable:
            return self._connection
        endpoint: Any = HostnameEndpoint(
            self._reactor,
            self.host,
            self.port,
            timeout=self._connect_timeout,
            # localhost is often ::1 first; a server on 127.0.0.1 should not wait for that.
            attemptDelay=0.05,
        )
        if self._tls is not None:
            endpoint = wrapClientTLS(self._tls, endpoint)
        factory = Factory.forProtocol(lambda: Connection(self._clock, self._stall_timeout))
        factory.noisy = False
        try:
            connection: Connection = await endpoint.connect(factory)
        except (net_error.ConnectError, net_error.DNSLookupError, OSError, ValueError) as problem:
            raise _not_connected(self.host, self.port, problem) from None
        self._log.info("connected to %s port %d", self.host, self.port)
        self._was_connected = True
        self._connection = connection
        return connection

    async def _persist(
        self,
        attempt: Callable[[Connection], Awaitable[T]],
        forgive: Callable[[], bool] = lambda: False,
    ) -> T:
        """Do `attempt` until it works or a bounded number of tries brought no progress.

        `forgive` tells whether a 503 is worth another try, as in the middle of something that
        the server had agreed to.
        """
        failures = 0
        while True:
            before = self._progress
            reused = self._connection is not None and self._connection.usable
            problem: ClientError
            try:
                result = await attempt(await self._connected())
                self._answered = True
                return result
            except ConnectFailed as error:
                if not self._was_connected or not isinstance(error, _Unreachable):
                    raise
                problem = error
            except ConnectionBroken as error:
                if reused and not error.answered and before == self._progress and failures == 0:
                    # The server closes after each answer, or tired of waiting: not a failure yet.
                    self.close()
                    failures = 0
                    continue
                problem = error
            except Refused as error:
                self._answered = True
                if error.code != 503 or not forgive():
                    raise
                problem = error
            self.close()
            failures = 1 if self._progress > before else failures + 1
            self._log.warning("failure %d in a row: %s", failures, problem)
            if failures > self._retry.tries:
                if isinstance(problem, Refused):
                    raise problem
                where = f"{self.host} port {self.port}"
                # A TLS server closes without a word on what is no TLS.
                mute = self._tls is None and not self._answered
                raise LostForGood(
                    f"The connection to {where} was lost for good: {problem}",
                    "It never answered; if the server uses TLS, add --tls." if mute else "",
                )
            pause = self._retry.pause(failures)
            self._notice(f"{problem} Trying again in {pause:.1f} s.")
            await deferLater(self._clock, pause)


@dataclass
class _UploadState:
    """How far an upload is. `best` is the highest offset that the server ever confirmed.

    `earlier` is whether the upload_id is that of an earlier run.
    """

    size: int
    upload_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    earlier: bool = False
    offset: int = 0
    best: int = 0
    begun: bool = False
    resumable: bool = True
    moves: int = 0

    def begin_anew(self) -> None:
        """Begin at 0 with an upload_id of this run; done once at most."""
        self.upload_id = str(uuid.uuid4())
        self.earlier = self.begun = False
        self.offset = self.best = 0

    def may_move(self) -> bool:
        """Whether the server may name another offset once more; bounded, lest this go round."""
        self.moves += 1
        return self.moves <= 10


class _Unreachable(ConnectFailed):
    """No connection could be made; it may be possible a moment later."""


def _not_connected(host: str, port: int, problem: BaseException) -> ConnectFailed:
    where = f"{host} port {port}"
    if isinstance(problem, net_error.ConnectionRefusedError):
        return _Unreachable(
            f"Cannot connect to {where}: the connection was refused.",
            f"Is the server running? Start it with: twistd -n vidproc --port {port}",
        )
    if isinstance(problem, net_error.DNSLookupError | net_error.UnknownHostError | ValueError):
        return _Unreachable(
            f"Cannot connect to {where}: the host name is not known.",
            "Check --host, for example: --host localhost",
        )
    if isinstance(problem, net_error.TimeoutError):
        return _Unreachable(
            f"Cannot connect to {where}: no answer.",
            "Check --host and --port, and that no firewall stands between.",
        )
    reason = getattr(problem, "osError", None) or getattr(problem, "strerror", None) or problem
    return _Unreachable(
        f"Cannot connect to {where}: {reason}.",
        "Check --host and --port, and the network.",
    )


def tls_options(host: str, ca: bytes | None) -> Any:
    """Return what checks the server's certificate and name; `ca` holds PEM certificates.

    Without `ca` the system's authorities are trusted. Raises `ConnectFailed` when `ca` holds
    no usable certificate.
    """
    from twisted.internet import ssl

    trust: Any = None
    if ca is not None:
        blocks = re.findall(
            rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", ca, re.DOTALL
        )
        try:
            trust = ssl.trustRootFromCertificates(
                [ssl.Certificate.loadPEM(block) for block in blocks]
            )
        except Exception:
            blocks = []
        if not blocks:
            raise ConnectFailed(
                "The file given with --ca holds no usable certificate.",
                "Name the PEM file with the certificate of the server's authority.",
            )
    return ssl.optionsForClientTLS(host, trustRoot=trust)
