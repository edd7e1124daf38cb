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
    """Everything that is counted, in Prometheus' text format."""
    secret: Callable[[str], bytes] = lambda _: secrets.token_bytes(KEY_SIZE)
    """Returns a key that the data folder keeps under a name. Blocks; for the start."""


class Frontend(Protocol):
    """One protocol that clients speak. Made at the start by the function that
    `vidproc.frontends.registry` names.

    It passes each connection through the gate (`Gate.connected`, `met`, `disconnected`), which
    drains and aborts them at a stop; so a frontend has to end by itself only what is no connection.
    """

    factory: IProtocolFactory
    """Serves the frontend's ports."""

    def start(self) -> None:
        """Begin; called before the first connection."""
        ...

    def reload(self) -> None:
        """Read again what may have changed on the disk. Raises `OSError` or `ValueError` with a
        sentence that says what is wrong; everything stays as it was then."""
        ...

    def stop(self) -> Deferred[None] | None:
        """End what is no connection; called when the last connection has ended."""
        ...
