"""The resources that there are: the one place that lists them."""

from __future__ import annotations

from vidproc.frontends.http import (
    downloads,
    events,
    figures,
    health,
    info,
    submit,
    tasks,
    uploads,
)
from vidproc.frontends.http.routing import Route

ROUTES: tuple[Route, ...] = (
    *health.ROUTES,
    *info.ROUTES,
    *submit.ROUTES,
    *uploads.ROUTES,
    *tasks.ROUTES,
    *events.ROUTES,
    *downloads.ROUTES,
    *figures.ROUTES,
)
