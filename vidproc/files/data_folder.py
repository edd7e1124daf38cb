"""The data folder: keys, durable moves, and how much it holds.

A key is a path relative to the data folder, such as ``results/<task id>.mp4``; nothing above this
module sees an absolute path of a stored file. All methods but those marked otherwise touch the
disk and are meant for a thread.

    inputs/<task id>            what a client sent, whole
    uploads/<task id>           what has arrived of an upload so far
    work/<task id>/<attempt>/   where one attempt works
    results/<task id>.<kind>    what can be downloaded
    orphans/<folder>-<name>     what no row of the store knew at a start
    tasks.sqlite, lock, and the marker (`vidproc.files.ownership`)
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from vidproc.errors import ErrorCode, ServiceError
from vidproc.files import ownership
from vidproc.files.ownership import FOLDERS, ORPHANS
from vidproc.units import format_size

FREE_SPACE_RESERVE = 64 << 20
"""Bytes of the file system that are never promised to anybody."""

_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV, errno.ENOSYS, errno.ENOTSUP)

_SHARE = 2  # one address gets at most the free room divided by this


class DataFolderInUse(Exception):
    """Another server works on this data folder."""


def upload_key(task_id: str) -> str:
    """Return the key of what has arrived of a task's input so far."""
    return f"uploads/{task_id}"


def input_key(task_id: str) -> str:
    """Return the key of a task's whole input."""
    return f"inputs/{task_id}"


def work_key(task_id: str) -> str:
    """Return the key of the folder of a task's attempts."""
    return f"work/{task_id}"


def attempt_key(task_id: str, attempt: int) -> str:
    """Return the key of the folder in which an attempt works."""
    return f"{work_key(task_id)}/{attempt}"


def result_key(task_id: str, media_type: str) -> str:
    """Return the key of a task's result."""
    return f"results/{task_id}.{media_type}"


class DataFolder:
    """The data folder at `root`, which never holds more than `limit` bytes of media."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit
        self._lock: int | None = None
        self._used = 0
        self._under_way = 0
        self._reserved: dict[str, tuple[str, int]] = {}

    def open(self) -> None:
        """Make the folders and take the lock.

        Raises `DataFolderInUse`, `NotADataFolder` or `OSError`.
        """
        ownership.check(self.root)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = None
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise DataFolderInUse(
                f"another vidproc works on {self.root}; stop it or choose another --data-dir"
            ) from None
        for name in (*FOLDERS, ORPHANS):
            (self.root / name).mkdir(exist_ok=True, mode=0o700)
        ownership.mark(self.root)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, key: str) -> Path:
        """Return the path of a key, which our own code made. Does not touch the disk."""
        return self.root / key

    def size(self, key: str) -> int:
        """Return the bytes of a file, 0 when there is none."""
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            return 0

    def make_folder(self, key: str) -> None:
        """Make a folder and those above it."""
        self.path(key).mkdir(parents=True, exist_ok=True, mode=0o700)

    def publish(self, source: str, target: str) -> None:
        """Move a file to its final key so that a crash leaves the whole file or none.

        fsync of the file, rename, fsync of the folder, in this order.
        """
        fd = os.open(self.path(source), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self.path(source).replace(self.path(target))
        self._sync_folder(self.path(target).parent)

    def duplicate(self, source: str, target: str) -> None:
        """Make `target` a second name for the file `source`, or a copy where links can't be had.

        Neither file may be written to afterwards.
        """
        try:
            os.link(self.path(source), self.path(target))
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(self.path(source), self.path(target))

    def take_back(self, source: str, target: str) -> None:
        """Undo a `publish`; what was not published is left as it is."""
        if self.path(source).exists():
            self.path(source).replace(self.path(target))

    @staticmethod
    def _sync_folder(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, *keys: str | None) -> None:
        """Remove files and whole folders; what is not there is fine, and so is None."""
        for key in keys:
            if key is None:
                continue
            path = self.path(key)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def sort_out(self, known: set[str], task_ids: set[str]) -> tuple[list[str], list[str]]:
        """Clear away the files whose keys are not in `known`; for the start only.

        What a known task has left (`task_ids`), and all of ``work``, is removed. The rest belongs
        to tasks of which the store knows nothing, because it was lost perhaps: that is moved to
        ``orphans``. Returns the keys of what was removed and of what was moved.
        """
        removed, moved = [], []
        for folder in FOLDERS:
            for path in sorted((self.root / folder).iterdir()):
                key = f"{folder}/{path.name}"
                if key in known:
                    continue
                if folder == "work" or path.name.partition(".")[0] in task_ids:
                    self.remove(key)
                    removed.append(key)
                else:
                    path.replace(self.root / ORPHANS / f"{folder}-{path.name}")
                    moved.append(key)
        if moved:
            self._sync_folder(self.root / ORPHANS)
        return removed, moved

    def orphans(self) -> list[tuple[str, int]]:
        """Return key and bytes of each orphan, the oldest first."""
        found = []
        for path in (self.root / ORPHANS).iterdir():
            status = path.stat()
            found.append((status.st_mtime, f"{ORPHANS}/{path.name}", status.st_size))
        return [(key, size) for _, key, size in sorted(found)]

    # --- how much it holds -------------------------------------------------------------------

    def measure(self) -> int:
        """Count the bytes that the folder holds, remember and return them.

        What uploads and attempts under way have written counts apart: it was promised to them.
        """
        total = under_way = 0
        promised = set(self._reserved)
        for folder, _, files in os.walk(self.root):
            for name in files:
                path = Path(folder) / name
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    continue  # it was removed between the listing and the look
                kind, *rest = path.relative_to(self.root).parts
                if kind in ("uploads", "work") and rest and rest[0] in promised:
                    under_way += size
                else:
                    total += size
        self._used, self._under_way = total, under_way
        return total

    @property
    def used(self) -> int:
        """Bytes held, without those of uploads and attempts under way, when last measured."""
        return self._used

    @property
    def reserved(self) -> int:
        """Bytes promised to uploads and tasks under way. Does not touch the disk."""
        return sum(size for _, size in self._reserved.values())

    def free(self) -> int:
        """Return the bytes that may still be promised to somebody."""
        on_disk = shutil.disk_usage(self.root).free - FREE_SPACE_RESERVE
        promised = self.reserved
        landed = min(self._under_way, promised)  # the file system has taken these off already
        return min(self.limit - self._used - promised, on_disk - (promised - landed))

    def reserve(self, task_id: str, size: int, peer: str) -> None:
        """Promise `size` bytes to a task of the address `peer`, in place of what it had.

        An address gets at most half of what is free without it, so that a few of them can't hold
        everything. Raises `ServiceError` 507 when the bytes can't be had. A quick look at the file
        system; may be called in the reactor thread.
        """
        others = sum(
            held
            for other, (owner, held) in self._reserved.items()
            if owner == peer and other != task_id
        )
        free = self.free() + others + self._reserved.get(task_id, ("", 0))[1]
        if size + others > free // _SHARE:
            raise ServiceError(
                ErrorCode.NO_SPACE,
                f"The server has no room for {format_size(size)} now.",
                "Try again later, send a smaller file, or ask the server's operator for room.",
            )
        self._reserved[task_id] = (peer, size)

    def restore(self, task_id: str, size: int, peer: str) -> None:
        """Promise again what a task had before a restart, without asking whether it fits."""
        self._reserved[task_id] = (peer, size)

    @staticmethod
    def room_for(size: int) -> int:
        """Return the bytes that must be free for `reserve` to promise `size`."""
        return size * _SHARE

    def release(self, task_id: str) -> None:
        """Take back what was promised to a task. Does not touch the disk."""
        self._reserved.pop(task_id, None)

    def stored(self, task_id: str, size: int) -> None:
        """Note that `size` of the bytes promised to a task are held now."""
        self._used += size
        self._under_way = max(0, self._under_way - size)
        if task_id in self._reserved:
            peer, promised = self._reserved[task_id]
            self._reserved[task_id] = (peer, max(0, promised - size))

    def removed(self, size: int) -> None:
        """Note that `size` bytes are held no more. Does not touch the disk."""
        self._used = max(0, self._used - size)
