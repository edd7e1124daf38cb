"""What the task service knows, as MMP answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from vidproc import __version__
from vidproc.frontends.server_info import ServerInfo
from vidproc.mmp import messages
from vidproc.operations.parameters import PARAMETERS, describe_parameters
from vidproc.tasks.views import TaskView
from vidproc.units import iso_utc


def status_report(
    view: TaskView, request: messages.Status | messages.Watch | messages.List
) -> messages.StatusReport:
    """Return the status answer for a task, in the long form when the request asks for detail."""
    task = view.task
    failure = task.failure
    fields: dict[str, Any] = {
        "id": request.id,
        "status": task.state.value,
        "task_id": task.task_id,
        "type": task.type,
        "created_at": iso_utc(task.created_at),
        "started_at": iso_utc(task.started_at),
        "completed_at": iso_utc(task.completed_at),
        "stage": view.stage,
        "progress": round(view.progress, 4),
        "eta": None if view.eta is None else round(view.eta, 1),
        "speed": None if view.speed is None else round(view.speed, 2),
        "queue_position": view.queue_position,
        "wait_reason": view.wait_reason or msgspec.UNSET,
        "error": None if failure is None else failure.description,
        "error_code": None if failure is None else failure.code,
        "solution": None if failure is None else failure.solution,
        "warning_count": len(view.warnings),
    }
    if not request.detail:
        return messages.StatusReport(**fields)
    return messages.StatusDetail(
        **fields,
        parameters=task.parameters,
        input=view.input or task.input,
        output=task.output,
        warnings=list(view.warnings),
    )


_LISTED_ERROR = 50
"""Bytes of a listed task's error: a hundred tasks must fit one answer's JSON."""


def list_report(views: Sequence[TaskView], request: messages.List) -> messages.TaskList:
    """Return the answer to `list`; each task's status has the whole of its texts."""
    return messages.TaskList(
        id=request.id, status="ok", tasks=[_listed(view, request) for view in views]
    )


def _listed(view: TaskView, request: messages.List) -> messages.StatusReport:
    report = status_report(view, msgspec.structs.replace(request, id=None, detail=False))
    report.id = msgspec.UNSET
    if report.error is not None:
        report.error = messages.clip(report.error, _LISTED_ERROR)
    report.solution = None
    return report


class InfoAnswer(messages.Answer, kw_only=True):
    """The answer to `info`. Limits in bytes and seconds."""

    status: str
    version: str
    protocol: str
    actions: list[str]
    limits: dict[str, Any]
    operations: dict[str, Any]
    ffmpeg: str | msgspec.UnsetType = msgspec.UNSET
    sandbox: list[str] | msgspec.UnsetType = msgspec.UNSET
    load: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


@cache
def _operations(detail: bool) -> dict[str, Any]:
    return {
        name: describe_parameters(name) if detail else list(kind.__struct_fields__)
        for name, kind in PARAMETERS.items()
    }


def describe_server(info: ServerInfo, request: messages.Info) -> InfoAnswer:
    """Return the answer to `info`; the long form has each parameter's JSON schema."""
    settings = info.settings
    answer = InfoAnswer(
        id=request.id,
        status="ok",
        version=__version__,
        protocol="MMP/1",
        actions=sorted(messages.REQUEST_TYPES),
        limits={
            "max_upload": settings.max_upload,
            "tasks_per_ip": settings.tasks_per_ip,
            "queue_size": settings.queue_size,
            "retention": settings.retention,
            "job_timeout": settings.job_timeout,
        },
        operations=_operations(request.detail),
    )
    if request.detail:
        answer.ffmpeg = info.ffmpeg_version
        answer.sandbox = list(info.sandbox)
        answer.load = {
            "queued": info.queued,
            "running": info.running,
            "concurrency": info.concurrency,
        }
    return answer
