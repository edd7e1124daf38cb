"""How much the data folder holds, and what of it is reserved for whom.

What is held for good (inputs, results, orphans) is counted as it comes and goes; what grows
(uploads and attempts under way) is measured. A walk over everything puts the count right at times:
what was noted meanwhile is never lost by it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vidproc.errors import ErrorCode, ServiceError
from vidproc.units import format_size

FREE_SPACE_RESERVE = 64 << 20
"""Bytes of the file system that are never reserved for anybody."""

BATCH = 100
"""Files that `verify` counts before others have their turn."""
PAUSE = 0.002
"""Seconds of that."""

_GROWING = ("uploads", "work")
_SHARE = 2  # one address gets at most the free space divided by this


class Space:
    """The bytes below `root`, at most `limit` of them, and the reservations."""

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
        """Count everything that the folder holds, at once; return the bytes. For a start."""
        self._measure(lambda: None)
        return self.used

    def verify(self) -> None:
        """Count everything that the folder holds, and let others have their turn. For a thread."""
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
        # What changed during the walk may be counted or not: only a greater difference is real.
        if abs(held - self._held) > self._changed - changed:
            self._held = held
        self.measure_growing()

    def measure_growing(self) -> None:
        """Count what uploads and attempts have written. For a thread.

        Those under way count apart: their bytes were reserved.
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
        # An upload that broke off meanwhile may have been taken for one under way.
        self._parked = parked if self._changed == changed else max(self._parked, parked)
        self._under_way = under_way

    @property
    def used(self) -> int:
        """Bytes held, without those of uploads and attempts under way."""
        return self._held + self._parked

    @property
    def reserved(self) -> int:
        """Bytes reserved for uploads and tasks under way."""
        return sum(size for _, size in self._reserved.values())

    def free(self) -> int:
        """Return the bytes that may still be reserved. A quick look at the file system."""
        on_disk = shutil.disk_usage(self.root).free - FREE_SPACE_RESERVE
        reserved = self.reserved
        landed = min(self._under_way, reserved)  # the file system has taken these off already
        return min(self.limit - self.used - reserved, on_disk - (reserved - landed))

    def capacity(self) -> int:
        """Return the bytes that the folder could hold if nothing else were in it."""
        on_disk = shutil.disk_usage(self.root).free - FREE_SPACE_RESERVE
        return max(0, min(self.limit, on_disk + self.used + self._under_way))

    # --- reservations --------------------------------------------------------------------------

    def reserve(self, task_id: str, size: int, peer: str) -> None:
        """Reserve `size` bytes for a task of the address `peer`, in place of what it had.

        An address gets at most half of what is free without it, so that a few of them can't hold
        everything. Raises `ServiceError` 507 when the bytes can't be had.
        """
        if self.lacking(task_id, size, peer) > 0:
            raise no_space(size)
        self._reserved[task_id] = (peer, size)

    def lacking(self, task_id: str, size: int, peer: str) -> int:
        """Return the bytes that must become free for `reserve` to succeed; 0 when it would."""
        others, own = self._of(peer, task_id)
        return max(0, (size + others) * _SHARE - (self.free() + others + own))

    def affordable(self, task_id: str, peer: str) -> int:
        """Return the most bytes that `reserve` would give a task now."""
        others, own = self._of(peer, task_id)
        return max(0, (self.free() + others + own) // _SHARE - others)

    def _of(self, peer: str, task_id: str) -> tuple[int, int]:
        """Return what is reserved for an address' other tasks, and for this one."""
        others = sum(
            size
            for other, (owner, size) in self._reserved.items()
            if owner == peer and other != task_id
        )
        return others, self.reserved_for(task_id)

    def reserve_output(self, task_id: str, size: int, peer: str) -> bool:
        """Reserve `size` bytes for what an accepted task makes; return whether they could be had.

        It has its turn: no share is kept for others.
        """
        if size > self.free() + self.reserved_for(task_id):
            return False
        self._reserved[task_id] = (peer, size)
        return True

    def reserved_for(self, task_id: str) -> int:
        """Return the bytes that are reserved for a task."""
        return self._reserved.get(task_id, ("", 0))[1]

    def restore(self, task_id: str, size: int, peer: str) -> None:
        """Restore a task's reservation after a restart, even if it no longer fits."""
        self._reserved[task_id] = (peer, size)

    def release(self, task_id: str) -> None:
        """Take a task's reservation back."""
        self._reserved.pop(task_id, None)

    # --- what comes and goes -------------------------------------------------------------------

    def stored(self, task_id: str, size: int) -> None:
        """Note that `size` of the bytes reserved for a task are held now."""
        self._held += size
        self._changed += size
        self._under_way = max(0, self._under_way - size)
        if task_id in self._reserved:
            peer, reserved = self._reserved[task_id]
            self._reserved[task_id] = (peer, max(0, reserved - size))

    def parked(self, size: int) -> None:
        """Note that an upload broke off with `size` bytes, which stay."""
        self._parked += size
        self._changed += size
        self._under_way = max(0, self._under_way - size)

    def removed(self, size: int) -> None:
        """Note that `size` bytes are held no more."""
        self._held = max(0, self._held - size)
        self._changed += size


def no_space(size: int) -> ServiceError:
    """Return what to tell a client that wants `size` bytes which can't be had."""
    return ServiceError(
        ErrorCode.NO_SPACE,
        f"The server has no room for {format_size(size)} now.",
        "Try again later, send a smaller file, or ask the server's operator for room.",
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def size_below(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 for what has just gone."""
    return sum(walk_sizes(path))


def walk_sizes(path: Path | str) -> Iterator[int]:
    """Yield the bytes of a file, or of each file below a folder, but for what has just gone."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from walk_sizes(entry.path)
                    continue
                try:
                    yield entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
    except NotADirectoryError:
        yield Path(path).stat().st_size
    except FileNotFoundError:
        return
