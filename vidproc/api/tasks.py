"""Calls about tasks: requests without a body, a task's status, and waiting for its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from vidproc.api.effects import Broken, Call, Reply, Send
from vidproc.api.errors import TaskCancelled, TaskFailed, TimedOut, VidprocError
from vidproc.api.models import OnProgress, Progress, Status
from vidproc.api.persistence import Persistence
from vidproc.api.receivers import EventReceiver
from vidproc.api.settings import Settings


def request(settings: Settings, method: str, path: str) -> Call[Any]:
    """Send a request without a body and return the JSON of the answer."""
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
    return Status.of((yield from request(settings, "GET", task_path(task_id))))


def wait(
    settings: Settings, task_id: str, on_progress: OnProgress, timeout: float | None = None
) -> Call[Status]:
    """Follow a task to its end and return its last status.

    Raises `TaskFailed`, `TaskCancelled` and, after `timeout` seconds, `TimedOut`.
    """
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
            events = settings.at(f"{task_path(task_id)}/events")
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


def _json_of(reply: Reply) -> Any:
    try:
        return json.loads(reply.body) if reply.body else {}
    except ValueError:
        raise VidprocError(
            "The server's answer is not JSON.",
            code=reply.status,
            solution="Check the URL: it must be that of vidproc's --http.",
        ) from None


def task_path(task_id: str) -> str:
    """Return the path of a task below the API's root."""
    return f"tasks/{quote(task_id, safe='')}"
