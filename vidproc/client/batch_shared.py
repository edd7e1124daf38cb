"""What the videos of a batch share: the server's slots, and when to begin no further video."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from vidproc.client.errors import ConnectFailed, LostForGood, Refused
from vidproc.client.explain import explain
from vidproc.client.link import RetryPolicy
from vidproc.client.next_steps import RunState
from vidproc.client.options import Options


class Slots:
    """At most `limit` videos hold one at a time: ``async with slots:``.

    `retry` says how long to wait if the server has none after all.
    """

    def __init__(self, clock: IReactorTime, limit: int, retry: RetryPolicy) -> None:
        self.taken = 0
        self._clock = clock
        self._retry = retry
        self._semaphore = DeferredSemaphore(limit)
        self._waiting: set[Deferred[None]] = set()

    async def __aenter__(self) -> None:
        await self._semaphore.acquire()
        self.taken += 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.taken -= 1
        self._semaphore.release()
        for waiting in list(self._waiting):
            if not waiting.called:
                waiting.callback(None)

    def pause(self, refused: int) -> float:
        """Return how long to wait after the `refused`-th refusal, in seconds."""
        return self._retry.pause(refused)

    async def wait(self, seconds: float) -> None:
        """Wait, but only until one of our own videos gives its slot back."""
        waiting: Deferred[None] = Deferred()
        self._waiting.add(waiting)
        call = self._clock.callLater(seconds, waiting.callback, None)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)
            if call.active():
                call.cancel()


class Halt:
    """Whether to begin no further video, and why. `on_halt` is called when that is decided."""

    def __init__(self, options: Options, log: logging.Logger, on_halt: Callable[[], None]) -> None:
        self.reason: list[str] = []
        """Lines for the user; empty if the batch continues."""
        self._options = options
        self._log = log
        self._on_halt = on_halt

    def consider(self, error: Exception) -> None:
        """Decide whether the videos that follow would fail with the same error."""
        lasting = isinstance(error, Refused) and error.code == 401
        if not lasting and not isinstance(error, ConnectFailed | LostForGood):
            return
        self._on_halt()
        if not self.reason:
            _, lines = explain(error, RunState(self._options, "", accepted=False), self._log)
            # Only the reason; how to continue is said at the end.
            self.reason = lines[: 2 if lasting else 1]
