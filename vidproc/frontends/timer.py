"""A timer that can be started and stopped repeatedly."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Timer:
    """Calls `call` once after each start, unless it is stopped before."""

    def __init__(self, clock: IReactorTime, call: Callable[[], None]) -> None:
        self._clock = clock
        self._call = call
        self._delayed: IDelayedCall | None = None

    @property
    def running(self) -> bool:
        """Whether a call is pending."""
        return self._delayed is not None and self._delayed.active()

    def start(self, seconds: float) -> None:
        """Start it; does nothing if it is running."""
        if not self.running:
            self._delayed = self._clock.callLater(seconds, self._call)

    def restart(self, seconds: float) -> None:
        """Start it again from the beginning, even if it is running."""
        self.stop()
        self.start(seconds)

    def stop(self) -> None:
        """Stop it; does nothing if it is not running."""
        if self._delayed is not None and self._delayed.active():
            self._delayed.cancel()
