"""Starts commands when there is enough memory for all of them together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

_PART = 0.75
"""The fraction of the machine's memory that commands may use together."""
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container finds its memory limit."""


def memory_budget(limits: tuple[Path, ...] = _LIMITS) -> int:
    """Return the bytes that commands may use together on this machine or in this container."""
    usable = psutil.virtual_memory().total
    for limit in limits:
        try:
            usable = min(usable, int(limit.read_text()))
        except (OSError, ValueError):
            pass  # not a container, or one without a limit ("max")
    return int(usable * _PART)


@dataclass(eq=False, slots=True)
class Place:
    """A command's request for `memory` bytes; `begin` is called once it is granted."""

    memory: int
    begin: Callable[[], None]


class Admission:
    """Distributes `budget` bytes of memory, first come, first served.

    A command that needs more than everything runs alone. Waiting commands hold nothing, so none
    waits forever.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._waiting: deque[Place] = deque()
        self._inside: set[Place] = set()

    @property
    def memory(self) -> int:
        """Bytes that are in use."""
        return sum(place.memory for place in self._inside)

    @property
    def waiting(self) -> int:
        """How many requests are waiting."""
        return len(self._waiting)

    def enter(self, place: Place) -> None:
        """Call `place.begin`, now or later."""
        self._waiting.append(place)
        self._admit()

    def leave(self, place: Place) -> None:
        """Release a place's memory; a waiting place will not begin."""
        if place in self._inside:
            self._inside.remove(place)
        elif place in self._waiting:
            self._waiting.remove(place)
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            place = self._waiting[0]
            if self._inside and self.memory + place.memory > self._budget:
                return
            self._waiting.popleft()
            self._inside.add(place)
            place.begin()
