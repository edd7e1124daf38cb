"""A clock that shows dates but never jumps while the server runs.

Twisted's reactor uses the wall clock, so changing that would fire every timer at once, or none for
hours. `SteadyClock.install` gives the reactor a clock that starts at the wall clock's time and
continues with the monotonic clock. Timers, timeouts and the dates of tasks all use
`reactor.seconds()`, so they agree with each other. `offset` is how far the wall clock has been
changed since.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class SteadyClock:
    """Seconds since the epoch: the wall clock's time at the start, plus the time since then."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._start = wall() - monotonic()

    def seconds(self) -> float:
        """Return the time in seconds; it never goes backwards."""
        return self._start + self._monotonic()

    @property
    def offset(self) -> float:
        """Seconds by which the wall clock is ahead of this one: its changes since the start."""
        return self._wall() - self.seconds()

    def install(self, reactor: Any) -> None:
        """Make `reactor` use this clock. Any: no interface lets `seconds` be replaced."""
        reactor.seconds = self.seconds
