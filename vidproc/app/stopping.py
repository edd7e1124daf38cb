"""Limits how long a shutdown takes, whatever hangs.

Whatever was accepted is on the disk, so ending at any moment loses nothing, and there is no point
in waiting for a store or a disk that does not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from vidproc.files.threads import when_fired
from vidproc.topics import Topic, TopicLogger

MARGIN = 2.0
"""Seconds after the grace period for which a shutdown waits for its parts."""
DEADLINE = 4.5
"""Seconds after the grace period until the process ends, whatever its state."""
HURRIED_MARGIN = 0.2
"""Seconds for which a shutdown waits after a second signal."""
HURRIED_DEADLINE = 0.8
"""Seconds after a second signal until the process ends, whatever its state."""
THREADS_MARGIN = 1.5
"""Seconds within which threads must end."""
HURRIED_THREADS_MARGIN = 0.3


class Patience:
    """Waits for several things, for `seconds` in all."""

    log = TopicLogger(Topic.SERVICE)

    def __init__(self, reactor: IReactorTime, seconds: float) -> None:
        self._waiting: Deferred[None] | None = None
        self._over = False
        self.hurried = False
        self._timer = reactor.callLater(seconds, self._end)

    def shorten(self, seconds: float) -> None:
        """Wait no longer than `seconds` from now."""
        self.hurried = True
        if self._timer.active():
            self._timer.reset(seconds)

    def cancel(self) -> None:
        """Stop the timer: there is nothing more to wait for."""
        if self._timer.active():
            self._timer.cancel()

    def _end(self) -> None:
        self._over = True
        if self._waiting is not None:
            self._waiting.callback(None)

    async def wait_for(self, what: str, work: Deferred[Any]) -> bool:
        """Wait for `work`; return whether it has ended. If it fails, that is logged."""
        work.addErrback(lambda failure: self.log.failure(f"{what}: a fault in the stop", failure))
        ended = when_fired(work)
        if not ended.called and not self._over:
            waiting: Deferred[None] = Deferred()
            self._waiting = waiting
            ended.addCallback(lambda _: None if waiting.called else waiting.callback(None))
            await waiting
            self._waiting = None
        if not ended.called:
            self.log.warn("{what} did not end in time; the next start sees to it", what=what)
        return bool(ended.called)


class Deadline:
    """Calls `give_up` in a thread when the time is over.

    Needs no reactor, and uses the monotonic clock.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self._give_up = give_up
        self._timer: threading.Timer | None = None

    def set(self, seconds: float) -> None:
        """Give up in `seconds`; this replaces an earlier time."""
        self.cancel()
        self._timer = threading.Timer(seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Do not give up."""
        if self._timer is not None:
            self._timer.cancel()
