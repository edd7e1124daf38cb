"""How many bytes may wait for the disk, in all writers together."""

from __future__ import annotations

TOTAL = 32 << 20
"""Bytes that may wait in all writers, but for one read of each."""
LEAST_SHARE = 16 << 10
"""Bytes of one writer's share, however many there are."""


class WriteBudget:
    """What a server's writers share. Sizes in bytes."""

    def __init__(self, total: int = TOTAL) -> None:
        self._total = total
        self._writers = 0
        self._waiting = 0

    @property
    def share(self) -> int:
        """The part of the total that each writer may use."""
        return max(LEAST_SHARE, self._total // max(1, self._writers))

    @property
    def spent(self) -> bool:
        """Whether so much waits that no writer should take more."""
        return self._waiting >= self._total

    def join(self) -> None:
        """Count one more writer."""
        self._writers += 1

    def leave(self) -> None:
        """Count one writer fewer; nothing waits in it any more."""
        self._writers -= 1

    def add(self, size: int) -> None:
        """Note that so many more bytes wait, or fewer if it is negative."""
        self._waiting += size
