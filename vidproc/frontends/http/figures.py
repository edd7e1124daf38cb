"""The server's figures: those of the last ten minutes, and metrics for Prometheus."""

from __future__ import annotations

from vidproc.frontends.http.answers import Answer, json_answer
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Route

METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


async def server(request: Request) -> Answer:
    """Answer the figures of the last ten minutes."""
    return json_answer(request.backend.figures())


async def metrics(request: Request) -> Answer:
    """Answer the metrics, in Prometheus' text format."""
    headers = {"Content-Type": METRICS_TYPE, "Cache-Control": "no-store"}
    return Answer(200, request.backend.metrics(), headers)


ROUTES = (
    Route("GET", "/api/v1/server", server, "The server's figures of the last ten minutes."),
    Route("GET", "/metrics", metrics, "Metrics for Prometheus."),
)
