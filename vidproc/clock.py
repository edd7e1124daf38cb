"""A clock that counts real time: dates, but never set back or forth while the server runs.

Twisted's reactor reckons with the wall clock, so a step of it would fire every timer at once, or
none for hours. `SteadyClock.install` gives the reactor a clock that begins at the wall clock's time
and goes on with the monotonic one. Timers, timeouts and the dates of tasks all use
`reactor.seconds()`, so they agree with each other. How far the wall clock has moved away since is
`offset`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class SteadyClock:
    """Seconds since the epoch as the wall clock had them at the start, plus what has passed."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._start = wall() - monotonic()

    def seconds(self) -> float:
        """Return the time; it only rises."""
        return self._start + self._monotonic()

    @property
    def offset(self) -> float:
        """Seconds by which the wall clock is ahead of this one: the steps since the start."""
        return self._wall() - self.seconds()

    def install(self, reactor: Any) -> None:
        """Let `reactor` reckon with this clock from now on."""
        reactor.seconds = self.seconds
