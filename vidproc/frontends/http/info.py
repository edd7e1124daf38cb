"""What the server can do: its version, limits, operations and their parameters."""

from __future__ import annotations

from vidproc.frontends.http.answers import Answer, json_answer
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Route
from vidproc.frontends.reports import describe_server


async def info(request: Request) -> Answer:
    """Answer the long form of MMP's `info`."""
    return json_answer(describe_server(request.backend.server_info()))


ROUTES = (Route("GET", "/api/v1/info", info, "Version, limits, operations and parameters."),)
