"""How many attempts run at a time, and which task may start early or must run alone."""

from __future__ import annotations

from collections.abc import Callable

from vidproc.tasks.entries import Entries
from vidproc.tasks.model import Task
from vidproc.tasks.store.attempt_rows import SUSPECT_AFTER

LONG = 15.0
"""Seconds after which a running task counts as long."""
SUSPECT_PATIENCE = 600.0
"""Seconds for which a task that must run alone lets other tasks go first."""


class Places:
    """At most `concurrency` attempts run, and sometimes a short one, `beside`, in addition.

    `now` returns the time in seconds since the epoch.
    """

    def __init__(self, entries: Entries, concurrency: int, now: Callable[[], float]) -> None:
        self.concurrency = concurrency
        self.beside: str | None = None
        """The id of the task that runs, or will run, in addition."""
        self._entries = entries
        self._now = now

    @property
    def free(self) -> bool:
        """Whether another attempt may start."""
        attempts = self._entries.attempts()
        if any(is_suspect(attempt.task) for attempt in attempts):
            return False
        patience_ends = self._now() - SUSPECT_PATIENCE
        if attempts and any(
            is_suspect(entry.task) and (entry.task.not_before or 0) < patience_ends
            for entry in self._entries.waiting()
        ):
            return False
        beside = self.beside is not None and self._entries.runs(self.beside)
        return len(attempts) - beside < self.concurrency

    def held_up(self) -> Task | None:
        """Return a short task that waits behind long ones, or None if none may start early."""
        attempts = self._entries.attempts()
        if self.beside is not None or len(attempts) < self.concurrency:
            return None
        if any(is_suspect(attempt.task) for attempt in attempts):
            return None
        now = self._now()
        if any(now - attempt.started_at < LONG for attempt in attempts):
            return None
        waiting = self._entries.waiting()
        return next((e.task for e in waiting if e.short and not is_suspect(e.task)), None)

    def next_due(self, asked_at: float) -> float | None:
        """Return when the next task that was paused at `asked_at` may be retried; None for none.

        A pause that has ended since then counts, too: the store was asked before that.
        """
        ends = [entry.task.not_before or 0.0 for entry in self._entries.waiting()]
        return min((end for end in ends if end > asked_at), default=None)


def is_suspect(task: Task) -> bool:
    """Return whether the server crashed so often during this task that it must run alone."""
    return task.crashes >= SUSPECT_AFTER
