"""The settings of an operator, and the sender of a request. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from vidproc.tasks.model import Task


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of the task service; docs/deployment.md describes each option."""

    retention: float = 24 * 3600.0
    min_retention: float = 3600.0
    tasks_per_ip: int = 1
    tasks_per_token: int | None = None
    """If set, a request with a token takes a slot of its token, not of its address."""
    cpu_reserve: int = 60
    max_concurrent: int | None = None
    queue_size: int = 100
    max_upload: int = 64 << 30
    job_timeout: float = 6 * 3600.0
    upload_retention: float = 24 * 3600.0
    owner_only: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: its address as slots count it, and the name of its token, if any."""

    peer: str
    principal: str | None = None

    def owns(self, task: Task, owner_only: bool) -> bool:
        """Return whether this caller, who knows the id of `task`, may access it."""
        if not owner_only:
            return True
        if task.principal is not None:
            return task.principal == self.principal
        return task.peer == self.peer
