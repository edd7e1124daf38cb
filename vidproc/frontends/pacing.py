"""One connection's share of the limit on uploads: who is ahead of it pauses."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from vidproc.frontends.throttle import IngestThrottle
from vidproc.frontends.timer import Timer


class Pacing:
    """Says when to stop reading a connection (`on_pause`), and when to go on.

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
        """The connection has ended."""
        self._timer.stop()

    def _resume(self) -> None:
        self._on_resume(self._size)
