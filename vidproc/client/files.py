"""The result while it is being downloaded."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vidproc.client.answer import Answer
from vidproc.client.errors import ChecksumMismatch, ResultNotWritten
from vidproc.client.kinds import safe_kind
from vidproc.mmp.errors import RemoteProtocolError
from vidproc.resume import sync_folder

_READ_SIZE = 1 << 20


class PartFile:
    """A partial download: ``.vidproc-TASKID.part`` in the folder of the result.

    The name depends only on the task, so that a later run can resume the download. A sink for
    `Client.download`; raises `ResultNotWritten` if it cannot be written.
    """

    def __init__(self, folder: Path, task_id: str) -> None:
        name = task_id if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", task_id, re.ASCII) else None
        # The ID comes from the network, and must not lead out of the folder.
        name = name or hashlib.sha256(task_id.encode("utf-8", "replace")).hexdigest()[:32]
        self.path = folder / f".vidproc-{name}.part"
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.offset = 0
        self.size: int | None = None
        self.sha256 = ""
        self.media_type = ""

    def open(self) -> None:
        """Open the file and read what an earlier run left; may take time, so call it in a thread.

        Raises `ResultNotWritten`.
        """
        try:
            self._file = self._opened()
            if os.fstat(self._file.fileno()).st_nlink > 1:
                # It has a second hard link: a run ended while renaming its result, or someone else
                # made the link. That file must not change.
                self._file.close()
                self.path.unlink()
                self._file = self._opened()
            while chunk := self._file.read(_READ_SIZE):
                self._hash.update(chunk)
                self.offset += len(chunk)
        except OSError as error:
            raise _not_written(error) from None

    def _opened(self) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self.path, flags, 0o666), "r+b", buffering=0)

    def begin(self, answer: Answer) -> None:
        """Note size, media type and checksum; start over if the server does.

        Raises `RemoteProtocolError` if the answer does not match the request.
        """
        start = answer.fields.get("offset", 0)
        size = answer.fields.get("size", None)
        if not isinstance(start, int) or start not in (0, self.offset):
            raise RemoteProtocolError("the download starts at another offset than requested")
        if not isinstance(size, int):
            size = start + answer.payload_size
        if start + answer.payload_size != size:
            raise RemoteProtocolError("the download's sizes contradict each other")
        if start != self.offset:
            self.restart()
        self.size = size
        self.sha256 = str(answer.fields.get("sha256") or "").lower()
        self.media_type = safe_kind(answer.media_type)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; raises `ResultNotWritten`."""
        assert self._file is not None
        try:
            view = memoryview(data)
            while view:
                # A raw write may be partial, for instance if the disk fills up.
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _not_written(error) from None
        self._hash.update(data)
        self.offset += len(data)

    def restart(self) -> None:
        """Discard what is there; raises `ResultNotWritten`."""
        assert self._file is not None
        try:
            self._file.seek(0)
            self._file.truncate(0)
        except OSError as error:
            raise _not_written(error) from None
        self._hash = hashlib.sha256()
        self.offset = 0

    def finish(
        self,
        target: Path,
        *,
        replace: bool = True,
        before_name: Callable[[Path, str], None] = lambda target, sha256: None,
    ) -> Path:
        """Check size and checksum, sync the file and rename it; return the path.

        Without `replace`, an existing file is kept, and the result gets the next free name:
        ``film_processed_2.mp4``. `before_name` is called with each name that is about to be tried,
        and the SHA-256 of the file. Call it in a thread, it may take time. Raises
        `ChecksumMismatch` and `ResultNotWritten`; nothing is renamed then.
        """
        assert self._file is not None
        if self.offset != self.size:
            raise ChecksumMismatch(f"{self.offset} bytes arrived instead of {self.size}")
        sha256 = self._hash.hexdigest()
        if self.sha256 and sha256 != self.sha256:
            raise ChecksumMismatch("the checksum (SHA-256) differs from the server's")
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            if replace:
                before_name(target, sha256)
                self.path.replace(target)
            else:
                target = _move_to_free_name(
                    self.path, target, lambda name: before_name(name, sha256)
                )
            sync_folder(target.parent)
        except OSError as error:
            raise _not_written(error) from None
        return target

    def close(self, *, discard: bool = False) -> None:
        """Close the file; remove it with `discard`, or if it is empty."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if discard or self.offset == 0:
            try:
                self.path.unlink()
            except OSError:
                pass  # an empty leftover, or one that the next run overwrites


def _move_to_free_name(path: Path, wanted: Path, before: Callable[[Path], None]) -> Path:
    """Rename the file `path` to `wanted`, or to the next free name. Raises `OSError`."""
    for number in itertools.count(1):
        target = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}_{number}")
        if target.exists():
            continue  # no need to announce it
        before(target)
        try:
            # Both ways fail if the name is taken, even if it was taken just now.
            try:
                os.link(path, target)
            except FileExistsError:
                raise
            except OSError:
                # This file system has no hard links: claim the name with an empty file first.
                target.touch(exist_ok=False)
                _replace_own(path, target)
            else:
                path.unlink()
        except FileExistsError:
            continue
        return target
    raise AssertionError("unreachable")


def _replace_own(path: Path, placeholder: Path) -> None:
    try:
        path.replace(placeholder)
    except OSError:
        placeholder.unlink()
        raise


def _not_written(error: OSError) -> ResultNotWritten:
    return ResultNotWritten(f"The result cannot be written: {error.strerror or error}.")


def safe_stem(task_id: str) -> str:
    """Return a task ID made safe for use in a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in task_id)[:100]
