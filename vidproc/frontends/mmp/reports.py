"""The answers of `vidproc.frontends.reports` as MMP sends them: with the request's ID, and
shortened."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vidproc.answers import ServerDescription, StatusReport, TaskList, WorkerReport
from vidproc.frontends import reports
from vidproc.frontends.server_info import ServerInfo
from vidproc.mmp import messages
from vidproc.tasks.views import TaskView


def status_report(
    view: TaskView, request: messages.Status | messages.Watch | messages.List
) -> StatusReport:
    """Return the status answer for a task, in the long form when the request asks for detail."""
    report = reports.status_report(view, detail=request.detail)
    report.id = request.id
    return report


_WORKERS_ROOM = 40_000
"""Bytes of an answer's JSON for the workers of a cluster, of the 65,535 that MMP carries."""
_LISTED_ERROR = 50
"""Bytes of a listed task's error: a hundred tasks must fit one answer's JSON."""


def list_report(views: Sequence[TaskView], request: messages.List) -> TaskList:
    """Return the answer to `list`, with shortened texts."""
    tasks = [_listed(view) for view in views]
    return TaskList(id=request.id, status="ok", tasks=tasks)


def _listed(view: TaskView) -> StatusReport:
    report = reports.status_report(view, detail=False)
    if report.error is not None:
        report.error = messages.clip(report.error, _LISTED_ERROR)
    report.solution = None
    return report


def describe_server(info: ServerInfo, request: messages.Info) -> ServerDescription:
    """Return the answer to `info`; the long form has each parameter's JSON schema."""
    answer = reports.describe_server(info, detail=request.detail)
    answer.id = request.id
    if not isinstance(answer.workers, msgspec.UnsetType):
        shown = _shown(answer.workers)
        if len(shown) < len(answer.workers):
            answer.workers_left_out = len(answer.workers) - len(shown)
            answer.workers = shown
    return answer


def _shown(workers: list[WorkerReport]) -> list[WorkerReport]:
    """Return as many workers as an answer has room for: those first that get no commands."""
    room, shown = _WORKERS_ROOM, []
    for worker in sorted(workers, key=lambda worker: worker.refused is None):
        room -= len(msgspec.json.encode(worker)) + 1
        if room < 0:
            break
        shown.append(worker)
    return shown
