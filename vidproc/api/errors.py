"""What can go wrong, as exceptions. Each has a `code` with its HTTP meaning and a `solution`."""

from __future__ import annotations


class VidprocError(Exception):
    """Something went wrong; its text says what.

    `code` is an HTTP status, 0 if no answer came. `solution` says what to do; it may be empty.
    `task_id` is the task concerned, if there is one.
    """

    def __init__(
        self, description: str, *, code: int = 0, solution: str = "", task_id: str | None = None
    ) -> None:
        super().__init__(f"{description} {solution}".strip())
        self.description = description
        self.code = code
        self.solution = solution
        self.task_id = task_id


class Refused(VidprocError):
    """The server refused a request."""


class TaskFailed(VidprocError):
    """The processing failed."""


class TaskCancelled(VidprocError):
    """The task was cancelled or has expired: there is no result."""


class Unreachable(VidprocError):
    """The server cannot be reached, or the connection broke too often.

    `upload_url` is where an interrupted upload can be resumed, None if there was none.
    """

    def __init__(self, description: str, *, task_id: str | None = None) -> None:
        super().__init__(
            description,
            solution="Check the URL, and that the server runs with --http.",
            task_id=task_id,
        )
        self.upload_url: str | None = None


class TimedOut(VidprocError):
    """The call took too long. The task continues on the server."""


class ResultDamaged(VidprocError):
    """The downloaded bytes are not the server's: their SHA-256 differs."""
