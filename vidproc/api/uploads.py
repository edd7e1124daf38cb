"""The call that uploads a file by tus. After a broken connection it continues at the byte that the
server has."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin

from vidproc.api.effects import Broken, Call, FilePart, Reply, Send
from vidproc.api.errors import Unreachable, VidprocError
from vidproc.api.models import OnProgress, Progress
from vidproc.api.persistence import Persistence
from vidproc.api.settings import Settings

_TUS = {"Tus-Resumable": "1.0.0"}


def upload(
    settings: Settings,
    path: Path,
    operation: str,
    parameters: Mapping[str, Any],
    on_progress: OnProgress,
    resume: str | None = None,
) -> Call[str]:
    """Upload a file and return the id of its task; `resume` is the URL of an interrupted upload."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise VidprocError(
            f"The video cannot be read: {path} ({error.strerror}).",
            solution="Name an existing video file that you may read.",
        ) from None
    sending = _Sending(settings, file, os.fstat(file.fileno()).st_size, on_progress, resume)
    persistence = Persistence(settings, on_progress)
    try:
        while True:
            try:
                task_id = yield from sending.attempt(path, operation, parameters)
                if task_id is not None:
                    return task_id
                persistence.advance()
            except _Refused as refused:
                yield from persistence.refused(refused.reply)
            except Broken as problem:
                yield from persistence.broke(problem)
    except Unreachable as error:
        error.upload_url = sending.url
        raise
    finally:
        file.close()


class _Sending:
    """An upload in progress; `url` is None until the server has named it."""

    def __init__(
        self,
        settings: Settings,
        file: BinaryIO,
        size: int,
        on_progress: OnProgress,
        url: str | None,
    ) -> None:
        self._settings = settings
        self._file = file
        self._size = size
        self._on_progress = on_progress
        self.url = url

    def attempt(
        self, path: Path, operation: str, parameters: Mapping[str, Any]
    ) -> Call[str | None]:
        """Send what the server lacks. Return the task's id, or None if bytes are still missing.

        Raises `Broken` if the connection breaks, `_Refused` if the server refuses.
        """
        offset = 0
        if self.url is not None:
            head: Reply = yield Send("HEAD", self.url, {**self._settings.headers, **_TUS})
            if head.status in (404, 410):
                self.url = None  # it has expired
            elif head.status >= 300:
                raise _Refused(head)
            elif "vidproc-task" in head.headers:
                return head.headers["vidproc-task"]
            else:
                offset = int(head.headers.get("upload-offset", 0))
        if self.url is None:
            self.url = yield from _create(self._settings, path, self._size, operation, parameters)
        sent = _sent(self._on_progress, offset, self._size)
        part = FilePart(self._file, offset, self._size - offset, sent)
        return (yield from _send(self._settings, self.url, part))


class _Refused(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


def _create(
    settings: Settings, path: Path, size: int, operation: str, parameters: Mapping[str, Any]
) -> Call[str]:
    metadata = {
        "type": operation,
        "parameters": json.dumps(dict(parameters)),
        "filename": path.name.encode("utf-8", "replace").decode()[:255],
    }
    pairs = (f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in metadata.items())
    headers = {"Upload-Length": str(size), "Upload-Metadata": ",".join(pairs)}
    target = settings.at("uploads")
    reply: Reply = yield Send("POST", target, {**settings.headers, **_TUS, **headers}, b"")
    if reply.status != 201 or "location" not in reply.headers:
        raise _Refused(reply)
    return urljoin(target, reply.headers["location"])


def _send(settings: Settings, url: str, part: FilePart) -> Call[str | None]:
    """Send the rest of a file. Return the task's id, or None if bytes are still missing."""
    headers = {
        "Upload-Offset": str(part.offset),
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(part.size),
    }
    # After the last byte, the server still has to write everything to the disk.
    patience = 5 * settings.timeout
    reply: Reply = yield Send(
        "PATCH", url, {**settings.headers, **_TUS, **headers}, part, patience=patience
    )
    if reply.status == 409:
        raise Broken("it expects another offset")
    if reply.status >= 300:
        raise _Refused(reply)
    return reply.headers.get("vidproc-task")


def _sent(on_progress: OnProgress, offset: int, size: int) -> Callable[[int], None]:
    def sent(count: int) -> None:
        on_progress(Progress("uploading", (offset + count) / size if size else 1.0))

    return sent
