"""What calls take and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Status:
    """A task as the server sees it. `progress` is 0 to 1, `eta` is in seconds.

    `status` is ``queued``, ``processing``, ``completed``, ``failed``, ``cancelled`` or ``expired``;
    `raw` is the whole answer.
    """

    task_id: str
    status: str
    type: str
    stage: str | None
    progress: float
    eta: float | None
    queue_position: int | None
    error: str | None
    error_code: int | None
    solution: str | None
    warnings: tuple[str, ...]
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether this is the task's last status."""
        return self.status in ("completed", "failed", "cancelled", "expired")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Status:
        """Return the status in an answer's JSON."""
        return cls(
            task_id=str(fields.get("task_id", "")),
            status=str(fields.get("status", "")),
            type=str(fields.get("type", "")),
            stage=fields.get("stage"),
            progress=float(fields.get("progress") or 0.0),
            eta=fields.get("eta"),
            queue_position=fields.get("queue_position"),
            error=fields.get("error"),
            error_code=fields.get("error_code"),
            solution=fields.get("solution"),
            warnings=tuple(fields.get("warnings") or ()),
            input=fields.get("input") or {},
            output=fields.get("output") or {},
            raw=fields,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is. `fraction` is that of this step, 0 to 1; `eta` is in seconds or None.

    `step` is ``uploading``, ``waiting`` (for a slot or in the queue), ``processing`` or
    ``downloading``; `detail` says more, such as the stage of the processing.
    """

    step: str
    fraction: float
    detail: str = ""
    eta: float | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished file, and the status of the task that it came from. `size` is in bytes."""

    path: Path
    size: int
    sha256: str
    status: Status

    @property
    def warnings(self) -> tuple[str, ...]:
        """What had to be changed or dropped, as sentences."""
        return self.status.warnings
