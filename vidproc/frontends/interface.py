"""The interface of frontends, and what they get from the server."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IReactorTime

from vidproc.answers import ServerFigures
from vidproc.files.keys import KEY_SIZE
from vidproc.files.threads import WorkerThreads
from vidproc.frontends.gate import Gate
from vidproc.frontends.server_info import ServerInfo
from vidproc.tasks.facade import Tasks


@dataclass(frozen=True, slots=True)
class Backend:
    """What a frontend gets: the gate, the tasks, threads for files, and facts about the server."""

    reactor: IReactorTime
    gate: Gate
    tasks: Tasks
    disk: WorkerThreads
    server_info: Callable[[], ServerInfo]
    figures: Callable[[], ServerFigures] = lambda: ServerFigures(interval=10, uptime=0, points=[])
    """The figures of the last ten minutes."""
    metrics: Callable[[], bytes] = lambda: b""
    """The metrics, in Prometheus' text format."""
    secret: Callable[[str], bytes] = lambda _: secrets.token_bytes(KEY_SIZE)
    """Returns a secret key that the data folder keeps under a name. Blocks; for startup."""


class Frontend(Protocol):
    """One protocol that clients speak. The function that `vidproc.frontends.registry` names
    makes it at startup.

    Each connection passes the gate, which drains and aborts them at a shutdown. So a frontend
    itself has to end only what is not a connection.
    """

    factory: IProtocolFactory
    """Serves the frontend's ports."""

    def start(self) -> None:
        """Start; called before the first connection."""
        ...

    def reload(self) -> None:
        """Read files again that may have changed. Raises `OSError` or `ValueError` with a sentence
        that says what is wrong; then nothing changes."""
        ...

    def stop(self) -> Deferred[None] | None:
        """End what is not a connection; called when the last connection has ended."""
        ...
