"""An upload that begins before Twisted is imported.

The server can then work during half of the client's startup. What was sent is just what
`vidproc.client.upload` sends: that then goes on with the same socket, which Twisted adopts, where
this has stopped. Whatever does not work at once is left to it, with its errors and its patience.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
import uuid
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from vidproc.client.options import Options
from vidproc.client.requests import encode_request, upload_fields
from vidproc.client.source import Input, open_input
from vidproc.mmp.errors import LocalProtocolError
from vidproc.resume import Log

_REACH = 0.25
"""Seconds that finding the server and connecting to it may take."""
_SEND = 0.1
"""Seconds after which sending is left to Twisted."""
_CHUNK_SIZE = 1 << 20


class LaterLog:
    """A log that keeps its events until there is another one for them."""

    def __init__(self) -> None:
        self._held: list[tuple[str, str, tuple[object, ...]]] = []
        self._log: Log | None = None

    def info(self, message: str, *args: object) -> None:
        """Log an event."""
        self._take("info", message, args)

    def warning(self, message: str, *args: object) -> None:
        """Log a problem."""
        self._take("warning", message, args)

    def hand_over(self, log: Log) -> None:
        """Pass all events on to `log`, the earlier ones first."""
        self._log = log
        held, self._held = self._held, []
        for each in held:
            self._take(*each)

    def _take(self, level: str, message: str, args: tuple[object, ...]) -> None:
        if self._log is None:
            self._held.append((level, message, args))
        else:
            getattr(self._log, level)(message, *args)


@dataclass
class EarlyUpload:
    """An upload that has begun: the request `head` and bytes of the `input`, of which `sent` are
    gone in all. `signal` came meanwhile; 0 is none."""

    input: Input
    log: LaterLog
    connection: socket.socket
    head: bytes
    sent: int = 0
    signal: int = 0

    @property
    def file_sent(self) -> int:
        """Bytes of the file that are gone."""
        return max(0, self.sent - len(self.head))

    def hand_over(self, log: Log) -> Input:
        """Return what is sent, for whoever sends the rest; what was logged so far goes to `log`."""
        self.log.hand_over(log)
        return self.input

    def hold_interrupts(self) -> None:
        """Note Ctrl-C from now on instead of ending: the server may have the task already."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def send(self) -> None:
        """Send what the network takes now; stop when there is an answer, an error or no time."""
        until = time.monotonic() + _SEND
        while (data := self._next()) and time.monotonic() < until:
            try:
                readable, writable, _ = select.select(
                    [self.connection], [self.connection], [], max(0.0, until - time.monotonic())
                )
                if readable or not writable:
                    return
                self.sent += self.connection.send(data)
            except (OSError, ValueError):
                return  # Twisted will see it, too

    def _next(self) -> bytes:
        if self.sent < len(self.head):
            return self.head[self.sent :]
        source = self.input.source
        rest = source.size - self.file_sent  # not more, even if the file grows
        try:
            return os.pread(source.file.fileno(), min(_CHUNK_SIZE, rest), self.file_sent)
        except OSError:
            return b""


def begin_upload(options: Options) -> EarlyUpload | None:
    """Begin the upload that the options ask for.

    None if they ask for something else, if an earlier run has begun it, or if it is not possible.
    """
    if options.action != "process" or options.tls or options.skip_existing or os.name != "posix":
        return None
    log = LaterLog()
    try:
        found = open_input(options, log)
    except OSError:
        return None
    early = _begin(options, found, log)
    if early is None:
        found.close()
    return early


def _begin(options: Options, found: Input, log: LaterLog) -> EarlyUpload | None:
    if found.resume.upload_id is not None:
        return None
    source, upload_id = found.source, str(uuid.uuid4())
    fields = upload_fields(
        options.token,
        operation=options.type,
        parameters=options.parameters,
        filename=source.label,
        size=source.size,
        upload_id=upload_id,
    )
    try:
        head = encode_request(fields, source.media_type, source.size)
    except LocalProtocolError:
        return None
    connection = _connect(options.host, options.port)
    if connection is None:
        return None
    found.resume.remember(upload_id)  # if it is open
    early = EarlyUpload(replace(found, begun_id=upload_id), log, connection, head)
    early.hold_interrupts()
    early.send()
    return early


def _connect(host: str, port: int) -> socket.socket | None:
    """Return a connection to the server, which does not block; None if there is none at once."""
    until = time.monotonic() + _REACH
    for family, address in _addresses(host, port):
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # no IPv6 here, for instance
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(max(0.001, until - time.monotonic()))
            connection.connect(address)
            connection.setblocking(False)
        except OSError:
            connection.close()
        else:
            return connection
    return None


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Return the addresses of the server; none if finding them takes long."""
    found: list[tuple[socket.AddressFamily, Any]] = []

    def look() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        found.extend((family, address) for family, _, _, _, address in rows)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_REACH)
    return [] if looking.is_alive() else found
