"""Disk usage of the data folder, and reservations.

Permanent files (inputs, results, orphans) are counted when they are stored and removed; growing
files (uploads and attempts in progress) are measured. From time to time a walk over all files
corrects the count, without losing changes that happen meanwhile.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vidproc.errors import ErrorCode, ServiceError
from vidproc.units import format_size

FREE_SPACE_RESERVE = 64 << 20
"""Bytes of the file system that are never reserved."""

BATCH = 100
"""Files that `verify` counts before it pauses."""
PAUSE = 0.002
"""The length of that pause, in seconds."""

_GROWING = ("uploads", "work")
_SHARE = 2  # one address gets at most the free space divided by this


class Space:
    """Disk usage below `root`, limited to `limit` bytes, and reservations."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit
        self._held = 0
        self._parked = 0
        self._under_way = 0
        self._changed = 0
        self._reserved: dict[str, tuple[str, int]] = {}

    # --- counting ------------------------------------------------------------------------------

    def measure(self) -> int:
        """Count everything in the folder without pauses; return the bytes. For startup."""
        self._measure(lambda: None)
        return self.used

    def verify(self) -> None:
        """Count everything in the folder, with pauses for others. For a thread."""
        self._measure(lambda: time.sleep(PAUSE))

    def _measure(self, pause: Callable[[], None]) -> None:
        changed = self._changed
        held = 0
        for path in self.root.iterdir():
            if path.name not in _GROWING:
                for number, size in enumerate(walk_sizes(path)):
                    held += size
                    if number % BATCH == BATCH - 1:
                        pause()
        # Changes during the walk may or may not be included: only a larger difference is real.
        if abs(held - self._held) > self._changed - changed:
            self._held = held
        self.measure_growing()

    def measure_growing(self) -> None:
        """Measure uploads and attempts. For a thread.

        Those in progress are counted separately, because their bytes are reserved.
        """
        parked = under_way = 0
        changed = self._changed
        reserved = set(self._reserved)
        for folder in _GROWING:
            for path in _entries(self.root / folder):
                if path.name in reserved:
                    under_way += size_below(path)
                else:
                    parked += size_below(path)
        # An upload that was interrupted meanwhile may have been counted as in progress.
        self._parked = parked if self._changed == changed else max(self._parked, parked)
        self._under_way = under_way

    @property
    def used(self) -> int:
        """Bytes used, not including uploads and attempts in progress."""
        return self._held + self._parked

    @property
    def reserved(self) -> int:
        """Bytes reserved for uploads and tasks in progress."""
        return sum(size for _, size in self._reserved.values())

    def free(self) -> int:
        """Return the bytes that can still be reserved; asks the file system, which is quick."""
        on_disk = shutil.disk_usage(self.root).free - FREE_SPACE_RESERVE
        reserved = self.reserved
        landed = min(self._under_way, reserved)  # already included in the file system's usage
        return min(self.limit - self.used - reserved, on_disk - (reserved - landed))

    def capacity(self) -> int:
        """Return the bytes that the folder could use if it were empty."""
        on_disk = shutil.disk_usage(self.root).free - FREE_SPACE_RESERVE
        return max(0, min(self.limit, on_disk + self.used + self._under_way))

    # --- reservations --------------------------------------------------------------------------

    def reserve(self, task_id: str, size: int, peer: str) -> None:
        """Reserve `size` bytes for a task of the address `peer`, replacing its earlier reservation.

        An address gets at most half of the space that is free without it, so that a few addresses
        cannot take everything. Raises `ServiceError` 507 if there is not enough space.
        """
        if self.lacking(task_id, size, peer) > 0:
            raise no_space(size)
        self._reserved[task_id] = (peer, size)

    def lacking(self, task_id: str, size: int, peer: str) -> int:
        """Return how many bytes must be freed for `reserve` to succeed; 0 if it would now."""
        others, own = self._of(peer, task_id)
        return max(0, (size + others) * _SHARE - (self.free() + others + own))

    def affordable(self, task_id: str, peer: str) -> int:
        """Return the most bytes that `reserve` would grant a task now."""
        others, own = self._of(peer, task_id)
        return max(0, (self.free() + others + own) // _SHARE - others)

    def _of(self, peer: str, task_id: str) -> tuple[int, int]:
        """Return the reservations of the address' other tasks, and of this task."""
        others = sum(
            size
            for other, (owner, size) in self._reserved.items()
            if owner == peer and other != task_id
        )
        return others, self.reserved_for(task_id)

    def reserve_output(self, task_id: str, size: int, peer: str) -> bool:
        """Reserve `size` bytes for the output of an accepted task; return whether they were free.

        The task may take everything: nothing is kept for others.
        """
        if size > self.free() + self.reserved_for(task_id):
            return False
        self._reserved[task_id] = (peer, size)
        return True

    def reserved_for(self, task_id: str) -> int:
        """Return the bytes reserved for a task."""
        return self._reserved.get(task_id, ("", 0))[1]

    def restore(self, task_id: str, size: int, peer: str) -> None:
        """Restore a task's reservation after a restart, even if it no longer fits."""
        self._reserved[task_id] = (peer, size)

    def release(self, task_id: str) -> None:
        """Release a task's reservation."""
        self._reserved.pop(task_id, None)

    # --- changes -------------------------------------------------------------------------------

    def stored(self, task_id: str, size: int) -> None:
        """Record that `size` of the bytes reserved for a task have been stored."""
        self._held += size
        self._changed += size
        self._under_way = max(0, self._under_way - size)
        if task_id in self._reserved:
            peer, reserved = self._reserved[task_id]
            self._reserved[task_id] = (peer, max(0, reserved - size))

    def parked(self, size: int) -> None:
        """Record that an interrupted upload of `size` bytes is kept."""
        self._parked += size
        self._changed += size
        self._under_way = max(0, self._under_way - size)

    def removed(self, size: int) -> None:
        """Record that `size` bytes have been removed."""
        self._held = max(0, self._held - size)
        self._changed += size


def no_space(size: int) -> ServiceError:
    """Return the error for a client that needs `size` bytes that are not free."""
    return ServiceError(
        ErrorCode.NO_SPACE,
        f"The server does not have {format_size(size)} of free space now.",
        "Try again later, send a smaller file, or ask the server's operator for more space.",
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def size_below(path: Path) -> int:
    """Return the size of a file, or of all files below a folder; 0 if it was just removed."""
    return sum(walk_sizes(path))


def walk_sizes(path: Path | str) -> Iterator[int]:
    """Yield the size of a file, or of each file below a folder; skips files just removed."""
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            yield status.st_size
            return
        with os.scandir(path) as entries:
            for entry in entries:
                yield from walk_sizes(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return  # removed, or replaced, between two of these calls
