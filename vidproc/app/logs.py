"""Log files by topic: one line an event, times in UTC, rotated.

The topic is the one that a logger names (`vidproc.topics`). What a client sent is a field, and
control characters in it are escaped: a line of a log is always an event.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.logfile import LogFile
from zope.interface import provider

from vidproc.app.line_budget import LineBudget
from vidproc.app.private_files import rotated, tighten
from vidproc.text import escape
from vidproc.topics import Topic

ROTATE_AT = 10 << 20
"""Bytes at which a log file is rotated."""
KEPT = 9
"""Rotated files that are kept of each."""
PRIVATE = 0o600
CONNECTION_LINES = 600
"""Lines a minute about connections; a flood of strangers must not rotate the rest away."""

_FILE_OF = {
    Topic.SERVICE: "server.log",
    Topic.CONNECTIONS: "server.log",
    Topic.UPLOADS: "server.log",
    Topic.TASKS: "video_processor.log",
    Topic.MEDIA: "video_processor.log",
    Topic.PERFORMANCE: "performance.log",
}
FILES = tuple(dict.fromkeys(_FILE_OF.values()))


def format_line(event: LogEvent) -> str:
    """Return an event as one line without its end."""
    time = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    level = event.get("log_level", LogLevel.info)
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        text = f"{text}: {failure.getTraceback()}"
    stamp = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{stamp} {level.name.upper()} {escape(text)}"


def bounded_file(path: Path, rotate_at: int = ROTATE_AT, kept: int = KEPT) -> LogFile:
    """Return a log file that is rotated and for the server's user alone. Raises `OSError`."""
    file = LogFile(
        path.name,
        str(path.parent),
        defaultMode=PRIVATE,
        rotateLength=rotate_at,
        maxRotatedFiles=kept,
    )
    tighten(rotated(path))
    return file


def file_observer(
    folder: Path, name: str, select: Callable[[LogEvent], LogEvent | None]
) -> tuple[ILogObserver, LogFile]:
    """Return an observer that writes what `select` leaves of events to a file, and the file."""
    file = bounded_file(folder / name)

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        selected = select(event)
        if selected is not None:
            file.write(format_line(selected) + "\n")
            file.flush()

    return observe, file


def file_of(event: LogEvent) -> str | None:
    """Return the name of the file that an event belongs to, None for none."""
    topic = event.get("topic")
    if isinstance(topic, Topic):
        return _FILE_OF[topic]
    # What goes wrong elsewhere, in Twisted itself for one, is the server's matter.
    level = event.get("log_level")
    return "server.log" if level is not None and level >= LogLevel.warn else None


class TopicLogs:
    """The server's log files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: list[tuple[ILogObserver, LogFile]] = []

    def start(self) -> None:
        """Open the files and begin to write. Raises `OSError`."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        budget = LineBudget(CONNECTION_LINES)
        for name in FILES:

            def select(event: LogEvent, name: str = name) -> LogEvent | None:
                if event.get("log_level") is LogLevel.debug or file_of(event) != name:
                    return None
                return budget.take(event) if event.get("topic") is Topic.CONNECTIONS else event

            observer, file = file_observer(self._folder, name, select)
            self._open.append((observer, file))
            globalLogPublisher.addObserver(observer)

    def stop(self) -> None:
        """Write no more and close the files."""
        for observer, file in self._open:
            globalLogPublisher.removeObserver(observer)
            file.close()
        self._open = []
