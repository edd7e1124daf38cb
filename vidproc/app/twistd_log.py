"""What twistd itself logs, to `twistd.log` or the terminal, kept small.

The topic files have our events; repeated in twistd's log they would only fill it, and it is never
rotated away. So it gets start and stop, warnings and errors, and what Twisted says, a few lines a
minute; the file is bounded.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEventAsClassicLogText,
)
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile
from zope.interface import provider

from vidproc.app.line_budget import LineBudget
from vidproc.app.log_format import LineFormat
from vidproc.app.logs import bounded_file, file_of
from vidproc.topics import Topic

ROTATE_AT = 1 << 20
"""Bytes at which `twistd.log` is rotated."""
KEPT = 9
LINES = 120
"""Lines a minute that are neither warnings nor errors."""


def log_path(options: Mapping[str, Any]) -> Path | None:
    """Return the path of the log that twistd's `options` ask for; None for the terminal."""
    name = options["logfile"]
    if name == "-" or (options["nodaemon"] and not name):
        return None
    return Path(name or "twistd.log").absolute()


def bound(
    application: object,
    options: Mapping[str, Any],
    line: LineFormat | None = None,
    *,
    alone: bool = True,
) -> None:
    """Let twistd, run with `options`, log to `application` within bounds.

    Its lines are made by `line`, else in twistd's own form. Unless it is `alone`, the topics' lines
    go to standard output, too, and are not repeated there.

    Does nothing where the operator has chosen another way: `--syslog` or `--logger`.
    """
    if options.get("syslog") or options.get("logger") or not isinstance(application, Componentized):
        return
    path = log_path(options)
    if path is not None:
        try:
            file = bounded_file(path, ROTATE_AT, KEPT)
        except OSError as error:
            sys.exit(f"vidproc: can't write the log of twistd: {error}; choose another --logfile")
        _rotate_on_signal(file)
        application.setComponent(ILogObserver, observer_to(file, line))
    elif options["nodaemon"]:  # else twistd refuses, in a sentence of its own
        application.setComponent(ILogObserver, observer_to(sys.stdout, line, alone=alone))


def _rotate_on_signal(file: LogFile) -> None:
    """Rotate at SIGUSR1, as twistd does with a log of its own."""

    def rotate(*_: object) -> None:
        from twisted.internet import reactor

        cast(IReactorFromThreads, reactor).callFromThread(file.rotate)

    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)


def observer_to(
    output: IO[str] | LogFile, line: LineFormat | None = None, *, alone: bool = True
) -> ILogObserver:
    """Return an observer that writes what belongs into twistd's log to `output`."""
    budget = LineBudget(LINES)
    form = formatEventAsClassicLogText if line is None else lambda event: f"{line(event)}\n"
    write = FileLogObserver(output, form)  # type: ignore[arg-type]

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        repeated = not alone and file_of(event) is not None
        selected = budget.take(event) if wanted(event) and not repeated else None
        if selected is not None:
            write(selected)

    observer: ILogObserver = observe
    return observer


def wanted(event: LogEvent) -> bool:
    """Return whether an event belongs into twistd's log."""
    level = event.get("log_level", LogLevel.info)
    if level >= LogLevel.warn:
        return True
    return level is not LogLevel.debug and event.get("topic") in (None, Topic.SERVICE)
