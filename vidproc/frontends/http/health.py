"""Whether the server lives, and whether it takes uploads."""

from __future__ import annotations

from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.http.answers import Answer, json_answer
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Access, Route


async def healthz(request: Request) -> Answer:
    """The server answers, so it lives."""
    return json_answer({"status": "ok"})


async def readyz(request: Request) -> Answer:
    """Answer 200 if uploads are taken, 503 while the server drains."""
    if request.backend.gate.draining:
        raise ServiceError(
            ErrorCode.UNAVAILABLE, "The server is shutting down.", "Try again in a minute."
        )
    return json_answer({"status": "ok"})


ROUTES = (
    Route("GET", "/healthz", healthz, "Whether the server lives.", Access.ANYBODY),
    Route("GET", "/readyz", readyz, "Whether the server takes uploads.", Access.ANYBODY),
)
