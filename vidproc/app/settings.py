"""How the server is set up, and how its options say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidproc.cluster.security import ClusterOptions
from vidproc.configuration import Held
from vidproc.frontends.tokens import Tokens
from vidproc.tasks.settings import Settings

if TYPE_CHECKING:
    from twisted.python.usage import Options


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the options say. Sizes in bytes, times in seconds, paths absolute."""

    endpoints: Mapping[str, Sequence[str]]
    """Twisted endpoint descriptions, by the name of the frontend that serves them."""
    frontend_options: Mapping[str, Mapping[str, Sequence[object]]] = field(
        default_factory=dict, kw_only=True
    )
    """Values of the options that only one frontend has, by its name and then by their names."""
    data_dir: Path
    log_dir: Path | None
    """None: standard output."""
    storage_limit: int
    settings: Settings = field(default_factory=Settings)
    log_format: str = "text"
    grace: float = 30.0
    idle_timeout: float = 60.0
    max_connections: int = 4096
    max_connections_per_ip: int = 64
    ffmpeg: str | None = None
    sandbox: str = "auto"
    tokens: Tokens = field(default_factory=Tokens)
    on_done: Sequence[str] | None = None
    """The command to run for each task that ends, in words."""
    held: Sequence[Held] = ()
    """Every option's value as text, and where it comes from."""
    cluster: ClusterOptions | None = None
    """Where the cluster is, None without one."""
    twistd: Mapping[str, Any] | None = None
    """twistd's own options, when twistd runs it."""

    @property
    def pid_file(self) -> Path | None:
        """twistd's pid file, if it writes one."""
        name = None if self.twistd is None else self.twistd.get("pidfile")
        return Path(name) if name else None


def config_from(options: Options, held: Sequence[Held] = ()) -> Config:
    """Return what the parsed options of `twistd vidproc` say; `held` says where each is from."""
    settings = Settings(
        retention=options["retention"],
        min_retention=options["min-retention"],
        tasks_per_ip=options["tasks-per-ip"],
        tasks_per_token=options["tasks-per-token"],
        cpu_reserve=options["cpu-reserve"],
        max_concurrent=options["max-concurrent"],
        queue_size=options["queue-size"],
        max_upload=options["max-upload"],
        job_timeout=options["job-timeout"],
        upload_retention=options["upload-retention"],
        owner_only=bool(options["owner-only"]),
    )
    return Config(
        endpoints=options["endpoints"],
        frontend_options=options["frontend-options"],
        data_dir=options["data-dir"],
        log_dir=options["log-dir"],
        log_format=options["log-format"],
        storage_limit=options["storage-limit"],
        settings=settings,
        grace=options["grace"],
        idle_timeout=options["idle-timeout"],
        max_connections=options["max-connections"],
        max_connections_per_ip=options["max-connections-per-ip"],
        ffmpeg=options["ffmpeg"],
        sandbox=options["sandbox"],
        tokens=options["tokens"],
        on_done=options["on-done"],
        held=tuple(held),
        cluster=options["cluster"],
        twistd=options.parent,
    )
