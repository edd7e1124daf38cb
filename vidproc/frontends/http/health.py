"""Health checks: whether the server is alive, and whether it takes uploads."""

from __future__ import annotations

from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.http.answers import Answer, json_answer
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Access, Route


async def healthz(request: Request) -> Answer:
    """Answer 200: the server is alive."""
    return json_answer({"status": "ok"})


async def readyz(request: Request) -> Answer:
    """Answer 200 if uploads are taken, 503 while the server drains or has no free space."""
    if request.backend.gate.draining:
        raise ServiceError(
            ErrorCode.UNAVAILABLE, "The server is shutting down.", "Try again in a minute."
        )
    if not await request.backend.tasks.has_room():
        raise ServiceError(
            ErrorCode.UNAVAILABLE,
            "The server has no free space.",
            "Try again when tasks have ended, or give it more with --storage-limit.",
        )
    return json_answer({"status": "ok"})


ROUTES = (
    Route("GET", "/healthz", healthz, "Whether the server is alive.", Access.ANYBODY),
    Route("GET", "/readyz", readyz, "Whether the server takes uploads.", Access.ANYBODY),
)
