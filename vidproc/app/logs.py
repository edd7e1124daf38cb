"""Log files by topic: one line an event, times in UTC, rotated.

The topic is the one that a logger names (`vidproc.topics`). What a client sent is a field, and
control characters in it are escaped: a line of a log is always an event.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    globalLogPublisher,
)
from twisted.python.logfile import LogFile
from zope.interface import provider

from vidproc.app.line_budget import LineBudget
from vidproc.app.log_format import LineFormat, text_line
from vidproc.app.private_files import rotated, tighten
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


def line_observer(
    file: LogFile | IO[str], select: Callable[[LogEvent], LogEvent | None], line: LineFormat
) -> ILogObserver:
    """Return an observer that writes what `select` leaves of events to a file, line by line."""

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        selected = select(event)
        if selected is not None:
            file.write(line(selected) + "\n")
            file.flush()

    observer: ILogObserver = observe
    return observer


def file_of(event: LogEvent) -> str | None:
    """Return the name of the file that an event belongs to, None for none."""
    topic = event.get("topic")
    if isinstance(topic, Topic):
        return _FILE_OF[topic]
    # What goes wrong elsewhere, in Twisted itself for one, is the server's matter.
    level = event.get("log_level")
    return "server.log" if level is not None and level >= LogLevel.warn else None


class TopicLogs:
    """The server's log files in `folder`; without one all goes to `output`, standard output."""

    def __init__(
        self,
        folder: Path | None,
        line: LineFormat = text_line,
        output: IO[str] | None = None,
    ) -> None:
        self._folder = folder
        self._line = line
        self._output = output
        self._observers: list[ILogObserver] = []
        self._files: list[LogFile] = []

    def start(self) -> None:
        """Open the files and begin to write. Raises `OSError`."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        budget = LineBudget(CONNECTION_LINES)
        for name in FILES:

            def select(event: LogEvent, name: str = name) -> LogEvent | None:
                if event.get("log_level") is LogLevel.debug or file_of(event) != name:
                    return None
                return budget.take(event) if event.get("topic") is Topic.CONNECTIONS else event

            observer = line_observer(self._file(name), select, self._line)
            self._observers.append(observer)
            globalLogPublisher.addObserver(observer)

    def _file(self, name: str) -> LogFile | IO[str]:
        if self._folder is None:
            output = self._output or sys.__stdout__  # sys.stdout is the log of twistd by now
            assert output is not None
            return output
        file = bounded_file(self._folder / name)
        self._files.append(file)
        return file

    def stop(self) -> None:
        """Write no more and close the files."""
        for observer in self._observers:
            globalLogPublisher.removeObserver(observer)
        for file in self._files:
            file.close()
        self._observers, self._files = [], []
