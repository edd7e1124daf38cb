"""A request's body, which is passed on as it arrives. It is never complete in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from vidproc.frontends.http.problems import HTTPError


class BodyBroken(Exception):
    """The connection was lost or ended within the body, so nobody waits for an answer."""


class Sink(Protocol):
    """Takes a body."""

    def receive(self, data: bytes) -> None:
        """Take bytes that have arrived."""

    def end(self) -> None:
        """Note that all bytes have arrived."""

    def lose(self) -> None:
        """Note that the connection broke before the end."""


class Body:
    """What follows a request's head.

    The client is paused until somebody takes the body (`feed`, `read`) or it is discarded. `hold`
    makes the connection pause or resume reading. `send_continue` asks for the body if the client
    waits for that.
    """

    def __init__(self, hold: Callable[[bool], None], send_continue: Callable[[], None]) -> None:
        self.length: int | None = 0
        """Its length in bytes, None if it is known only at the end."""
        self.received = 0
        self.ended = False
        """Whether all of it has arrived."""
        self.broken = False
        self.awaits_continue = False
        """Whether the client waits for `100 Continue` before it sends the body."""
        self.on_end: Callable[[], None] = lambda: None
        """Called when the last byte has arrived."""
        self._hold = hold
        self._send_continue = send_continue
        self._early: list[bytes] = []
        self._sink: Sink | None = None
        self._taken = False

    @property
    def remaining(self) -> int | None:
        """Bytes that are still to arrive, None if unknown."""
        if self.ended:
            return 0
        return None if self.length is None else self.length - self.received

    def begin(self, length: int | None, *, awaits_continue: bool) -> None:
        """Note its length, None if it comes in chunks."""
        self.length = length
        self.awaits_continue = awaits_continue and length != 0
        if length != 0:
            self._hold(True)

    def feed(self, sink: Sink) -> None:
        """Pass the body to `sink`, beginning with what has arrived. Raises `BodyBroken`."""
        if self.broken:
            raise BodyBroken
        self._sink = sink
        self._taken = True
        early, self._early = self._early, []
        for data in early:
            sink.receive(data)
        if self.ended:
            sink.end()
        else:
            self._ask()
            self._hold(False)

    def discard(self) -> None:
        """Discard what still arrives."""
        self._sink = None
        self._taken = True
        self._early.clear()
        self._hold(False)

    async def read(self, most: int) -> bytes:
        """Return a small body. Raises `HTTPError` 413 if it has more than `most` bytes."""
        if self.length is not None and self.length > most:
            raise _too_long(most)
        reader = _Reader(most)
        self.feed(reader)
        return await reader.whole

    def _ask(self) -> None:
        if self.awaits_continue and not self.received:
            self.awaits_continue = False
            self._send_continue()

    # From the connection:

    def receive(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        self.awaits_continue = False
        self.received += len(data)
        if self._sink is not None:
            self._sink.receive(data)
        elif not self._taken:
            self._early.append(data)

    def count(self, size: int) -> None:
        """Count bytes that bypassed the connection."""
        self.received += size

    def end(self) -> None:
        """Note that all of it has arrived."""
        self.ended = True
        self._hold(False)  # what follows is the next request's
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end()
        self.on_end()

    def lose(self) -> None:
        """Note that the rest will never arrive."""
        if not self.ended and not self.broken:
            self.broken = True
            sink, self._sink = self._sink, None
            if sink is not None:
                sink.lose()


class _Reader:
    """Collects a small body."""

    def __init__(self, most: int) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0

    def receive(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._most:
            self._parts.append(data)
        elif not self.whole.called:
            self._parts.clear()
            self.whole.errback(_too_long(self._most))

    def end(self) -> None:
        if not self.whole.called:
            self.whole.callback(b"".join(self._parts))

    def lose(self) -> None:
        if not self.whole.called:
            self.whole.errback(BodyBroken())


def _too_long(most: int) -> HTTPError:
    return HTTPError(413, f"The body has more than {most} bytes.", "Send a shorter one.")
