"""Notices when the wall clock is set, so that tasks keep their times across a restart."""

from __future__ import annotations

from vidproc.clock import SteadyClock
from vidproc.files.threads import WorkerThreads
from vidproc.tasks.store.store import TaskStore
from vidproc.topics import Topic, TopicLogger

STEP = 2.0
"""The smallest change, in seconds, that counts as a step of the clock."""


class ClockWatch:
    """Compares the wall clock with the steady one.

    The dates in the store come from the steady clock. The next start reads the wall clock again,
    and shifts the dates by the offset noted here.
    """

    log = TopicLogger(Topic.SERVICE)

    def __init__(self, clock: SteadyClock, store: TaskStore, store_thread: WorkerThreads) -> None:
        self._clock = clock
        self._store = store
        self._store_thread = store_thread
        self._noted = 0.0

    async def check(self) -> None:
        """Note a step of the clock in the store. Raises `sqlite3.Error`."""
        offset = self._clock.offset
        if abs(offset - self._noted) < STEP:
            return
        await self._store_thread.call(self._store.recovery.note_clock_offset, offset)
        self.log.warn(
            "the clock was set by {step:+.0f} s; timeouts and retention count real time",
            step=offset - self._noted,
        )
        self._noted = offset
