"""The checked options of the command line, and the error for wrong ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidproc.configuration import Held

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 9999


@dataclass(frozen=True, slots=True)
class Film:
    """One video of a batch, and where its result goes: `folder`/`stem`.KIND.

    `problem` says why it cannot be sent; empty if it can.
    """

    path: Path
    folder: Path
    stem: str
    problem: str = ""


class UsageError(Exception):
    """The command line is wrong; `lines` say why, and how to correct it."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True, kw_only=True)
class Options:
    """The checked options. Times are in seconds."""

    action: str
    """``process``, ``batch``, ``list``, ``info``, or what to do with a task: ``status``, ``watch``,
    ``download`` or ``cancel``."""
    task_id: str = ""
    input: Path | None = None
    type: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    output: Path | None = None
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    check_interval: float = 60.0
    max_wait_time: float = 3600.0
    detach: bool = False
    force: bool = False
    skip_existing: bool = False
    films: tuple[Film, ...] = ()
    insecure: bool = False
    tls: bool = False
    ca: Path | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    log_dir: Path = Path("logs")
    log_format: str = "text"
    held: tuple[Held, ...] = ()
    """The client's settings and where they come from, for `--server-info`."""
