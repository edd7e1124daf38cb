"""A worker's disk: inputs that it fetched, kept while there is space, and folders for commands.

inputs/<number>           a fetched input; a part of one is a sparse file of its full size
commands/<number>/        the folder of a running command
"""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vidproc.cluster.digest import DIGEST_SIZE
from vidproc.cluster.messages import ShippedFile
from vidproc.cluster.object_store import NoSpace, ObjectStore, Stopped

_MARGIN = 256 << 20
"""Bytes of the disk that stay free."""


@dataclass(eq=False)
class _Kept:
    """An input on this disk. `blocks` are the numbers of those that are here, None for all."""

    path: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    size: int = 0
    whole: bool = False
    present: set[int] = field(default_factory=set)
    digests: bytes = b""


class Scratch:
    """The scratch folder at `root`, at most `limit` bytes. Its methods block, for threads."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._reserved = 0
        self._numbers = 0
        self.fetched = 0
        """Bytes fetched since the start."""

    def open(self) -> None:
        """Create the folders; what an earlier worker has left is removed."""
        for name in ("inputs", "commands"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(parents=True, mode=0o700)

    def close(self) -> None:
        """Remove everything."""
        for name in ("inputs", "commands"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def free(self) -> int:
        """Return the bytes that may be written; inputs that no one uses count as free."""
        with self._lock:
            used = sum(kept.size for kept in self._kept.values() if kept.users)
            idle = sum(kept.size for kept in self._kept.values() if not kept.users)
            return max(0, min(self._limit - used - self._reserved, self._on_disk() + idle))

    def _on_disk(self) -> int:
        return max(0, shutil.disk_usage(self.root).free - _MARGIN)

    @contextmanager
    def folder(self, size: int) -> Iterator[Path]:
        """Give a command a folder for as long as it runs, for outputs of about `size` bytes.

        Raises `NoSpace`.
        """
        with self._lock:
            self._numbers += 1
            path = self.root / "commands" / str(self._numbers)
        self._make_space(size)
        with self._lock:
            self._reserved += size
        try:
            try:
                path.mkdir(mode=0o700)
            except OSError as error:
                raise NoSpace(str(error)) from error
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            with self._lock:
                self._reserved -= size

    @contextmanager
    def input(
        self, store: ObjectStore, file: ShippedFile, stopped: Stopped
    ) -> Iterator[tuple[Path, int]]:
        """Fetch an input, or what is missing of it, and keep it for as long as it is in use.

        Yields its path and how many bytes were fetched now. Raises `NoSpace`, and what the
        `ObjectStore` raises.
        """
        with self._lock:
            kept = self._kept.get(file.key)
            if kept is None:
                self._numbers += 1
                kept = _Kept(self.root / "inputs" / str(self._numbers))
                self._kept[file.key] = kept
            self._kept.move_to_end(file.key)
            kept.users += 1
        try:
            with kept.lock:  # another command may be fetching it just now
                fetched = self._complete(store, file, kept, stopped)
            yield kept.path, fetched
        finally:
            with self._lock:
                kept.users -= 1

    def _complete(
        self, store: ObjectStore, file: ShippedFile, kept: _Kept, stopped: Stopped
    ) -> int:
        if kept.whole:
            return 0
        if file.ranges is None:
            before = kept.size
            self._make_space(file.digest.size)
            kept.size = file.digest.size
            # Into another file: a running command may be reading the part that is here.
            new = kept.path.with_suffix(".new")
            try:
                store.fetch(file.key, new, file.digest, stopped)
                new.replace(kept.path)
                kept.whole = True
            finally:
                if not kept.whole:
                    kept.size = before
                    new.unlink(missing_ok=True)
            self.fetched += file.digest.size
            return file.digest.size
        return self._fetch_parts(store, file, file.ranges, kept, stopped)

    def _fetch_parts(
        self,
        store: ObjectStore,
        file: ShippedFile,
        ranges: Sequence[tuple[int, int]],
        kept: _Kept,
        stopped: Stopped,
    ) -> int:
        fetched = 0
        if not kept.digests:
            kept.digests = store.fetch_blocks(file.blocks, kept.path, file.digest, stopped)
            fetched += len(kept.digests)
            with kept.path.open("wb") as sparse:
                sparse.truncate(file.digest.size)
        count = len(kept.digests) // DIGEST_SIZE
        for first, last in missing(ranges, file.digest.block, count, kept.present):
            size = min(last * file.digest.block, file.digest.size) - first * file.digest.block
            self._make_space(size)
            kept.size += size
            store.fetch_range(file.key, kept.path, file.digest, kept.digests, first, last, stopped)
            kept.present.update(range(first, last))
            fetched += size
        self.fetched += fetched
        return fetched

    def _make_space(self, size: int) -> None:
        """Evict inputs that no one uses until `size` more bytes fit; raises `NoSpace`."""
        with self._lock:
            while True:
                held = sum(kept.size for kept in self._kept.values()) + self._reserved
                if held + size <= self._limit and size <= self._on_disk():
                    return
                idle = next((key for key, kept in self._kept.items() if not kept.users), None)
                if idle is None:
                    raise NoSpace(
                        f"no space for {size >> 20} MiB in {self.root}: free some of the disk, or"
                        " give the worker another --scratch or a larger --scratch-limit"
                    )
                self._kept.pop(idle).path.unlink(missing_ok=True)


def missing(
    ranges: Sequence[tuple[int, int]], block: int, count: int, present: set[int]
) -> list[tuple[int, int]]:
    """Return the runs of blocks (first, after last) that `ranges` of bytes need and lack."""
    wanted = sorted(
        {
            number
            for start, end in ranges
            for number in range(start // block, min(count, -(-end // block)))
        }
        - present
    )
    runs: list[tuple[int, int]] = []
    for number in wanted:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
