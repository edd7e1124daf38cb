"""Limits the number of log lines of one kind."""

from __future__ import annotations

from twisted.logger import LogEvent, LogLevel

PERIOD = 60.0
"""Seconds for which a budget lasts."""


class LineBudget:
    """Lets `lines` events a minute pass, by the events' own times; warnings always pass.

    The last one that passes says that others are omitted.
    """

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._began = float("-inf")
        self._passed = 0

    def take(self, event: LogEvent) -> LogEvent | None:
        """Return `event` as it should be written, None if there were too many."""
        level = event.get("log_level")
        if level is not None and level >= LogLevel.warn:
            return event
        at = float(event.get("log_time", 0.0))
        # If the clock was set back, that starts a new period as well.
        if not 0 <= at - self._began < PERIOD:
            self._began, self._passed = at, 0
        self._passed += 1
        if self._passed == self._lines:
            # Other observers get the same event, so it must not be changed.
            text = f"{event.get('log_format') or ''} (more such lines are left out)"
            return {**event, "log_format": text}
        return event if self._passed < self._lines else None
