"""``client.log``: the details of each run."""

from __future__ import annotations

import json
import logging
import logging.handlers
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from zope.interface import provider


class Log(Protocol):
    """The methods of `logging.Logger` that are used here."""

    def info(self, message: str, *args: object) -> None:
        """Log an event."""

    def warning(self, message: str, *args: object) -> None:
        """Log a problem."""

    def error(self, message: str, *args: object) -> None:
        """Log a fault."""


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


class _JSONFormatter(logging.Formatter):
    """A JSON object per event: `time`, `level`, `message`."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        return json.dumps({"time": _time(record), "level": level, "message": record.getMessage()})


class _LineFormatter(logging.Formatter):
    """One line per event: UTC time, level, text; control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        line = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )
        return f"{_time(record)} {record.levelname.lower()} {line}"


class _QuietHandler(logging.handlers.RotatingFileHandler):
    """A file handler that ignores write errors: a missing log must not disturb the user."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a full disk and the like."""


def open_log(folder: Path, form: str = "text") -> tuple[logging.Logger, str | None]:
    """Return the logger of this run, and a warning if it cannot write to `folder`/client.log.

    The file is rotated at 5 MiB; three old ones are kept. `form` is ``text`` or ``json``.
    """
    log = logging.Logger("vidproc.client", logging.INFO)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = _QuietHandler(
            folder / "client.log",
            maxBytes=5 << 20,
            backupCount=3,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except (OSError, ValueError) as error:
        log.addHandler(logging.NullHandler())
        reason = getattr(error, "strerror", None) or error
        return log, f"Warning: no log is kept because {folder} cannot be written to ({reason})"
    handler.setFormatter(_JSONFormatter() if form == "json" else _LineFormatter())
    log.addHandler(handler)
    return log, None


def route_twisted_log(log: logging.Logger) -> None:
    """Send Twisted's error messages to the log, never to the terminal."""

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.critical, LogLevel.error):
            failure = event.get("log_failure")
            text = failure.getTraceback() if failure is not None else ""
            log.error("%s %s", formatEvent(event), text)

    globalLogBeginner.beginLoggingTo([observe], redirectStandardIO=False, discardBuffer=True)
