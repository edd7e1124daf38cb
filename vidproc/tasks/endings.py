"""What happens to a task when an attempt has ended, however it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.command import CommandFailed, FailureKind
from vidproc.request_id import new_request_id
from vidproc.runners.failures import is_shortage
from vidproc.tasks.execution import (
    Attempt,
    AttemptStopped,
    Outcome,
    Outgrown,
    StopReason,
)
from vidproc.tasks.model import Failure, State, Task
from vidproc.tasks.output_space import SpaceLacks
from vidproc.tasks.refused_files import too_much_memory
from vidproc.topics import Topic, TopicLogger
from vidproc.units import format_duration, format_size

RETRY_DELAY = 1.0
"""Seconds to wait after the first internal error; twice as long after the second."""
SHORTAGE_DELAY = 5.0
"""Seconds to wait when no process could be started for lack of descriptors or memory. This does not
count as a failure of the task: it is tried for as long as it takes."""
MAX_FAILURES = 3
"""Attempts that may end in an internal error before the task fails."""
MAX_KILLS = 10
"""Attempts whose process may be killed from outside before the task fails. A kill does not count as
a failure of the task either, but something on the machine keeps stopping it."""
KILL_DELAY = 1.0
"""Seconds to wait after the first kill; twice as long after each further one, up to
`LONGEST_KILL_DELAY`."""
LONGEST_KILL_DELAY = 60.0

log = TopicLogger(Topic.TASKS, __name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """A task's next state, and the fields to set with it.

    A task that goes back to the queue waits for `delay` seconds, or until `waits_for` bytes are
    free; its next attempt reserves `needs` bytes at least. `wait_reason` tells its owner why.
    `kills` counts the attempts whose program was killed from outside.
    """

    state: State
    fields: dict[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    waits_for: int = 0
    needs: int = 0
    kills: int = 0
    wait_reason: str | None = None


async def ending_of(
    attempt: Attempt, job_timeout: float, is_stopping: Callable[[], bool], kills: int = 0
) -> Ending:
    """Run an attempt and return what happens to its task. Raises nothing.

    `job_timeout`, in seconds, is only for the message. `is_stopping` returns whether the server is
    shutting down: then an error is not the task's failure. `kills` is how many earlier attempts
    ended because their process was killed from outside.
    """
    error: ServiceError
    try:
        return _completed(attempt.task, await attempt.perform())
    except (SpaceLacks, Outgrown) as lack:
        return _ending_of_lack(attempt, lack)
    except AttemptStopped:
        error = ServiceError(
            ErrorCode.TOO_LARGE,
            f"The task took more than {format_duration(job_timeout)}.",
            "Send a shorter or smaller video.",
        )
    except ServiceError as refused:
        error = refused
    except Exception as fault:
        return _ending_of_fault(attempt, fault, is_stopping, kills)
    if attempt.stop_reason in (StopReason.CANCELLED, StopReason.STOPPING) or is_stopping():
        # A shutdown can reach FFmpeg directly (systemd signals all processes): whatever error
        # that caused is not the task's failure.
        return _interrupted(attempt)
    return _failed(attempt, error)


def _completed(task: Task, outcome: Outcome) -> Ending:
    log.info(
        "task {task_id} completed: {size} bytes", task_id=task.task_id, size=outcome.output_size
    )
    return Ending(
        State.COMPLETED, {name: getattr(outcome, name) for name in outcome.__struct_fields__}
    )


def _ending_of_lack(attempt: Attempt, lack: SpaceLacks | Outgrown) -> Ending:
    """Return what happens to a task that lacks space, which is not a failure."""
    task_id = attempt.task.task_id
    if attempt.stop_reason is not None:
        return _interrupted(attempt)
    if isinstance(lack, Outgrown):
        log.info("task {task_id}: {outgrown}", task_id=task_id, outgrown=str(lack))
        return Ending(State.QUEUED, needs=2 * max(lack.reserved, 1 << 20))
    size = format_size(lack.size)
    log.info("task {task_id} waits for {size} of free space", task_id=task_id, size=size)
    reason = f"The task needs {size} of storage, which is not free now."
    return Ending(State.QUEUED, waits_for=lack.size, wait_reason=reason)


def _ending_of_fault(
    attempt: Attempt, fault: Exception, is_stopping: Callable[[], bool], kills: int
) -> Ending:
    """Return what happens to a task after an error that its file did not cause.

    Call it while that exception is being handled.
    """
    task = attempt.task
    if attempt.stop_reason is not None or is_stopping():
        return _interrupted(attempt)
    if is_shortage(fault):
        log.warn(
            "task {task_id} goes back to the queue: {fault}",
            task_id=task.task_id,
            fault=str(fault),
        )
        return Ending(
            State.QUEUED,
            delay=SHORTAGE_DELAY,
            wait_reason="The server is short of processes, open files or memory.",
        )
    kind = fault.kind if isinstance(fault, CommandFailed) else None
    if kind is FailureKind.KILLED:
        return _ending_of_kill(attempt, kills + 1)
    failures = task.failures + 1
    if kind is FailureKind.OOM_KILLED:
        # The one that the kernel chose need not be the one that took too much.
        error = too_much_memory()
        reason = "The server ran out of memory during an attempt. The task will be retried."
    else:
        error = fault_with_reference("task {task_id}: an attempt failed", task)
        reason = "An attempt failed because of an internal error. The task will be retried."
    if failures < MAX_FAILURES:
        return Ending(
            State.QUEUED,
            {"failures": failures},
            delay=RETRY_DELAY * failures,
            wait_reason=reason,
        )
    return _failed(attempt, error)


def _ending_of_kill(attempt: Attempt, kills: int) -> Ending:
    """Return what happens to a task whose process was killed for the `kills`th time.

    Someone on the machine did it, or a guard against low memory: the task is not to blame.
    """
    if kills < MAX_KILLS:
        return Ending(
            State.QUEUED,
            delay=min(LONGEST_KILL_DELAY, KILL_DELAY * 2 ** (kills - 1)),
            kills=kills,
            wait_reason="Something on the machine killed FFmpeg. The task will be retried.",
        )
    error = ServiceError(
        ErrorCode.INTERNAL,
        f"Something on the server's machine killed FFmpeg {kills} times during this task.",
        "Tell the server's operator. It may be a guard against low memory.",
    )
    return _failed(attempt, error)


def _failed(attempt: Attempt, error: ServiceError) -> Ending:
    failure = failure_of(error)
    log.info(
        "task {task_id} failed: {code} {description}",
        task_id=attempt.task.task_id,
        code=failure.code,
        description=failure.description,
    )
    seen = {"input": attempt.input, "warnings": attempt.warnings}
    return Ending(State.FAILED, {"failure": failure, **seen})


def _interrupted(attempt: Attempt) -> Ending:
    if attempt.stop_reason == StopReason.CANCELLED:
        return Ending(State.CANCELLED)
    return Ending(State.QUEUED)


def failure_of(error: ServiceError) -> Failure:
    """Return an error as a task's record keeps it."""
    return Failure(code=int(error.code), description=error.description, solution=error.solution)


def fault_with_reference(what: str, task: Task) -> ServiceError:
    """Log the exception being handled under a reference; return the error for the client.

    `what` may name ``{task_id}``.
    """
    reference = task.request_id or new_request_id()
    log.failure(
        what + " (fault {reference})",
        task_id=task.task_id,
        reference=reference,
        request_id=task.request_id,
    )
    return ServiceError(
        ErrorCode.INTERNAL,
        f"The server failed at this task (reference {reference}).",
        "Try again later; if it happens again, tell the server's operator the reference.",
    )
