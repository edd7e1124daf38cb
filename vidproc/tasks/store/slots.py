"""Slots: how many tasks an address, or a token, may have at a time."""

from __future__ import annotations

import sqlite3

from vidproc.errors import ErrorCode, ServiceError
from vidproc.tasks.model import ACTIVE, Task

_ACTIVE = ", ".join(f"'{state}'" for state in sorted(ACTIVE))


def require_slot(
    db: sqlite3.Connection,
    task: Task,
    tasks_per_peer: int,
    tasks_per_token: int | None,
    queue_size: int,
) -> None:
    """Raise `ServiceError` 429 if there is no free slot for `task`, 503 if the queue is full.

    Call it in the transaction that takes the slot, so that no two requests take the last one.
    """
    if tasks_per_token is not None and task.principal is not None:
        column, holder, most, whose = "principal", task.principal, tasks_per_token, "token"
    else:
        column, holder, most, whose = "peer", task.peer, tasks_per_peer, "address"
    query = f"SELECT count(*) FROM tasks WHERE {column} = ? AND state IN ({_ACTIVE})"  # noqa: S608
    if db.execute(query, (holder,)).fetchone()[0] >= most:
        tasks = "a task" if most == 1 else f"its {most} tasks"
        raise ServiceError(
            ErrorCode.TOO_MANY,
            f"Your {whose} already has {tasks} uploading, queued or processing.",
            f"Wait until {'it' if most == 1 else 'one'} has ended, or cancel "
            f"{'it' if most == 1 else 'one'}, then send this one again.",
        )
    waiting = db.execute("SELECT count(*) FROM tasks WHERE state = 'queued'").fetchone()[0]
    if waiting >= queue_size:
        raise ServiceError(
            ErrorCode.UNAVAILABLE,
            f"The queue is full: {waiting} tasks wait.",
            "Try again in a few minutes.",
        )
