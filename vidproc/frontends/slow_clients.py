"""Disconnects slow clients: those that are silent, do not read, or transfer a file or the head of a
request too slowly."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from twisted.internet.interfaces import IReactorTime

from vidproc.frontends.timer import Timer

MINIMUM_RATE = 1024
"""The lowest average rate of an upload over the idle timeout, and of a download over twice that, in
bytes per second."""
STALL_FACTOR = 2
"""A client that does not read its answer for this many idle timeouts is disconnected."""
HEAD_TIME = 20.0
"""Seconds within which the head of a request must arrive. Byte by byte it would hold its connection
for hours."""
CLOCK_JUMP = 5.0
"""A timer that is later than this, in seconds, means that the clock jumped, not that the machine is
busy."""


class Waiting(Enum):
    """Whom a connection is waiting for."""

    CLIENT = auto()
    """The client: for a request, or for more of one."""
    CLIENT_SENDS = auto()
    """The client sends a file."""
    CLIENT_BLOCKS = auto()
    """The client does not read what we have for it."""
    CLIENT_BLOCKS_FILE = auto()
    """The client does not read the file that we have for it, for now."""
    US = auto()
    """The server: a task, the disk, a limit. The client's silence is not its fault."""


class SlowClientWatch:
    """Watches one connection. Times in seconds.

    `waiting` returns whom it is waiting for. `on_silent` is called when nothing was transferred for
    the idle timeout (twice that if the client does not read, then its argument is true), `on_slow`
    with a sentence when a file or a head is too slow. Nothing is called after that.
    """

    def __init__(
        self,
        clock: IReactorTime,
        idle_timeout: float,
        waiting: Callable[[], Waiting],
        on_silent: Callable[[bool], None],
        on_slow: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._timeout = idle_timeout
        self._waiting = waiting
        self._on_silent = on_silent
        self._on_slow = on_slow
        self._moved_at: float = clock.seconds()
        self._received = _Rate(idle_timeout, self._moved_at)
        self._sent = _Rate(STALL_FACTOR * idle_timeout, self._moved_at)
        self._head = Timer(clock, self._head_is_late)
        self._look_again(idle_timeout)

    def received(self, size: int) -> None:
        """Note bytes from the client."""
        self._moved_at = self._clock.seconds()
        self._received.count += size

    def sent(self, size: int) -> None:
        """Note bytes of a file that the client has read."""
        self._moved_at = self._clock.seconds()
        self._sent.count += size

    def stirred(self) -> None:
        """Note that something happened: the idle time starts again."""
        self._moved_at = self._clock.seconds()

    def forgive(self) -> None:
        """Note that a transfer starts, or that a pause was ours: start measuring its rate again."""
        self._received.expected = self._sent.expected = 0.0
        self.stirred()

    def time_head(self, arriving: bool) -> None:
        """Note whether the head of a request has arrived in part."""
        if arriving:
            self._head.start(HEAD_TIME)
        else:
            self._head.stop()

    def _head_is_late(self) -> None:
        self._on_slow(f"The request did not arrive within {HEAD_TIME:.0f} s.")

    def stop(self) -> None:
        """The connection has ended."""
        self._head.stop()
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        now = self._clock.seconds()
        if now > self._look_at + CLOCK_JUMP:
            # The clock was set, or the machine slept: that was not the client's silence.
            self.forgive()
        waiting = self._waiting()
        if waiting is Waiting.US:
            self._moved_at = now
        blocks = waiting in (Waiting.CLIENT_BLOCKS, Waiting.CLIENT_BLOCKS_FILE)
        silence_ends = self._moved_at + self._timeout * (STALL_FACTOR if blocks else 1)
        if now >= silence_ends:
            self._on_silent(blocks)
            return
        brought = self._received.enough(now)
        if waiting is Waiting.CLIENT_SENDS and not brought:
            self._on_slow(f"The upload is slower than {MINIMUM_RATE} bytes per second.")
            return
        took = self._sent.enough(now)
        if waiting is Waiting.CLIENT_BLOCKS_FILE and not took:
            self._on_slow(f"The client reads less than {MINIMUM_RATE} bytes per second.")
            return
        self._look_again(max(min(silence_ends, self._received.window_end) - now, 0.01))

    def _look_again(self, seconds: float) -> None:
        self._look_at = self._clock.seconds() + seconds
        self._timer = self._clock.callLater(seconds, self._look)


class _Rate:
    """The bytes transferred in one direction within a window of time."""

    def __init__(self, window: float, now: float) -> None:
        self.count = 0
        self.expected = 0.0
        self.window_end = now + window
        self._window = window

    def enough(self, now: float) -> bool:
        """Return False if the window is over and fewer bytes than expected were transferred."""
        if now < self.window_end:
            return True
        enough = self.count >= self.expected
        self.count = 0
        self.expected = MINIMUM_RATE * self._window
        self.window_end = now + self._window
        return enough
