"""``client.log``: the details of each run."""

from __future__ import annotations

import logging
import logging.handlers
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from zope.interface import provider


class Log(Protocol):
    """The part of `logging.Logger` that is used here."""

    def info(self, message: str, *args: object) -> None:
        """Note an event."""

    def warning(self, message: str, *args: object) -> None:
        """Note an event that is not as it should be."""

    def error(self, message: str, *args: object) -> None:
        """Note a fault."""


class _LineFormatter(logging.Formatter):
    """One line an event: UTC time, level, text; control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        text = record.getMessage()
        line = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )
        return f"{moment.replace('+00:00', 'Z')} {record.levelname.lower()} {line}"


class _QuietHandler(logging.handlers.RotatingFileHandler):
    """A log that can't be written is a pity, not a reason to disturb."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a full disk and the like."""


def open_log(folder: Path) -> tuple[logging.Logger, str | None]:
    """Return the logger of this run, and a warning when it can't write to `folder`/client.log.

    The file is rotated at 5 MiB; three old ones are kept.
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
        return log, f"Warning: no log is kept, {folder} can't be written to ({reason})"
    handler.setFormatter(_LineFormatter())
    log.addHandler(handler)
    return log, None


def route_twisted_log(log: logging.Logger) -> None:
    """Bring what Twisted has to complain about into the log, never to the terminal."""

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.critical, LogLevel.error):
            failure = event.get("log_failure")
            text = failure.getTraceback() if failure is not None else ""
            log.error("%s %s", formatEvent(event), text)

    globalLogBeginner.beginLoggingTo([observe], redirectStandardIO=False, discardBuffer=True)
