"""A request's body, on its way to whoever takes it. Nothing holds a whole one in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from vidproc.frontends.http.problems import HTTPError


class BodyBroken(Exception):
    """The connection was lost, or ended, within the body: nobody waits for an answer."""


class Sink(Protocol):
    """Takes a body. `receive` is called for each piece; then `end`, or `lose` if it breaks off."""

    def receive(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def lose(self) -> None: ...


class Body:
    """What follows a request's head.

    It is held back, the client's sending with it, until somebody takes it (`feed`, `read`) or it
    is thrown away. `hold` tells the connection to wait or to go on reading; `send_continue` asks a
    client for the body that waits to be asked.
    """

    def __init__(self, hold: Callable[[bool], None], send_continue: Callable[[], None]) -> None:
        self.length: int | None = 0
        """Bytes, None if only the end of the body tells."""
        self.received = 0
        self.ended = False
        """Whether all of it has come."""
        self.broken = False
        self.awaits_continue = False
        """Whether the client waits for `100 Continue` before it sends the body."""
        self.on_end: Callable[[], None] = lambda: None
        """Called when the last byte has come, whoever took it."""
        self._hold = hold
        self._send_continue = send_continue
        self._early: list[bytes] = []
        self._sink: Sink | None = None
        self._taken = False

    @property
    def remaining(self) -> int | None:
        """Bytes that are still to come, None if that is not known."""
        if self.ended:
            return 0
        return None if self.length is None else self.length - self.received

    def begin(self, length: int | None, *, awaits_continue: bool) -> None:
        """Note how long it will be; `length` is None if it comes in chunks."""
        self.length = length
        self.awaits_continue = awaits_continue and length != 0
        if length != 0:
            self._hold(True)

    def feed(self, sink: Sink) -> None:
        """Let `sink` take the body; what has come already at once. Raises `BodyBroken`."""
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
        """Throw away what still comes."""
        self._sink = None
        self._taken = True
        self._early.clear()
        self._hold(False)

    async def read(self, most: int) -> bytes:
        """Return the whole of a small body; raises `HTTPError` 413 beyond `most` bytes."""
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
        """Some of it has come."""
        self.awaits_continue = False
        self.received += len(data)
        if self._sink is not None:
            self._sink.receive(data)
        elif not self._taken:
            self._early.append(data)

    def count(self, size: int) -> None:
        """Bytes of it went past the connection to whoever takes it."""
        self.received += size

    def end(self) -> None:
        """All of it has come."""
        self.ended = True
        self._hold(False)  # what follows is the next request's
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end()
        self.on_end()

    def lose(self) -> None:
        """No more will come."""
        if not self.ended and not self.broken:
            self.broken = True
            sink, self._sink = self._sink, None
            if sink is not None:
                sink.lose()


class _Reader:
    """Gathers a small body."""

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
