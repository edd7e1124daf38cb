"""The calls, once for both kinds of client: what to send, when to try again, what an answer means.

A refusal with 429 or 503 is waited for as long as the server asks, and costs no try. A broken
connection is tried again: an upload goes on at the byte that the server has, a download at the byte
that is on the disk.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urljoin

from vidproc.api.effects import Broken, Call, FilePart, InThread, Reply, Send, Sleep
from vidproc.api.errors import (
    Refused,
    ResultDamaged,
    TaskCancelled,
    TaskFailed,
    TimedOut,
    Unreachable,
    VidprocError,
)
from vidproc.api.models import OnProgress, Progress, Result, Status
from vidproc.api.receivers import EventReceiver, PartReceiver

_TUS = {"Tus-Resumable": "1.0.0"}


@dataclass(frozen=True)
class Settings:
    """Where the server is and how patient to be. Times are in seconds.

    `tries` is how often in a row a connection may fail without progress, `slot_timeout` how long
    429 and 503 are waited for in all.
    """

    url: str
    token: str | None = None
    timeout: float = 60.0
    tries: int = 5
    slot_timeout: float = 3600.0
    clock: Callable[[], float] = time.monotonic

    def at(self, path: str) -> str:
        """Return the absolute URL of a path below the API's root."""
        return f"{self.url.rstrip('/')}/api/v1/{path}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


def ignore_progress(progress: Progress) -> None:
    """Take a progress report and do nothing."""


class Persistence:
    """How often to try again, and how long to wait, within one call."""

    def __init__(self, settings: Settings, on_progress: OnProgress = ignore_progress) -> None:
        self._settings = settings
        self._on_progress = on_progress
        self._failures = 0
        self._waits = 0
        self._deadline: float | None = None

    def advance(self) -> None:
        """Note that something was achieved: failures before it no longer count."""
        self._failures = 0
        self._waits = 0

    def broke(self, problem: Broken) -> Call[None]:
        """Wait before another try; raises `Unreachable` when there were enough."""
        self._failures += 1
        if self._failures > self._settings.tries:
            raise Unreachable(f"The server at {self._settings.url} did not answer: {problem}.")
        yield Sleep(min(30.0, 2.0 ** (self._failures - 1)) * _less())

    def refused(self, reply: Reply) -> Call[None]:
        """Wait if the refusal is for now; else raise `Refused`."""
        refusal = refusal_of(reply)
        if reply.status not in (429, 503):
            raise refusal
        now = self._settings.clock()
        if self._deadline is None:
            self._deadline = now + self._settings.slot_timeout
        self._waits += 1
        # The server's word is the longest: a slot may be free much sooner.
        seconds = min(_retry_after(reply), 2.0 ** (self._waits - 1)) * _less()
        if now + seconds > self._deadline:
            raise refusal
        self._on_progress(Progress("waiting", 0.0, refusal.description))
        yield Sleep(seconds)


def request(settings: Settings, method: str, path: str) -> Call[Any]:
    """Do a request without a body and return its JSON."""
    persistence = Persistence(settings)
    while True:
        send = Send(method, settings.at(path), settings.headers, patience=settings.timeout)
        try:
            reply: Reply = yield send
        except Broken as problem:
            yield from persistence.broke(problem)
            continue
        if reply.status < 300:
            return _json_of(reply)
        yield from persistence.refused(reply)


def status(settings: Settings, task_id: str) -> Call[Status]:
    """Return a task's status."""
    return Status.of((yield from request(settings, "GET", _task(task_id))))


def upload(
    settings: Settings,
    path: Path,
    operation: str,
    parameters: Mapping[str, Any],
    on_progress: OnProgress,
    resume: str | None = None,
) -> Call[str]:
    """Send a file by tus and return the id of its task; `resume` is the URL of an earlier try."""
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
            except _Redo as redo:
                yield from persistence.refused(redo.reply)
            except Broken as problem:
                yield from persistence.broke(problem)
    except Unreachable as error:
        error.upload_url = sending.url
        raise
    finally:
        file.close()


class _Sending:
    """An upload under way: its `url` once the server has named it."""

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
        """Send what the server lacks. Return the task, or None if that was not all.

        Raises `Broken`, and `_Redo` with a refusal.
        """
        offset = 0
        if self.url is not None:
            head: Reply = yield Send("HEAD", self.url, {**self._settings.headers, **_TUS})
            if head.status in (404, 410):
                self.url = None  # it has expired
            elif head.status >= 300:
                raise _Redo(head)
            elif "vidproc-task" in head.headers:
                return head.headers["vidproc-task"]
            else:
                offset = int(head.headers.get("upload-offset", 0))
        if self.url is None:
            self.url = yield from _create(self._settings, path, self._size, operation, parameters)
        sent = _sent(self._on_progress, offset, self._size)
        part = FilePart(self._file, offset, self._size - offset, sent)
        return (yield from _send(self._settings, self.url, part))


class _Redo(Exception):
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
        raise _Redo(reply)
    return urljoin(target, reply.headers["location"])


def _send(settings: Settings, url: str, part: FilePart) -> Call[str | None]:
    """Send the rest of a file. Return its task, or None if bytes are still missing."""
    headers = {
        "Upload-Offset": str(part.offset),
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(part.size),
    }
    # After the last byte the server still has to bring all of them to the disk.
    patience = 5 * settings.timeout
    reply: Reply = yield Send(
        "PATCH", url, {**settings.headers, **_TUS, **headers}, part, patience=patience
    )
    if reply.status == 409:
        raise Broken("it expects another offset")
    if reply.status >= 300:
        raise _Redo(reply)
    return reply.headers.get("vidproc-task")


def _sent(on_progress: OnProgress, offset: int, size: int) -> Callable[[int], None]:
    def sent(count: int) -> None:
        on_progress(Progress("uploading", (offset + count) / size if size else 1.0))

    return sent


def wait(
    settings: Settings, task_id: str, on_progress: OnProgress, timeout: float | None = None
) -> Call[Status]:
    """Follow a task to its end and return its last status; raises `TaskFailed` and others."""
    persistence = Persistence(settings, on_progress)
    deadline = None if timeout is None else settings.clock() + timeout
    last: Status | None = None

    def seen(fields: Mapping[str, Any]) -> bool:
        nonlocal last
        last = Status.of(fields)
        persistence.advance()
        if not last.ended:
            on_progress(_progress_of(last))
        if deadline is not None and settings.clock() > deadline:
            return False
        return not last.ended

    while last is None or not last.ended:
        if deadline is not None and settings.clock() > deadline:
            raise TimedOut(
                f"Task {task_id} is not done after {timeout:g} s; it continues on the server.",
                solution="Wait for it later with wait(task_id).",
                task_id=task_id,
            )
        try:
            receiver = EventReceiver(seen)
            events = settings.at(f"{_task(task_id)}/events")
            reply: Reply = yield Send(
                "GET", events, settings.headers, receiver=receiver, patience=settings.timeout
            )
            if reply.status == 204:
                last = yield from status(settings, task_id)
            elif reply.status >= 300:
                yield from persistence.refused(reply)
        except Broken as problem:
            yield from persistence.broke(problem)
    if last.status == "failed":
        raise TaskFailed(
            last.error or "The processing failed.",
            code=last.error_code or 0,
            solution=last.solution or "",
            task_id=task_id,
        )
    if last.status != "completed":
        raise TaskCancelled(f"The task was {last.status}: there is no result.", task_id=task_id)
    return last


def _progress_of(status: Status) -> Progress:
    if status.status == "queued":
        position = status.queue_position
        return Progress("waiting", 0.0, "" if position is None else f"position {position}")
    return Progress("processing", status.progress, status.stage or "", status.eta)


def download(
    settings: Settings,
    task_id: str,
    target: Path,
    on_progress: OnProgress,
    last: Status | None = None,
    stem: str | None = None,
) -> Call[Result]:
    """Fetch a result, check it and return it.

    `target` is its file, which is replaced, or a folder: there it is called `stem` with the
    result's extension, or gets the next free name.
    """
    if last is None:
        last = yield from status(settings, task_id)
    persistence = Persistence(settings, on_progress)
    name = hashlib.sha256(task_id.encode()).hexdigest()[:32]
    folder = target if target.is_dir() else target.parent
    part = PartReceiver(folder / f".vidproc-{name}.part")
    part.on_progress = lambda share: on_progress(Progress("downloading", share))
    send = f"{_task(task_id)}/result"
    try:
        yield InThread(part.open)
        while True:
            before = part.offset
            headers = {**settings.headers, **part.headers, "Accept-Encoding": "identity"}
            try:
                reply: Reply = yield Send(
                    "GET", settings.at(send), headers, receiver=part, patience=settings.timeout
                )
            except Broken as problem:
                if part.offset > before:
                    persistence.advance()
                yield from persistence.broke(problem)
                continue
            if reply.status == 416 and part.offset:
                break  # all of it was there
            if reply.status not in (200, 206):
                yield from persistence.refused(reply)
            elif part.offset == part.size:
                break
            else:
                yield from persistence.broke(Broken("the answer ended early"))
        default = stem or f"{task_id}_processed"
        finished = yield InThread(lambda: part.finish(target, default))
    except OSError as error:
        raise VidprocError(
            f"The result cannot be written: {error.strerror or error}.",
            solution="Free some space, or choose another place, and download it again.",
            task_id=task_id,
        ) from None
    finally:
        part.close()
    if finished is None:
        raise ResultDamaged(
            "The downloaded result is damaged and was discarded.",
            solution="Download it again.",
            task_id=task_id,
        )
    path, sha256 = finished
    return Result(path, part.offset, sha256, last)


def process(
    settings: Settings,
    path: Path,
    operation: str,
    parameters: Mapping[str, Any],
    output: Path | None,
    on_progress: OnProgress,
    timeout: float | None,
) -> Call[Result]:
    """Upload, wait and download. Without `output` the result goes next to the video."""
    target = path.parent if output is None else output
    if target.is_file() and path.is_file() and target.samefile(path):
        raise VidprocError(
            f"The output would overwrite the video: {target}.",
            solution="Choose another output.",
        )
    if not target.is_dir() and not target.parent.is_dir():
        raise VidprocError(
            f"The output folder does not exist: {target.parent}.", solution="Create it first."
        )
    task_id = yield from upload(settings, path, operation, parameters, on_progress)
    last = yield from wait(settings, task_id, on_progress, timeout)
    stem = f"{path.stem}_processed"
    return (yield from download(settings, task_id, target, on_progress, last, stem))


def refusal_of(reply: Reply) -> Refused:
    """Return the exception for an answer that is an error."""
    try:
        problem = json.loads(reply.body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or f"The server answered with {reply.status}."
    return Refused(str(detail), code=reply.status, solution=str(problem.get("solution") or ""))


def _json_of(reply: Reply) -> Any:
    try:
        return json.loads(reply.body) if reply.body else {}
    except ValueError:
        raise VidprocError(
            "The server's answer is not JSON.",
            code=reply.status,
            solution="Check the URL: it must be that of vidproc's --http.",
        ) from None


def _task(task_id: str) -> str:
    return f"tasks/{quote(task_id, safe='')}"


def _retry_after(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdigit() else 10.0


def _less() -> float:
    """Return 0.5 to 1: clients must not all come back at once."""
    return 1 - random.SystemRandom().random() / 2
