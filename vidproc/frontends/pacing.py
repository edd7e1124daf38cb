"""Pauses a connection that is ahead of its share of the limit on uploads."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from vidproc.frontends.throttle import IngestThrottle
from vidproc.frontends.timer import Timer


class Pacing:
    """Calls `on_pause` when to stop reading a connection, and `on_resume` when to continue.

    `on_resume` gets the bytes of the read that led to the pause.
    """

    def __init__(
        self,
        clock: IReactorTime,
        throttle: IngestThrottle,
        on_pause: Callable[[], None],
        on_resume: Callable[[int], None],
    ) -> None:
        self._throttle = throttle
        self._on_pause = on_pause
        self._on_resume = on_resume
        self._timer = Timer(clock, self._resume)
        self._size = 0

    @property
    def paused(self) -> bool:
        """Whether the connection should not be read."""
        return self._timer.running

    def took(self, size: int) -> None:
        """Note that `size` bytes of an upload were read."""
        if self.paused:
            return
        wait = self._throttle.take(size)
        if wait > 0:
            self._size = size
            self._timer.start(wait)
            self._on_pause()

    def stop(self) -> None:
        """Stop the timer: the connection has ended."""
        self._timer.stop()

    def _resume(self) -> None:
        self._on_resume(self._size)
