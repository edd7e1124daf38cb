"""The CPU reserve: uploads are slowed down while FFmpeg is short of CPU time."""

from __future__ import annotations

from vidproc.app.measuring import Counters, Meter
from vidproc.frontends.throttle import LEAST_RATE, IngestThrottle
from vidproc.tasks.queue import Queue
from vidproc.topics import Topic, TopicLogger

BUSY = 0.85
"""The share of the machine's CPU time from which FFmpeg counts as using all of it."""
IDLE = 0.05
"""The idle share of the machine's CPU time above which nothing lacks CPU time."""
SLOWER, FASTER = 0.7, 1.25
"""Factors by which the limit on uploads changes at each check."""


class CpuReserve:
    """Limits the rate of all uploads together while tasks run."""

    log = TopicLogger(Topic.PERFORMANCE)

    def __init__(self, meter: Meter, queue: Queue, throttle: IngestThrottle) -> None:
        self._meter = meter
        self._queue = queue
        self._throttle = throttle
        self._last: Counters | None = None

    async def check(self) -> None:
        """Slow uploads down while they take CPU time that FFmpeg could use; otherwise speed them
        up.

        Nothing lacks CPU time while some is idle, and slow uploads are not the cause of a lack.
        """
        throttle = self._throttle
        if not self._queue.running or self._meter.works_elsewhere:
            self._last = None
            self._set_limit(None, "no task runs here")
            return
        now = self._meter.count()
        before, self._last = self._last, now
        if before is None:
            return
        figures = self._meter.figures(before, now)
        share = figures.ffmpeg_cpu / max(0.01, 1 - figures.other_cpu)
        busy = figures.idle_cpu < IDLE
        wanted = max(BUSY, self._queue.settings.cpu_reserve / 100)
        if busy and share < wanted and figures.bytes_in > LEAST_RATE:
            limit = min(throttle.rate or figures.bytes_in, figures.bytes_in) * SLOWER
            self._set_limit(limit, f"FFmpeg has {share:.0%} of the CPU, uploads take the rest")
        elif throttle.rate is not None and not (busy and share < wanted):
            faster = throttle.rate * FASTER
            # Far above the current rate: no limit is needed any more.
            free = faster > 4 * max(figures.bytes_in, LEAST_RATE)
            self._set_limit(None if free else faster, f"FFmpeg has {share:.0%} of the CPU")

    def _set_limit(self, rate: float | None, reason: str) -> None:
        throttle = self._throttle
        before = throttle.rate
        throttle.limit(rate)
        if throttle.rate != before:
            self.log.info(
                "uploads {limit}: {reason}",
                limit="unlimited"
                if throttle.rate is None
                else f"limited to {throttle.rate / 1e6:.1f} MB/s",
                reason=reason,
            )
