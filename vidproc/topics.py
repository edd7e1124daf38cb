"""Loggers that name a topic; `vidproc.app.logs` decides where each topic goes."""

from __future__ import annotations

from enum import StrEnum

from twisted.logger import ILogObserver, Logger, LogLevel

from vidproc.request_id import current_request_id


class Topic(StrEnum):
    """The topic of a log line."""

    SERVICE = "service"
    """Starts, stops, and other things that an operator must know about the server."""
    CONNECTIONS = "connections"
    """Refused, idle and broken connections. Strangers can cause these lines."""
    UPLOADS = "uploads"
    TASKS = "tasks"
    MEDIA = "media"
    """The processes that run FFmpeg and the probe."""
    PERFORMANCE = "performance"
    """Measurements, and the decisions based on them."""


class TopicLogger(Logger):
    """A `Logger` that sets the fields ``topic`` and, within a request, ``request_id``."""

    def __init__(
        self,
        topic: Topic,
        namespace: str | None = None,
        source: object | None = None,
        observer: ILogObserver | None = None,
    ) -> None:
        super().__init__(namespace, source, observer)
        self.topic = topic

    def __get__(self, instance: object, owner: type | None = None) -> TopicLogger:
        assert owner is not None
        return type(self)(
            self.topic,
            f"{owner.__module__}.{owner.__name__}",
            owner if instance is None else instance,
            self.observer,
        )

    def emit(self, level: LogLevel, format: str | None = None, **fields: object) -> None:
        """Emit an event; `level` is a constant of `LogLevel`."""
        fields.setdefault("request_id", current_request_id())
        super().emit(level, format, topic=self.topic, **fields)
