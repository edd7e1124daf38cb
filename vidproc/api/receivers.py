"""Take the bodies of answers: a stream of events, and a file that is checked when complete."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vidproc.api.effects import Reply

_KINDS = {"video/mp4": "mp4", "video/webm": "webm", "image/gif": "gif", "audio/mpeg": "mp3"}
_SAFE = {"avi", "flv", "gif", "m2ts", "m4a", "m4v", "mkv", "mov"} | {
    *("mp3", "mp4", "mpeg", "mpg", "ogg", "ts", "webm", "wmv"),
}
_EXTENSION = re.compile(r'filename="[^"]*\.([A-Za-z0-9]{1,5})"', re.ASCII)
_SHA256 = re.compile(r'"([0-9a-f]{64})"')


class EventReceiver:
    """Takes server-sent events. `seen` gets each status and returns whether to continue."""

    def __init__(self, seen: Callable[[Mapping[str, Any]], bool]) -> None:
        self._seen = seen
        self._rest = b""

    def wants(self, reply: Reply) -> bool:
        """See `Receiver.wants`."""
        return reply.status == 200

    def write(self, data: bytes) -> bool:
        """See `Receiver.write`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            # Each event of this server is one line of data.
            if line.startswith(b"data:"):
                fields = json.loads(line[5:])
                if isinstance(fields, dict) and not self._seen(fields):
                    return False
        return True


class PartReceiver:
    """Writes a result to a file with a temporary name; continues what an earlier try left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.size: int | None = None
        self.on_progress: Callable[[float], None] = lambda share: None
        self._file: BinaryIO | None = None
        self._etag = ""
        self._kind = "bin"
        self._hash = hashlib.sha256()

    @property
    def headers(self) -> dict[str, str]:
        """Headers that ask for the missing bytes, provided that the result is still the same."""
        if not self.offset:
            return {}
        return {"Range": f"bytes={self.offset}-", "If-Range": self._etag}

    @property
    def _tag_path(self) -> Path:
        return self.path.with_suffix(".etag")

    def open(self) -> None:
        """Open the file. Earlier bytes are kept if it is known which result they belong to."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            self._etag = self._tag_path.read_text()
        except OSError:
            self._etag = ""
        if not _SHA256.fullmatch(self._etag):
            self._restart()
            return
        while data := self._file.read(1 << 20):
            self._hash.update(data)
            self.offset += len(data)

    def _restart(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.offset = 0

    def wants(self, reply: Reply) -> bool:
        """See `Receiver.wants`."""
        if reply.status not in (200, 206):
            return False
        self._kind = _kind_of(reply)
        if reply.status == 200:
            if self.offset:
                self._restart()
            self.size = int(reply.headers.get("content-length", -1))
        else:
            self.size = int(reply.headers["content-range"].rpartition("/")[2])
        self._etag = reply.headers.get("etag", "")
        self._tag_path.write_text(self._etag)
        return True

    def write(self, data: bytes) -> bool:
        """See `Receiver.write`."""
        assert self._file is not None
        self._hash.update(data)
        self.offset += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        if self.size and self.size > 0:
            self.on_progress(min(1.0, self.offset / self.size))
        return True

    def finish(self, target: Path, stem: str) -> tuple[Path, str] | None:
        """Check the file and give it its name; `target` and `stem` are as in `downloads.download`.

        Return its path and SHA-256, or None if it is damaged; then it is removed.
        """
        assert self._file is not None
        sha256 = self._hash.hexdigest()
        match = _SHA256.fullmatch(self._etag)
        self._tag_path.unlink(missing_ok=True)
        if match is not None and match[1] != sha256:
            self.path.unlink()
            return None
        os.fsync(self._file.fileno())
        if target.is_dir():
            safe = "".join("_" if c in "/\\\0" else c for c in stem)[:230]
            target = _free_name(target / f"{safe}.{self._kind}")
        self._file.close()
        self._file = None
        self.path.replace(target)
        return target, sha256

    def close(self) -> None:
        """Close the file. If incomplete it stays for the next try; if empty it is removed."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if not self.offset:
            self.path.unlink(missing_ok=True)
            self._tag_path.unlink(missing_ok=True)


def _free_name(wanted: Path) -> Path:
    """Create an empty file `wanted`, or with the next free name: ``film_processed_2.mp4``."""
    number, target = 1, wanted
    while True:
        try:
            target.touch(exist_ok=False)
        except FileExistsError:
            number += 1
            target = wanted.with_stem(f"{wanted.stem}_{number}")
        else:
            return target


def _kind_of(reply: Reply) -> str:
    """Return the extension for a result, ``bin`` if it is not one of a media file."""
    kind = _KINDS.get(reply.headers.get("content-type", "").partition(";")[0])
    if kind is None:
        match = _EXTENSION.search(reply.headers.get("content-disposition", ""))
        kind = match[1].lower() if match else ""
    return kind if kind in _SAFE else "bin"
