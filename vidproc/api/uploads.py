"""The call that uploads a file by tus. After a broken connection it continues at the byte that the
server has, and so does a later process after this one was stopped."""

from __future__ import annotations

import base64
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin

from vidproc.api.effects import Broken, Call, FilePart, InThread, Reply, Send
from vidproc.api.errors import Refused, Unreachable, VidprocError
from vidproc.api.models import OnProgress, Progress
from vidproc.api.persistence import Persistence
from vidproc.api.settings import Settings
from vidproc.resume import REMEMBER_FROM, ResumeFile

_TUS = {"Tus-Resumable": "1.0.0"}
_LATER = (401, 429)
"""Refusals below 500 that may be over when the same upload is tried again."""
_log = logging.getLogger("vidproc.api")


def upload(
    settings: Settings,
    path: Path,
    operation: str,
    parameters: Mapping[str, object],
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
    memory = _memory(settings, path, os.fstat(file.fileno()), operation, parameters)
    sending = _Sending(settings, file, on_progress, resume, memory)
    persistence = Persistence(settings, on_progress)
    try:
        if memory is not None and resume is None:
            yield from sending.recall(memory)
        while True:
            try:
                task_id = yield from sending.attempt(path, operation, parameters)
                if task_id is not None:
                    yield from sending.forget()
                    return task_id
                persistence.advance()
            except _Refused as refused:
                yield from persistence.refused(refused.reply)
            except Broken as problem:
                yield from persistence.broke(problem)
    except Unreachable as error:
        error.upload_url = sending.url
        raise
    except Refused as refusal:
        if refusal.code < 500 and refusal.code not in _LATER:
            yield from sending.forget()
        raise
    finally:
        file.close()
        if memory is not None:
            memory.close()


def _memory(
    settings: Settings,
    path: Path,
    stat: os.stat_result,
    operation: str,
    parameters: Mapping[str, object],
) -> ResumeFile | None:
    """Return what tells a later process of this upload; None for a small file, soon sent again."""
    if stat.st_size < REMEMBER_FROM:
        return None
    identity = {
        "path": str(path.resolve()),
        "size": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "inode": stat.st_ino,
        "type": operation,
        "parameters": dict(parameters),
        "url": settings.url,
    }
    return ResumeFile(identity, _log)


class _Sending:
    """An upload in progress; `url` is None until the server has named it."""

    def __init__(
        self,
        settings: Settings,
        file: BinaryIO,
        on_progress: OnProgress,
        url: str | None,
        memory: ResumeFile | None,
    ) -> None:
        self._settings = settings
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._on_progress = on_progress
        self._memory = memory
        self.url = url

    def recall(self, memory: ResumeFile) -> Call[None]:
        """Take the upload of an earlier process, if there is one."""
        yield InThread(memory.open)
        if memory.upload_id is not None:
            self.url = self._settings.at(f"uploads/{memory.upload_id}")

    def forget(self) -> Call[None]:
        """Tell later processes nothing of this upload."""
        if self._memory is not None:
            yield InThread(self._memory.forget)

    def attempt(
        self, path: Path, operation: str, parameters: Mapping[str, object]
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
            upload_id = str(uuid.uuid4())
            if self._memory is not None:
                yield InThread(partial(self._memory.remember, upload_id))
            metadata = _metadata(path, operation, parameters)
            self.url = yield from _create(self._settings, upload_id, self._size, metadata)
        sent = _sent(self._on_progress, offset, self._size)
        part = FilePart(self._file, offset, self._size - offset, sent)
        return (yield from _send(self._settings, self.url, part))


class _Refused(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


def _metadata(path: Path, operation: str, parameters: Mapping[str, object]) -> str:
    metadata = {
        "type": operation,
        "parameters": json.dumps(dict(parameters)),
        "filename": path.name.encode("utf-8", "replace").decode()[:255],
    }
    pairs = (f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in metadata.items())
    return ",".join(pairs)


def _create(settings: Settings, upload_id: str, size: int, metadata: str) -> Call[str]:
    """Create an upload and return its URL. Doing it twice creates it once."""
    headers = {
        "Upload-Length": str(size),
        "Upload-Metadata": metadata,
        "Idempotency-Key": upload_id,
    }
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
