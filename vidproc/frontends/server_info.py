"""Facts about the server for frontends, besides the operations."""

from __future__ import annotations

from dataclasses import dataclass

from vidproc.answers import WorkerReport
from vidproc.configuration import Held
from vidproc.tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server as it is now: its limits, its FFmpeg, the sandbox's layers, its load."""

    settings: Settings
    ffmpeg_version: str
    sandbox: tuple[str, ...]
    queued: int
    running: int
    concurrency: int
    held: tuple[Held, ...] = ()
    """The options that clients may know of: their values, and where these come from."""
    workers: tuple[WorkerReport, ...] | None = None
    """The workers of its cluster, None without a cluster."""
