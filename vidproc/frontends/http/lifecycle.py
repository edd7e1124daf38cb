"""How far a connection has come, and why it is not read just now."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any


class Life(Enum):
    """How far a connection has come."""

    OPEN = auto()
    """It serves requests."""
    ENDING = auto()
    """Its last answer was written; what still comes in is read and thrown away."""
    LOST = auto()
    """It is gone."""


class ReadingHolds:
    """Pauses a transport while there is a reason for it.

    It stands between the transport and twisted.web, which pauses for a reason of its own: a client
    that sends ahead of its answers.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._reasons: set[str] = set()

    @property
    def held(self) -> bool:
        """Whether there is a reason."""
        return bool(self._reasons)

    def hold(self, reason: str, held: bool) -> None:
        """Pause for one more reason, or for one fewer."""
        before = bool(self._reasons)
        (self._reasons.add if held else self._reasons.discard)(reason)
        self._adjust(before)

    def only(self, reason: str) -> None:
        """Drop all reasons but one, and take no new one."""
        before = bool(self._reasons)
        self._reasons &= {reason}
        self._adjust(before)

    def _adjust(self, before: bool) -> None:
        if before != bool(self._reasons):
            if before:
                self._transport.resumeProducing()
            else:
                self._transport.pauseProducing()

    # For twisted.web:

    def pauseProducing(self) -> None:
        self.hold("ahead", True)

    def resumeProducing(self) -> None:
        self.hold("ahead", False)

    def unregisterProducer(self) -> None:
        self._transport.unregisterProducer()
