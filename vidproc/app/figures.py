"""The figures of the last ten minutes."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime

from vidproc.answers import FigurePoint, ServerFigures
from vidproc.app.measuring import Figures
from vidproc.files.space import Space
from vidproc.frontends.gate import Gate
from vidproc.tasks.facade import Tasks
from vidproc.units import iso_utc

KEPT = 600.0
"""Seconds for which figures are kept."""


class RecentFigures:
    """Keeps the server's figures, one point every `interval` seconds."""

    def __init__(
        self, clock: IReactorTime, tasks: Tasks, gate: Gate, space: Space, interval: float
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._gate = gate
        self._space = space
        self._interval = interval
        self._started_at = clock.seconds()
        self._points: deque[FigurePoint] = deque(maxlen=round(KEPT / interval))

    def note(self, figures: Figures) -> FigurePoint:
        """Add a point: what was measured since the last one, and the current state. Return it."""
        queue, space = self._tasks.queue, self._space
        point = FigurePoint(
            at=iso_utc(self._clock.seconds()) or "",
            cpu_ffmpeg=round(figures.ffmpeg_cpu, 4),
            cpu_service=round(figures.service_cpu, 4),
            cpu_other=round(figures.other_cpu, 4),
            memory_service=figures.service_memory,
            memory_ffmpeg=figures.ffmpeg_memory,
            memory_available=figures.available_memory,
            disk_used=space.used,
            disk_reserved=space.reserved,
            disk_free=space.free(),
            packets_in=round(figures.packets_in, 1),
            bytes_in=round(figures.bytes_in, 1),
            bytes_out=round(figures.bytes_out, 1),
            connections=self._gate.connections,
            peers=self._gate.peers,
            uploads=self._tasks.uploads.active,
            watches=len(queue.watches),
            queued=queue.queued,
            running=queue.running,
            concurrency=queue.concurrency,
        )
        self._points.append(point)
        return point

    @property
    def last(self) -> FigurePoint | None:
        """The newest point, None if there is none yet."""
        return self._points[-1] if self._points else None

    def answer(self) -> ServerFigures:
        """Return all points, oldest first."""
        uptime = self._clock.seconds() - self._started_at
        return ServerFigures(
            interval=self._interval,
            uptime=round(uptime, 1),
            points=list(self._points),
            cpu_reserve=self._tasks.settings.cpu_reserve / 100,
            disk_limit=self._space.capacity(),
        )


def in_mebibytes(point: FigurePoint) -> dict[str, Any]:
    """Return a point's fields, with bytes converted to MiB."""
    fields = msgspec.structs.asdict(point)
    for name in fields:
        if name.startswith(("memory_", "disk_")):
            fields[name] = fields[name] / (1 << 20)
    return fields
