"""Slows uploads down so that video processing keeps its share of the CPU."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

PACKET = 1400
"""Bytes of a packet, for `LEAST_PACKETS`."""
LEAST_PACKETS = 5000
"""Packets per second that uploads may always send, whatever video processing needs."""
LEAST_RATE = 1.2 * LEAST_PACKETS * PACKET
"""Bytes per second below which uploads are never slowed down; somewhat more than promised, because
clients send unevenly."""

_TOLERANCE = 0.02


class IngestThrottle:
    """A limit on the rate of all uploads together, in bytes per second; None for no limit."""

    def __init__(self, clock: IReactorTime) -> None:
        self.rate: float | None = None
        self._clock = clock
        self._paid_until = float("-inf")

    def limit(self, rate: float | None) -> None:
        """Set the limit, at least `LEAST_RATE`; None lifts it."""
        self.rate = None if rate is None else max(LEAST_RATE, rate)

    def take(self, size: int) -> float:
        """Note `size` received bytes of an upload; return the seconds until it may continue."""
        if self.rate is None:
            return 0.0
        now = self._clock.seconds()
        self._paid_until = max(self._paid_until, now - _TOLERANCE) + size / self.rate
        return max(0.0, self._paid_until - now)
