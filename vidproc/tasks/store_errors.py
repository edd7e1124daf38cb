"""What a client is told when the disk or the store fails."""

from __future__ import annotations

import errno
import sqlite3

from vidproc.errors import ErrorCode, ServiceError


def explain_store_error(error: BaseException | None) -> ServiceError:
    """Return what to tell a client when its file, or a change of its task, can't be stored."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(error, sqlite3.Error) and "full" in str(error)):
        return ServiceError(
            ErrorCode.NO_SPACE,
            "The server's disk is full.",
            "Try again later, or ask the server's operator to make space.",
        )
    if isinstance(error, OSError) and error.errno == errno.ECANCELED:
        return ServiceError(
            ErrorCode.UNAVAILABLE,
            "The server is shutting down.",
            "Try again in a minute; an upload with an upload_id continues where it stopped.",
        )
    return ServiceError(
        ErrorCode.INTERNAL,
        "The server could not store that.",
        "Try again later; if it happens again, tell the server's operator.",
    )
