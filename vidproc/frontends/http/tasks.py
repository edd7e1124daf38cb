"""Tasks: listing them, their status, cancelling them."""

from __future__ import annotations

from vidproc.answers import TaskList
from vidproc.frontends.http.answers import Answer, json_answer
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Route
from vidproc.frontends.reports import cancelled, status_report


async def list_tasks(request: Request) -> Answer:
    """Answer the token's own tasks, newest first."""
    views = await request.backend.tasks.list(request.caller)
    tasks = [status_report(view, detail=False) for view in views]
    return json_answer(TaskList(status="ok", tasks=tasks))


async def status(request: Request) -> Answer:
    """Answer the long form of a task's status."""
    view = await request.backend.tasks.status(request.arguments["task_id"], request.caller)
    return json_answer(status_report(view))


async def cancel(request: Request) -> Answer:
    """Cancel a task and remove its files."""
    state = await request.backend.tasks.cancel(request.arguments["task_id"], request.caller)
    return json_answer(cancelled(state))


ROUTES = (
    Route("GET", "/api/v1/tasks", list_tasks, "The token's own tasks, newest first, at most 100."),
    Route("GET", "/api/v1/tasks/{task_id}", status, "The status of a task."),
    Route("DELETE", "/api/v1/tasks/{task_id}", cancel, "Cancel a task and remove its files."),
)
