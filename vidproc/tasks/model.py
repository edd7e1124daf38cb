"""A task: its states, the transitions between them, and its record."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Any

import msgspec


class State(StrEnum):
    """The state of a task. To clients, `UPLOADING` and `PARTIAL` are not tasks yet.

    `PARTIAL` is an interrupted resumable upload. It holds no slot.
    """

    UPLOADING = "uploading"
    PARTIAL = "partial"
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ACTIVE = frozenset({State.UPLOADING, State.QUEUED, State.PROCESSING})
"""States that hold a slot of the task's address."""

TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.UPLOADING: frozenset({State.QUEUED, State.PARTIAL}),
    State.PARTIAL: frozenset({State.UPLOADING}),
    State.QUEUED: frozenset({State.PROCESSING, State.FAILED, State.CANCELLED}),
    # Back to QUEUED: the attempt was interrupted (a stop, a crash), or failed and may be retried.
    State.PROCESSING: frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.COMPLETED: frozenset({State.EXPIRED}),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}


class InvalidTransition(Exception):
    """A transition that `TRANSITIONS` does not allow: a bug, or a lost race (a cancel against the
    end of an encode)."""

    def __init__(self, task_id: str, current: State, wanted: State) -> None:
        super().__init__(f"task {task_id} is {current} and can't become {wanted}")
        self.task_id = task_id
        self.current = current
        self.wanted = wanted


def new_task_id() -> str:
    """Return a new task id: 128 random bits in hexadecimal, for it grants access to the task."""
    return secrets.token_hex(16)


class Failure(msgspec.Struct, kw_only=True, frozen=True):
    """Why a task failed: an error as in docs/mmp.md."""

    code: int
    description: str
    solution: str


class Task(msgspec.Struct, kw_only=True):
    """One task's record, as it is in the store. Times are seconds since the epoch, sizes bytes.

    `parked_at` is when a resumable upload broke off, with `received` bytes, `synced` of which
    survive a power cut. While bytes arrive that still have to fit a checksum, only the first
    `verified` ones count as received. `announced_at` is when an upload was created before its first
    byte, `upload_metadata` what its client sent to have it returned later. The `input_size` of an
    upload is 0 until its length is known.
    Keys name files relative to the data folder. `owner` is the server that works on the task until
    `lease_until`. `attempt` counts the attempts, the last of which began at `attempt_at`;
    `failures` counts those that ended in an error, `crashes` those during which the server crashed,
    and `crashes_alone` those of them during which nothing else ran. No attempt begins before
    `not_before`. `request_id` is the id of the request that completed the upload, for the logs.
    """

    task_id: str
    type: str
    parameters: dict[str, Any]
    peer: str
    principal: str | None = None
    state: State = State.UPLOADING
    media_type: str = ""
    filename: str | None = None
    created_at: float
    queued_at: float | None = None
    started_at: float | None = None
    completed_at: float | None = None
    input_key: str | None = None
    input_size: int = 0
    upload_id: str | None = None
    parked_at: float | None = None
    announced_at: float | None = None
    upload_metadata: str | None = None
    received: int = 0
    synced: int | None = None
    verified: int | None = None
    upload_sha256: str | None = None
    output_key: str | None = None
    output_type: str | None = None
    output_size: int | None = None
    output_sha256: str | None = None
    downloaded_at: float | None = None
    input: dict[str, Any] = {}
    output: dict[str, Any] = {}
    warnings: list[str] = []
    failure: Failure | None = None
    owner: str | None = None
    lease_until: float | None = None
    attempt: int = 0
    attempt_at: float | None = None
    failures: int = 0
    crashes: int = 0
    crashes_alone: int = 0
    not_before: float | None = None
    request_id: str | None = None
