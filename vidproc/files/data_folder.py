"""The data folder: keys and durable moves.

A key is a path relative to the data folder, such as ``results/<task id>.mp4``; nothing above this
module sees an absolute path of a stored file. All methods but those marked otherwise touch the
disk and are meant for a thread.

    inputs/<task id>            what a client sent, whole
    uploads/<task id>           what has arrived of an upload so far
    work/<task id>/<attempt>/   where one attempt works
    results/<task id>.<kind>    what can be downloaded
    orphans/<folder>-<name>     what no row of the store knew at a start
    tasks.sqlite, lock, link.key (`vidproc.files.keys`), and the marker (`vidproc.files.ownership`)
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from vidproc.files import ownership
from vidproc.files.ownership import FOLDERS, ORPHANS
from vidproc.files.space import Space, size_below

_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV, errno.ENOSYS, errno.ENOTSUP)


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
        self.space = Space(root, limit)
        self._lock: int | None = None

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
        # First of all, so that a crash leaves nothing that the next start would not recognise.
        ownership.mark(self.root)
        for name in (*FOLDERS, ORPHANS):
            (self.root / name).mkdir(exist_ok=True, mode=0o700)

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

    def size_below(self, key: str) -> int:
        """Return the bytes of a file, or of all files below a folder."""
        return size_below(self.path(key))

    def sync(self, key: str) -> int:
        """Have the disk keep a file as it is; return its bytes, 0 when there is none."""
        try:
            fd = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            os.fsync(fd)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        self._sync_folder(self.path(key).parent)
        return size

    def cut(self, key: str, size: int) -> int:
        """Cut a file off after `size` bytes; return how many it has lost."""
        lost = self.size(key) - size
        if lost <= 0:
            return 0
        os.truncate(self.path(key), size)
        return lost

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
                    path.replace(self._free_name(f"{folder}-{path.name}"))
                    moved.append(key)
        if moved:
            self._sync_folder(self.root / ORPHANS)
        return removed, moved

    def _free_name(self, name: str) -> Path:
        """Return a path in ``orphans`` that is not taken: one lost film must not cost another."""
        path = self.root / ORPHANS / name
        number = 1
        while os.path.lexists(path):
            number += 1
            path = self.root / ORPHANS / f"{name}.{number}"
        return path

    def orphans(self) -> list[tuple[str, int]]:
        """Return key and bytes of each orphan, the oldest first."""
        found = []
        for path in (self.root / ORPHANS).iterdir():
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # evicted meanwhile
            found.append((status.st_mtime, f"{ORPHANS}/{path.name}", status.st_size))
        return [(key, size) for _, key, size in sorted(found)]
