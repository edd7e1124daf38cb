"""What the domain says when a request can't be served, whatever the frontend."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """What went wrong; the numbers carry their HTTP meaning."""

    BAD_REQUEST = 400
    UNAUTHORIZED = 401
    NOT_FOUND = 404
    CONFLICT = 409
    GONE = 410
    TOO_LARGE = 413
    UNSUPPORTED_MEDIA = 415
    INVALID_PARAMETER = 422
    TOO_MANY = 429
    INTERNAL = 500
    UNAVAILABLE = 503
    NO_SPACE = 507


class ServiceError(Exception):
    """A request can't be served, said so that its sender can act on it.

    `description` says what is wrong, `solution` what to do next; both are plain English
    sentences without secrets or local paths, for they go over the wire. `extra` holds further
    keys of the error object, such as the right ``offset`` of an upload.
    """

    def __init__(
        self, code: ErrorCode, description: str, solution: str, **extra: int | str
    ) -> None:
        super().__init__(f"{int(code)} {description}")
        self.code = code
        self.description = description
        self.solution = solution
        self.extra = extra
