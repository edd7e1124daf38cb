"""The states of an HTTP connection, and the reasons for which it is not read."""

from __future__ import annotations

from enum import Enum, auto

from vidproc.transport import IStreamTransport


class Life(Enum):
    """The state of a connection."""

    OPEN = auto()
    """It serves requests."""
    ENDING = auto()
    """Its last answer was written; what still arrives is read and discarded."""
    LOST = auto()
    """It is lost."""


class ReadingHolds:
    """Pauses a transport as long as there is a reason.

    It stands between the transport and twisted.web, which has its own reason: a client that sends
    further requests before it got its answers.
    """

    def __init__(self, transport: IStreamTransport) -> None:
        self._transport = transport
        self._reasons: set[str] = set()

    @property
    def held(self) -> bool:
        """Whether there is a reason."""
        return bool(self._reasons)

    def hold(self, reason: str, held: bool) -> None:
        """Set or clear a reason."""
        before = bool(self._reasons)
        (self._reasons.add if held else self._reasons.discard)(reason)
        self._adjust(before)

    def only(self, reason: str) -> None:
        """Clear all reasons but one."""
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
