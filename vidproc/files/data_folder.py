"""The data folder: keys and durable renames.

A key is a path relative to the data folder, such as ``results/<task id>.mp4``; code above this
module never sees the absolute path of a stored file. Unless stated otherwise, methods access the
disk and should run in a thread.

    inputs/<task id>            complete inputs
    uploads/<task id>           incomplete uploads
    work/<task id>/<attempt>/   the working folder of an attempt
    results/<task id>.<kind>    results for download
    orphans/<folder>-<name>     files that the store did not know at a start
    tasks.sqlite, lock, link.key and server.key (`vidproc.files.keys`), and the marker
    (`vidproc.files.ownership`)
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


_REMOVALS = 20
"""How many times the removal of a folder is tried that changes meanwhile."""


class DataFolderInUse(Exception):
    """Another server is using this data folder."""


def _remove_folder(path: Path) -> None:
    """Remove a folder and everything in it.

    A transfer from a worker that was told to stop may still remove or add a file: `rmtree` gives
    up then (before Python 3.13 for a file that is gone, too), and is called again.
    """
    for tries_left in range(_REMOVALS - 1, -1, -1):
        try:
            shutil.rmtree(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or not tries_left:
                raise
            if not path.exists():
                return
        else:
            return


def upload_key(task_id: str) -> str:
    """Return the key of a task's incomplete upload."""
    return f"uploads/{task_id}"


def input_key(task_id: str) -> str:
    """Return the key of a task's input."""
    return f"inputs/{task_id}"


def work_key(task_id: str) -> str:
    """Return the key of the folder for a task's attempts."""
    return f"work/{task_id}"


def attempt_key(task_id: str, attempt: int) -> str:
    """Return the key of an attempt's working folder."""
    return f"{work_key(task_id)}/{attempt}"


def result_key(task_id: str, media_type: str) -> str:
    """Return the key of a task's result."""
    return f"results/{task_id}.{media_type}"


class DataFolder:
    """The data folder at `root`, limited to `limit` bytes of media."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.space = Space(root, limit)
        self._lock: int | None = None

    def open(self) -> None:
        """Create the folders and take the lock.

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
                f"another vidproc is using {self.root}; stop it or choose another --data-dir"
            ) from None
        # First, so that after a crash the next start recognises the folder.
        ownership.mark(self.root)
        for name in (*FOLDERS, ORPHANS):
            (self.root / name).mkdir(exist_ok=True, mode=0o700)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, key: str) -> Path:
        """Return the path of a key (keys come only from our code). Does not access the disk."""
        return self.root / key

    def size(self, key: str) -> int:
        """Return the size of a file in bytes, 0 if it does not exist."""
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            return 0

    def size_below(self, key: str) -> int:
        """Return the total size of a file, or of all files below a folder, in bytes."""
        return size_below(self.path(key))

    def sync(self, key: str) -> int:
        """Sync a file to disk; return its size in bytes, 0 if it does not exist."""
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
        """Truncate a file to `size` bytes; return how many bytes were cut off."""
        lost = self.size(key) - size
        if lost <= 0:
            return 0
        os.truncate(self.path(key), size)
        return lost

    def make_folder(self, key: str) -> None:
        """Create a folder and its parents."""
        self.path(key).mkdir(parents=True, exist_ok=True, mode=0o700)

    def publish(self, source: str, target: str) -> None:
        """Move a file to its final key, so that after a crash it is there completely or not at all.

        It syncs the file, renames it and syncs the folder, in this order.
        """
        fd = os.open(self.path(source), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self.path(source).replace(self.path(target))
        self._sync_folder(self.path(target).parent)

    def duplicate(self, source: str, target: str) -> None:
        """Make `target` a hard link to the file `source`, or a copy if links are not supported.

        Do not write to either file afterwards.
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
        """Undo a `publish`; does nothing if the file was not published."""
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
        """Remove files and whole folders; ignores None and files that do not exist."""
        for key in keys:
            if key is None:
                continue
            path = self.path(key)
            if path.is_dir():
                _remove_folder(path)
            else:
                path.unlink(missing_ok=True)

    def discard(self, key: str) -> int:
        """Remove a file; return its size in bytes, 0 if it does not exist.

        When several callers remove a file at once, one of them gets its size.
        """
        path = self.path(key)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def sort_out(self, known: set[str], task_ids: set[str]) -> tuple[list[str], list[str]]:
        """Remove or move files whose keys are not in `known`; only at startup.

        Removes leftovers of known tasks (`task_ids`) and everything in ``work``. Other files belong
        to tasks that the store does not know, perhaps because it was lost; they are moved to
        ``orphans``. Returns the keys of removed and of moved files.
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
        """Return a free path in ``orphans``, so that no orphan overwrites another."""
        path = self.root / ORPHANS / name
        number = 1
        while os.path.lexists(path):
            number += 1
            path = self.root / ORPHANS / f"{name}.{number}"
        return path

    def orphans(self) -> list[tuple[str, int]]:
        """Return the key and size of each orphan, the oldest first."""
        found = []
        for path in (self.root / ORPHANS).iterdir():
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # evicted meanwhile
            found.append((status.st_mtime, f"{ORPHANS}/{path.name}", status.st_size))
        return [(key, size) for _, key, size in sorted(found)]
