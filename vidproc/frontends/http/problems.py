"""Errors in HTTP: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from twisted.web.http import RESPONSES

from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.http.answers import Answer

PROBLEM_TYPE = "application/problem+json"

_TITLES = {
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    421: "Misdirected Request",
    460: "Checksum Mismatch",
    507: "Insufficient Storage",
}
_RETRY_AFTER = {429: 10, 503: 30}
"""Seconds after which a client may try again, by status."""


class HTTPError(Exception):
    """A request can't be served, for a reason that is specific to HTTP.

    `description` says what is wrong and `solution` what to do next, as in `ServiceError`. With
    `close`, the connection ends after the answer, because what follows can't be parsed.
    """

    def __init__(
        self,
        status: int,
        description: str,
        solution: str,
        headers: Mapping[str, str] | None = None,
        *,
        close: bool = False,
    ) -> None:
        super().__init__(f"{status} {description}")
        self.status = status
        self.description = description
        self.solution = solution
        self.headers = dict(headers or {})
        self.close = close


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is wrong and what to do next. `offset` is how much of an upload was received."""

    type: str
    title: str
    status: int
    detail: str
    solution: str
    offset: int | None = None
    task_id: str | None = None


def title_of(status: int) -> str:
    """Return the phrase for a status."""
    return _TITLES.get(status) or RESPONSES.get(status, b"Unknown").decode()


def problem_answer(error: ServiceError | HTTPError) -> Answer:
    """Return the answer that tells a client of `error`."""
    headers: dict[str, str] = {}
    offset = task_id = None
    if isinstance(error, HTTPError):
        status = error.status
        headers.update(error.headers)
    else:
        status = int(error.code)
        offset, task_id = error.extra.get("offset"), error.extra.get("task_id")
        if error.code is ErrorCode.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
    if status in _RETRY_AFTER:
        headers.setdefault("Retry-After", str(_RETRY_AFTER[status]))
    problem = Problem(
        type="about:blank",
        title=title_of(status),
        status=status,
        detail=error.description,
        solution=error.solution,
        offset=offset if isinstance(offset, int) else None,
        task_id=task_id if isinstance(task_id, str) else None,
    )
    headers["Content-Type"] = PROBLEM_TYPE
    headers["Cache-Control"] = "no-store"
    return Answer(
        status,
        msgspec.json.encode(problem),
        headers,
        close=isinstance(error, HTTPError) and error.close,
    )
