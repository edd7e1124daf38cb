"""Builds the answers that all frontends give from what the task service knows."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from vidproc import __version__
from vidproc.answers import (
    Accepted,
    Cancelled,
    Limits,
    Load,
    ServerDescription,
    SettingReport,
    StatusDetail,
    StatusReport,
)
from vidproc.frontends.server_info import ServerInfo
from vidproc.mmp.messages import REQUEST_TYPES
from vidproc.operations.parameters import PARAMETERS, describe_parameters
from vidproc.tasks.model import State
from vidproc.tasks.views import TaskView
from vidproc.units import iso_utc


def status_report(view: TaskView, *, detail: bool = True) -> StatusReport:
    """Return a task's status; with `detail` in the long form."""
    task = view.task
    failure = task.failure
    fields: dict[str, Any] = {
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
    if not detail:
        return StatusReport(**fields)
    return StatusDetail(
        **fields,
        parameters=task.parameters,
        input=view.input or task.input,
        output=task.output,
        warnings=list(view.warnings),
    )


def accepted(task_id: str) -> Accepted:
    """Return the answer to an upload that has become a task."""
    message = "The task is queued. Ask for its status, or watch it, with its task_id."
    return Accepted(status="accepted", task_id=task_id, message=message)


def cancelled(state: State) -> Cancelled:
    """Return the answer to a cancel, after which the task's state is `state`."""
    message = "The task is cancelled and its files are removed."
    if state is not State.CANCELLED:
        message = f"The task was {state.value} already; its files are removed."
    return Cancelled(status=state.value, message=message)


@cache
def _operations(detail: bool) -> dict[str, Any]:
    return {
        name: describe_parameters(name) if detail else list(kind.__struct_fields__)
        for name, kind in PARAMETERS.items()
    }


def describe_server(info: ServerInfo, *, detail: bool = True) -> ServerDescription:
    """Return the description of the server; with `detail`, each parameter's JSON schema."""
    settings = info.settings
    answer = ServerDescription(
        status="ok",
        version=__version__,
        protocol="MMP/1",
        actions=sorted(REQUEST_TYPES),
        limits=Limits(
            max_upload=settings.max_upload,
            tasks_per_ip=settings.tasks_per_ip,
            queue_size=settings.queue_size,
            retention=settings.retention,
            job_timeout=settings.job_timeout,
        ),
        operations=_operations(detail),
    )
    if detail:
        answer.ffmpeg = info.ffmpeg_version
        answer.sandbox = list(info.sandbox)
        answer.settings = {
            one.name: SettingReport(
                value=" ".join(one.texts) if one.texts else None, source=one.kind
            )
            for one in info.held
        }
        if info.workers is not None:
            answer.workers = list(info.workers)
        answer.load = Load(queued=info.queued, running=info.running, concurrency=info.concurrency)
    return answer
