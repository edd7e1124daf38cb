"""A timer that a connection starts and stops as it pleases."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Timer:
    """Calls `call` once, so many seconds after its start, unless it is stopped before."""

    def __init__(self, clock: IReactorTime, call: Callable[[], None]) -> None:
        self._clock = clock
        self._call = call
        self._delayed: IDelayedCall | None = None

    @property
    def running(self) -> bool:
        """Whether the call is still to come."""
        return self._delayed is not None and self._delayed.active()

    def start(self, seconds: float) -> None:
        """Start it; if it runs, it goes on as it is."""
        if not self.running:
            self._delayed = self._clock.callLater(seconds, self._call)

    def restart(self, seconds: float) -> None:
        """Start it, from now on if it runs."""
        self.stop()
        self.start(seconds)

    def stop(self) -> None:
        """Stop it if it runs."""
        if self._delayed is not None and self._delayed.active():
            self._delayed.cancel()
