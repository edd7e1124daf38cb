"""What every frontend answers, as types: a task's status, an accepted upload, the server itself.

Times are ISO 8601 in UTC, durations seconds, sizes bytes. `vidproc.frontends.reports` fills the
types in.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

RequestId = (
    Annotated[str, msgspec.Meta(max_length=64)]
    | Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
    | None
)


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What every answer may carry: MMP repeats the request's `id`. It is left out elsewhere, and
    when the request had none."""

    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class StatusReport(Answer, kw_only=True, omit_defaults=False):
    """How a task stands. Times are ISO 8601 in UTC; `progress` is 0 to 1; `eta` is in seconds.

    All keys are always there, null when there is nothing to tell; only `id` and `wait_reason` are
    left out then.
    """

    status: str
    task_id: str
    type: str
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    stage: str | None
    progress: float
    eta: float | None
    queue_position: int | None
    error: str | None
    error_code: int | None
    solution: str | None
    warning_count: int
    speed: float | None = None
    wait_reason: str | msgspec.UnsetType = msgspec.UNSET


class StatusDetail(StatusReport, kw_only=True, omit_defaults=False):
    """The long form: what came in, what went out, and what changed on the way."""

    parameters: dict[str, Any]
    input: dict[str, Any]
    output: dict[str, Any]
    warnings: list[str]


class Accepted(Answer, kw_only=True):
    """The upload is on disk and the task in the store: whatever crashes now, it will be done."""

    status: str
    task_id: str
    message: str = ""


class Cancelled(Answer, kw_only=True):
    """What a cancel did: `status` is ``cancelled``, or the status that a finished task keeps."""

    status: str
    message: str = ""


class TaskList(Answer, kw_only=True):
    """The token's own tasks, newest first, each in the short form of its status.

    It is as long as they need: 100 of them fit MMP's JSON, but no single packet.
    """

    status: str
    tasks: list[StatusReport]


class Limits(msgspec.Struct, kw_only=True):
    """The server's limits: bytes, tasks and seconds."""

    max_upload: int
    tasks_per_ip: int
    queue_size: int
    retention: float
    job_timeout: float


class Load(msgspec.Struct, kw_only=True):
    """Tasks that wait, tasks that run, and how many may run at a time."""

    queued: int
    running: int
    concurrency: int


class SettingReport(msgspec.Struct, kw_only=True):
    """A setting of the server as its operator would write it, null when it is not set.

    `source` is where the value comes from: option, variable, file or default.
    """

    value: str | None
    source: str


class ServerDescription(Answer, kw_only=True):
    """The server: version, limits and operations.

    `operations` has each operation's parameters: their names, or in the long form the JSON schema
    of each one with its type, range and default, a `description`, and its `unit` if it has one. A
    parameter without a default is required. `settings` are the server's limits as its operator has
    set them; paths, ports and commands are not among them.
    """

    status: str
    version: str
    protocol: str
    actions: list[str]
    limits: Limits
    operations: dict[str, list[str] | dict[str, Any]]
    ffmpeg: str | msgspec.UnsetType = msgspec.UNSET
    sandbox: list[str] | msgspec.UnsetType = msgspec.UNSET
    load: Load | msgspec.UnsetType = msgspec.UNSET
    settings: dict[str, SettingReport] | msgspec.UnsetType = msgspec.UNSET


class FigurePoint(msgspec.Struct, kw_only=True, frozen=True):
    """The server at one moment, and since the moment before.

    CPU as shares of all cores that the server may use, 0 to 1; memory and disk in bytes; packets
    and bytes a second.
    """

    at: str
    cpu_ffmpeg: float
    cpu_service: float
    cpu_other: float
    memory_service: int
    memory_ffmpeg: int
    memory_available: int
    disk_used: int
    disk_reserved: int
    disk_free: int
    packets_in: float
    bytes_in: float
    bytes_out: float
    connections: int
    peers: int
    uploads: int
    watches: int
    queued: int
    running: int
    concurrency: int


class ServerFigures(msgspec.Struct, kw_only=True):
    """The figures of the last ten minutes: a point each `interval` seconds, oldest first.

    `uptime` is in seconds. `cpu_reserve` is the least share of the CPU that video gets while tasks
    run, 0 to 1. `disk_limit` is how many bytes the data folder can hold: its limit, or less on a
    smaller disk.
    """

    interval: float
    uptime: float
    points: list[FigurePoint]
    cpu_reserve: float = 0.0
    disk_limit: int = 0
