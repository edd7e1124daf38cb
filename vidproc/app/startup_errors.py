"""Errors that keep the server from starting."""

from __future__ import annotations

import sys
from types import TracebackType


class CannotStart(Exception):
    """The server can't start. The text says why and what to do."""


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
