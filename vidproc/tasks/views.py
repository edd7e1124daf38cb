"""A task as clients see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vidproc.errors import ErrorCode, ServiceError
from vidproc.tasks.model import ACTIVE, TERMINAL, State, Task


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task at one moment. `progress` is 0 to 1, `eta` in seconds, `speed` times real time,
    `queue_position` counts from 1.

    `wait_reason` is a sentence: why a queued task waits although others may start.
    """

    task: Task
    stage: str | None = None
    progress: float = 0.0
    eta: float | None = None
    speed: float | None = None
    queue_position: int | None = None
    wait_reason: str | None = None
    warnings: tuple[str, ...] = ()
    input: dict[str, Any] = field(default_factory=dict)

    @property
    def terminal(self) -> bool:
        """Whether the task has ended."""
        return self.task.state in TERMINAL


def view_of_ended(task: Task) -> TaskView:
    """Return the view of a task that has ended."""
    return TaskView(
        task,
        progress=1.0 if task.state in (State.COMPLETED, State.EXPIRED) else 0.0,
        warnings=tuple(task.warnings),
        input=task.input,
    )


def no_such_task() -> ServiceError:
    """Return the error for a task that does not exist, or belongs to someone else."""
    return ServiceError(
        ErrorCode.NOT_FOUND,
        "There is no such task.",
        "Check the task id; it is in the answer to the upload.",
    )


def not_completed(task: Task) -> ServiceError:
    """Return the error for the result of a task that has none."""
    if task.state in ACTIVE:
        return ServiceError(
            ErrorCode.CONFLICT,
            f"The task is {task.state}, not completed yet.",
            "Ask for its status, or watch it, and download the result once it is completed.",
        )
    if task.state is State.CANCELLED:
        return ServiceError(
            ErrorCode.CONFLICT,
            "The task was cancelled, so it has no result.",
            "Send the video again.",
        )
    why = f": {task.failure.description}" if task.failure else "."
    return ServiceError(
        ErrorCode.CONFLICT,
        f"The task failed, so it has no result{why}",
        task.failure.solution if task.failure else "Send the video again.",
    )
