"""The types of all frontends' answers: a task's status, an accepted upload, the server itself.

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
    """The base of all answers. MMP repeats the request's `id`; it is omitted elsewhere, and if the
    request had none."""

    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class StatusReport(Answer, kw_only=True, omit_defaults=False):
    """A task's status. Times are ISO 8601 in UTC; `progress` is 0 to 1; `eta` is in seconds.

    All keys are always present, with null for no value, except that `id` and `wait_reason` are
    omitted then.
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
    """The long form, with facts about input and output, and warnings."""

    parameters: dict[str, Any]
    input: dict[str, Any]
    output: dict[str, Any]
    warnings: list[str]


class Accepted(Answer, kw_only=True):
    """The upload is on the disk and the task in the store, so it survives any crash."""

    status: str
    task_id: str
    message: str = ""


class Cancelled(Answer, kw_only=True):
    """The outcome of a cancel: `status` is ``cancelled``, or that of a task that had ended."""

    status: str
    message: str = ""


class TaskList(Answer, kw_only=True):
    """The token's own tasks, newest first, each in the short form of its status.

    A hundred tasks fit MMP's JSON, but not a single packet.
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
    """The numbers of waiting and running tasks, and how many may run at a time."""

    queued: int
    running: int
    concurrency: int


class WorkerReport(msgspec.Struct, kw_only=True, frozen=True):
    """A worker of the server's cluster. Memory in bytes.

    `running` has the stage of each command that runs there. `refused` says why it gets no commands,
    null if it gets some.
    """

    name: str
    host: str
    cores: int
    free_cores: int
    memory: int
    ffmpeg: str
    sandbox: list[str]
    running: list[str]
    completed: int
    refused: str | None


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
    `workers_left_out` is how many workers an answer over MMP has no room for.
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
    workers: list[WorkerReport] | msgspec.UnsetType = msgspec.UNSET
    workers_left_out: int | msgspec.UnsetType = msgspec.UNSET
    settings: dict[str, SettingReport] | msgspec.UnsetType = msgspec.UNSET


class FigurePoint(msgspec.Struct, kw_only=True, frozen=True):
    """The server's state at one moment, and what happened since the point before.

    CPU use is a share of all usable cores, 0 to 1. Memory and disk are in bytes, packets and
    traffic per second.
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
    """The figures of the last ten minutes: a point every `interval` seconds, oldest first.

    `uptime` is in seconds. `cpu_reserve` is the share of the CPU, 0 to 1, that video gets at least
    while tasks run. `disk_limit` is how many bytes the data folder can hold: its limit, or less if
    the disk is smaller.
    """

    interval: float
    uptime: float
    points: list[FigurePoint]
    cpu_reserve: float = 0.0
    disk_limit: int = 0
