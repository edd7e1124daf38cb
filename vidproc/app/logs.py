"""Log files by topic: one line an event, times in UTC, rotated.

The topic follows from the logger's namespace, which is the module: connections, uploads, start and
stop go to server.log, tasks and FFmpeg to video_processor.log, figures and decisions to
performance.log. What a client sent is a field, and control characters in it are escaped: a line of
a log is always an event.
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

from vidproc.text import escape

ROTATE_AT = 10 << 20
"""Bytes at which a log file is rotated."""
KEPT = 9
"""Rotated files that are kept of each."""

FILES = ("server.log", "video_processor.log", "performance.log")

_TOPICS = (  # the first prefix that fits the namespace
    ("vidproc.app.performance", "performance.log"),
    ("vidproc.tasks.uploads", "server.log"),
    ("vidproc.tasks", "video_processor.log"),
    ("vidproc.ffmpeg", "video_processor.log"),
    ("vidproc.runners", "video_processor.log"),
    ("vidproc.operations", "video_processor.log"),
    ("vidproc", "server.log"),
)


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


def file_observer(
    folder: Path, name: str, wanted: Callable[[LogEvent], bool]
) -> tuple[ILogObserver, LogFile]:
    """Return an observer that writes the wanted events to a rotated file, and the file."""
    file = LogFile(name, str(folder), rotateLength=ROTATE_AT, maxRotatedFiles=KEPT)

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if wanted(event):
            file.write(format_line(event) + "\n")
            file.flush()

    return observe, file


def _topic(event: LogEvent) -> str | None:
    namespace = str(event.get("log_namespace", ""))
    for prefix, name in _TOPICS:
        if namespace == prefix or namespace.startswith(prefix + "."):
            return name
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
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:

            def wanted(event: LogEvent, name: str = name) -> bool:
                return event.get("log_level") is not LogLevel.debug and _topic(event) == name

            observer, file = file_observer(self._folder, name, wanted)
            self._open.append((observer, file))
            globalLogPublisher.addObserver(observer)

    def stop(self) -> None:
        """Write no more and close the files."""
        for observer, file in self._open:
            globalLogPublisher.removeObserver(observer)
            file.close()
        self._open = []
