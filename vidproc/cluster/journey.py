"""Where a command's time goes on its way to a worker and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vidproc.cluster.messages import Outcome


@dataclass(slots=True)
class Journey:
    """The moments of a command's last try, in seconds of the clock `now`."""

    now: Callable[[], float]
    began: float = 0.0
    shipped: float = 0.0
    placed: float = 0.0
    answered: float = 0.0
    back: float = field(default=0.0)

    def begin(self) -> None:
        """Note the start of a try."""
        self.began = self.shipped = self.placed = self.answered = self.back = self.now()

    def note(self, moment: str) -> None:
        """Note that a moment has come: `shipped` (its inputs are in the store), `placed` (a worker
        has cores for it), `answered` (the worker is done), `back` (its outputs are here)."""
        setattr(self, moment, self.now())

    def spent(self, outcome: Outcome) -> dict[str, float]:
        """Return the seconds that each part of the way took, in order. They add up to all of it:
        `messages` is what the scheduler and both event loops take."""
        away = self.answered - self.placed
        worked = outcome.fetching + outcome.elapsed + outcome.storing
        return {
            "sending": self.shipped - self.began,
            "waiting": self.placed - self.shipped,
            "fetching": outcome.fetching,
            "running": outcome.elapsed,
            "storing": outcome.storing,
            "messages": max(0.0, away - worked),
            "returning": self.back - self.answered,
        }
