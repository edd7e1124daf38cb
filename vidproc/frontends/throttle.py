"""Slowing uploads down so that video keeps its share of the CPU."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

PACKET = 1400
"""Bytes of a packet, as the service's promise counts them."""
LEAST_PACKETS = 5000
"""Packets a second that uploads may always bring, whatever video needs."""
LEAST_RATE = 1.2 * LEAST_PACKETS * PACKET
"""Bytes a second below which uploads are never slowed down; some more than the promise, for what a
client sends comes unevenly."""

_TOLERANCE = 0.02


class IngestThrottle:
    """A limit on what all uploads together bring, in bytes a second; None while there is none."""

    def __init__(self, clock: IReactorTime) -> None:
        self.rate: float | None = None
        self._clock = clock
        self._paid_until = float("-inf")

    def limit(self, rate: float | None) -> None:
        """Set the limit, at least `LEAST_RATE`; None lifts it."""
        self.rate = None if rate is None else max(LEAST_RATE, rate)

    def take(self, size: int) -> float:
        """Note that an upload brought `size` bytes; return the seconds until it may bring more."""
        if self.rate is None:
            return 0.0
        now = self._clock.seconds()
        self._paid_until = max(self._paid_until, now - _TOLERANCE) + size / self.rate
        return max(0.0, self._paid_until - now)
