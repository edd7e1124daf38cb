"""When to try again, how long to wait before, and when to give up.

A refusal with 429 or 503 is waited for as long as the server asks, and costs no try. After a broken
connection there is another try, up to a limit.
"""

from __future__ import annotations

import json
import random

from vidproc.api.effects import Broken, Call, Reply, Sleep
from vidproc.api.errors import Refused, Unreachable
from vidproc.api.models import OnProgress, Progress
from vidproc.api.settings import Settings, ignore_progress


class Persistence:
    """Decides within one call whether to try again, and waits before it."""

    def __init__(self, settings: Settings, on_progress: OnProgress = ignore_progress) -> None:
        self._settings = settings
        self._on_progress = on_progress
        self._failures = 0
        self._waits = 0
        self._deadline: float | None = None

    def advance(self) -> None:
        """Note progress: earlier failures no longer count."""
        self._failures = 0
        self._waits = 0

    def broke(self, problem: Broken) -> Call[None]:
        """Wait before another try. Raises `Unreachable` if there were too many."""
        self._failures += 1
        if self._failures > self._settings.tries:
            raise Unreachable(f"The server at {self._settings.url} did not answer: {problem}.")
        yield Sleep(min(30.0, 2.0 ** (self._failures - 1)) * _less())

    def refused(self, reply: Reply) -> Call[None]:
        """Wait if the refusal is temporary; otherwise raise `Refused`."""
        refusal = refusal_of(reply)
        if reply.status not in (429, 503):
            raise refusal
        now = self._settings.clock()
        if self._deadline is None:
            self._deadline = now + self._settings.slot_timeout
        self._waits += 1
        # What the server says is the maximum: a slot may be free much sooner.
        seconds = min(_retry_after(reply), 2.0 ** (self._waits - 1)) * _less()
        if now + seconds > self._deadline:
            raise refusal
        self._on_progress(Progress("waiting", 0.0, refusal.description))
        yield Sleep(seconds)


def refusal_of(reply: Reply) -> Refused:
    """Return the exception for an answer that is an error."""
    try:
        problem = json.loads(reply.body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or f"The server answered with {reply.status}."
    return Refused(str(detail), code=reply.status, solution=str(problem.get("solution") or ""))


def _retry_after(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 10.0


def _less() -> float:
    """Return 0.5 to 1 at random, so that clients do not all come back at once."""
    return 1 - random.SystemRandom().random() / 2
