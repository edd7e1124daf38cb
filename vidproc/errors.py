"""Errors of the service, independent of the frontend."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Error codes with their HTTP meaning."""

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
    """A request cannot be served; the text tells the client what to do.

    `description` says what is wrong and `solution` what to do next. Both are plain English
    sentences without secrets or local paths, because clients get them. `extra` has further
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
