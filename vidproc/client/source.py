"""The input file, and what remembers its upload between runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vidproc.client.kinds import MEDIA_TYPE
from vidproc.client.options import Options
from vidproc.resume import REMEMBER_FROM, Log, ResumeFile

_HASH_CHUNK = 1 << 20


class Source:
    """The input file, open. `size` is in bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: it is read in large chunks, and never twice.
        self.file: BinaryIO = path.open("rb", buffering=0)
        self._before = os.fstat(self.file.fileno())
        self.size = self._before.st_size

    @property
    def media_type(self) -> str:
        """The media type, such as ``mp4``; empty if the file name has no usable extension."""
        kind = self.path.suffix[1:].lower()
        return kind if MEDIA_TYPE.fullmatch(kind) else ""

    @property
    def label(self) -> str:
        """The file name for people, without the folder, in valid UTF-8."""
        return self.path.name.encode("utf-8", "replace").decode("utf-8")[:255]

    @property
    def identity(self) -> dict[str, str | int]:
        """Identifies the file and its state when it was opened, across runs."""
        return {
            "path": str(self.path.resolve()),
            "size": self.size,
            "modified_ns": self._before.st_mtime_ns,
            "inode": self._before.st_ino,
        }

    def unchanged(self) -> bool:
        """Whether the file has not changed since it was opened."""
        now = os.fstat(self.file.fileno())
        return (now.st_size, now.st_mtime_ns) == (self._before.st_size, self._before.st_mtime_ns)

    def sha256(self) -> str:
        """Read the whole file and return its SHA-256 in hexadecimal; for a thread.

        Raises `OSError`, and `ValueError` if the file is closed meanwhile.
        """
        import hashlib  # only now: with OpenSSL it takes a while

        digest, position = hashlib.sha256(), 0
        while data := os.pread(self.file.fileno(), _HASH_CHUNK, position):
            digest.update(data)
            position += len(data)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def resume_file(options: Options, source: Source, log: Log, **more: str) -> ResumeFile:
    """Return the resume file for exactly this upload; `more` distinguishes it further."""
    # Without the token: it may change between two runs, and does not belong in this file.
    request = {"type": options.type, "parameters": options.parameters}
    server = {"host": options.host, "port": options.port}
    return ResumeFile({**source.identity, **request, **server, **more}, log)


@dataclass(frozen=True)
class Input:
    """What one run sends: the file and its resume file, both open.

    `begun_id` is the upload_id with which this run has already sent some of it.
    """

    source: Source
    resume: ResumeFile
    begun_id: str | None = None

    def close(self) -> None:
        """Close both files."""
        self.resume.close()
        self.source.close()


def open_input(options: Options, log: Log) -> Input:
    """Open the input file, and its resume file if it is large. Raises `OSError`."""
    assert options.input is not None
    source = Source(options.input)
    resume = resume_file(options, source, log)
    if source.size >= REMEMBER_FROM:
        resume.open()
    return Input(source, resume)
