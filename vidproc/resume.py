"""Remembering the upload_id between runs, so that a client that was stopped can resume its upload.

The command-line client and the Python API do so in the same folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

REMEMBER_FROM = 8 << 20
"""Bytes: larger uploads are remembered. Smaller ones are quickly sent again, and not worth files,
locks and fsyncs in every run."""

KEEP_SECONDS = 7 * 86400.0
"""Seconds after which an unused resume file is removed. Servers keep interrupted uploads for less
time, a day by default."""

_SUFFIXES = (".json", ".tmp", ".lock")

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def state_folder() -> Path:
    """Return the folder of the resume files: in ``$XDG_STATE_HOME``, or ``~/.local/state``.

    On Windows, in ``%LOCALAPPDATA%``. Raises `OSError` if the user has no home folder.
    """
    base = Path(os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME", ""))
    if not base.is_absolute():  # the XDG specification says to ignore relative ones
        try:
            base = Path.home() / ".local" / "state"
        except RuntimeError as error:
            raise OSError(str(error)) from None
    return base / "vidproc" / "uploads"


class Log(Protocol):
    """The methods of `logging.Logger` that are used here."""

    def info(self, message: str, *args: object) -> None:
        """Log an event."""

    def warning(self, message: str, *args: object) -> None:
        """Log a problem."""


class ResumeFile:
    """Stores an upload_id from before the first byte until the upload is accepted.

    `identity` identifies the upload, as JSON: the unchanged file, the request, the server. Its hash
    is the name of the resume file. Only one process at a time can use a resume file; for others,
    and if nothing can be written, nothing is remembered. That is logged and never an error.
    """

    def __init__(self, identity: Mapping[str, object], log: Log) -> None:
        self._identity = json.dumps(identity, sort_keys=True)
        import hashlib  # only now: the client imports this module before it sends anything

        self._name = hashlib.sha256(self._identity.encode()).hexdigest()
        self._log = log
        self._base: Path | None = None
        self._lock = -1
        self.upload_id: str | None = None
        self.notes: dict[str, str] = {}
        self.kept = False
        self.locked_elsewhere = False

    def open(self, *, prune: bool = True) -> None:
        """Lock the file for this process, and read `upload_id` if an earlier run left one.

        Removes old resume files, with `prune`. Nothing is remembered until this has been called.
        """
        try:
            folder = state_folder()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if prune:
                self._prune(folder, time.time() - KEEP_SECONDS)
            base = folder / self._name
            lock = _take_lock(base)
        except OSError as error:
            self._unavailable(error)
            return
        if lock is None:
            self.locked_elsewhere = True
            self._log.info("another process sends the same file; this upload is not remembered")
            return
        self._base, self._lock = base, lock
        self.upload_id = self._read(base)
        self.kept = self.upload_id is not None

    def peek(self) -> dict[str, str]:
        """Return the notes of an earlier run, without locking the file."""
        try:
            self._read(state_folder() / self._name)
        except OSError:
            pass
        return self.notes

    def remember(self, upload_id: str) -> None:
        """Store an upload_id for later runs; it is on disk when this returns."""
        self.upload_id, self.notes = upload_id, {}
        self._write()

    def note(self, **notes: str) -> None:
        """Store more about the upload for later runs; it is on disk when this returns."""
        self.notes |= notes
        self._write()

    def _write(self) -> None:
        if self._base is None:
            return
        record: dict[str, object] = {
            "upload_id": self.upload_id,
            "upload": json.loads(self._identity),
        }
        if self.notes:
            record["notes"] = self.notes
        temporary = self._base.with_suffix(".tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
                json.dump(record, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._base.with_suffix(".json"))
            sync_folder(self._base.parent)
        except OSError as error:
            self._unavailable(error)
            return
        self.kept = True

    def forget(self) -> None:
        """Remove the upload_id: the upload was accepted, or resuming it makes no sense."""
        self.upload_id, self.notes = None, {}
        if self._base is None:
            return
        try:
            _remove(self._base)
        except OSError as error:
            self._log.warning("the resume file cannot be removed: %s", error)
            return
        self.kept = False

    def close(self) -> None:
        """Release the file for other processes; an upload_id that was not forgotten stays."""
        if self._base is not None:
            _release(self._base, self._lock)
            self._base = None

    def _read(self, base: Path) -> str | None:
        try:
            record = json.loads(base.with_suffix(".json").read_bytes())
            if record["upload"] == json.loads(self._identity):
                upload_id = str(uuid.UUID(record["upload_id"]))
                notes = record.get("notes", {})
                self.notes = {str(name): str(value) for name, value in notes.items()}
                return upload_id
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            # Damaged, or from another version: start a new upload.
            self._log.info("the resume file cannot be read: %r", error)
        return None

    def _unavailable(self, error: OSError) -> None:
        self.kept = False
        self._log.info("this upload is not remembered for a later run: %s", error)

    def _prune(self, folder: Path, before: float) -> None:
        """Remove resume files last written before that time (in seconds) and not in use."""
        newest: dict[str, float] = {}
        for path in folder.iterdir():
            try:
                modified = path.lstat().st_mtime
            except FileNotFoundError:
                continue  # another process has removed it
            if path.suffix in _SUFFIXES:
                newest[path.stem] = max(modified, newest.get(path.stem, modified))
        for base in [folder / name for name, modified in newest.items() if modified < before]:
            try:
                lock = _take_lock(base)
                if lock is not None:
                    _remove(base)
                    _release(base, lock)
            except OSError as error:
                # Perhaps it belongs to another user, such as root: ours still works.
                self._log.info("an old resume file cannot be removed: %s", error)


def _remove(base: Path) -> None:
    for suffix in (".json", ".tmp"):
        base.with_suffix(suffix).unlink(missing_ok=True)


def _take_lock(base: Path) -> int | None:
    """Return a descriptor that holds the lock until `_release`, or this process' end.

    None if another process has it. Raises `OSError` if locks are not available.
    """
    path = base.with_suffix(".lock")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
        try:
            _lock(descriptor)
            # The previous owner may have removed the file meanwhile; then this lock is meaningless.
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Take the lock; raises `BlockingIOError` if another process has it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _release(base: Path, lock: int) -> None:
    """Release a lock and remove its file."""
    path = base.with_suffix(".lock")
    if os.name == "nt":  # an open file cannot be removed there
        os.close(lock)
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # an empty file that the next run uses, or removes when it is old
    if os.name != "nt":
        os.close(lock)


def sync_folder(folder: Path) -> None:
    """Sync `folder` itself, so that a new name in it is on disk, where supported."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot; the file itself is safe
    finally:
        os.close(descriptor)
