"""Errors that keep the server from starting."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from pathlib import Path
from types import TracebackType

_FULL = (errno.ENOSPC, errno.EDQUOT)


class CannotStart(Exception):
    """The server can't start. The text says why and what to do."""


def explain(error: Exception, data_dir: Path, log_dir: Path | None) -> str:
    """Return what keeps the server from starting, and what to do if a folder cannot be used."""
    if isinstance(error, sqlite3.Error):
        return (
            f"the task store {data_dir / 'tasks.sqlite'} cannot be used ({error}); restore it from"
            " a backup, or move it away to start without the tasks that it knows"
        )
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    # What fails on an open file, such as writing to a full disk, has no name.
    named = data_dir if error.filename is None else Path(os.fsdecode(error.filename))
    for option, folder in (("data-dir", data_dir), ("log-dir", log_dir)):
        if folder is None or not (folder.is_relative_to(named) or named.is_relative_to(folder)):
            continue
        reason = error.strerror
        if folder.is_symlink() and not folder.exists():
            reason = "it is a link to a folder that does not exist"
        if error.errno in _FULL:
            return f"--{option}: {folder} cannot be used ({reason}); free some space"
        return (
            f"--{option}: {folder} cannot be used ({reason}); let this user write to it, or name"
            " another folder"
        )
    return str(error)


def show_in_one_line() -> None:
    """Print a `CannotStart` that ends the process as one line, without a traceback."""
    usual = sys.excepthook

    def show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, CannotStart) and sys.__stderr__ is not None:
            sys.__stderr__.write(f"vidproc: {error}\n")  # sys.stderr is the log by then
        else:
            usual(kind, error, traceback)

    sys.excepthook = show
