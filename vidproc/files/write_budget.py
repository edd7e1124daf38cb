"""A limit on the bytes of all writers together that wait for the disk."""

from __future__ import annotations

TOTAL = 32 << 20
"""Bytes that may wait in all writers together, in addition to one read each."""
LEAST_SHARE = 16 << 10
"""The least bytes for each writer, however many there are."""


class WriteBudget:
    """The budget that a server's writers share. Sizes in bytes."""

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
        """Whether so many bytes are waiting that no writer should accept more."""
        return self._waiting >= self._total

    def join(self) -> None:
        """Add a writer."""
        self._writers += 1

    def leave(self) -> None:
        """Remove a writer; none of its bytes are waiting."""
        self._writers -= 1

    def add(self, size: int) -> None:
        """Record that `size` more bytes are waiting (fewer if negative)."""
        self._waiting += size
