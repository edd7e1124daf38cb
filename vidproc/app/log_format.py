"""A log event as a line: text for people, or JSON for programs (`--log-format`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

from twisted.logger import LogEvent, LogLevel, formatEvent

from vidproc.text import escape

_OLD_FIELDS = ("message", "time", "system", "format", "isError", "why", "failure")
"""What `twisted.python.log` adds to each event."""
LineFormat = Callable[[LogEvent], str]
"""Returns an event as one line without its end."""


def text_line(event: LogEvent) -> str:
    """Return an event as time, level, text, and the request that it is about."""
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        text = f"{text}: {failure.getTraceback()}"
    request_id = event.get("request_id")
    end = f" request={request_id}" if request_id else ""
    return f"{_time(event)} {_level(event).upper()} {escape(text)}{end}"


def json_line(event: LogEvent) -> str:
    """Return an event as a JSON object: `time`, `level`, `topic`, `message`, `request_id`, the
    `traceback` of a failure, and under `fields` the values that the message is made of."""
    line: dict[str, object] = {"time": _time(event), "level": _level(event)}
    if topic := event.get("topic"):
        line["topic"] = str(topic)
    line["message"] = formatEvent(event)
    if request_id := event.get("request_id"):
        line["request_id"] = request_id
    failure = event.get("log_failure")
    if failure is not None:
        line["traceback"] = failure.getTraceback()
    fields = {
        name: value if isinstance(value, bool | int | float | str | None) else str(value)
        for name, value in event.items()
        if not name.startswith("log_") and name not in _OUTSIDE_FIELDS
    }
    if fields:
        line["fields"] = fields
    return json.dumps(line, allow_nan=True)


_OUTSIDE_FIELDS = frozenset(("topic", "request_id", *_OLD_FIELDS))

FORMATS: dict[str, LineFormat] = {"text": text_line, "json": json_line}


def _time(event: LogEvent) -> str:
    time = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    level = event.get("log_level", LogLevel.info)
    return str(level.name)
