"""The limit on refused connections that are still open.

A refused connection stays open for some seconds, so that its client can read why. In a flood, such
connections would use up the descriptors that accepted work needs; so only a few are answered at a
time, and the others are closed at once.
"""

from __future__ import annotations

from collections import Counter

MOST = 64
"""Refused connections that may stay open at a time."""
MOST_OF_PEER = 8
"""Of these, those of one client, so that its flood does not keep others from an answer."""


class TurnedAway(Exception):
    """The connection must be closed at once, without an answer."""


class Refusals:
    """The refused connections that are still open."""

    def __init__(self, most: int = MOST, most_of_peer: int = MOST_OF_PEER) -> None:
        self._most = most
        self._most_of_peer = most_of_peer
        self._per_peer: Counter[str | None] = Counter()
        self._lingering = 0

    @property
    def exhausted(self) -> bool:
        """Whether no further refused connection gets an answer."""
        return self._lingering >= self._most

    def enter(self, peer: str | None) -> None:
        """Count a refused connection; raises `TurnedAway` beyond the limit.

        `peer` is None if it is not known yet.
        """
        if self.exhausted or (peer is not None and self._per_peer[peer] >= self._most_of_peer):
            raise TurnedAway
        self._lingering += 1
        self._per_peer[peer] += 1

    def leave(self, peer: str | None) -> None:
        """Forget a connection that `enter` counted."""
        self._lingering -= 1
        self._per_peer[peer] -= 1
        if self._per_peer[peer] <= 0:
            del self._per_peer[peer]
