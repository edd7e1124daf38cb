"""All resources. This is the only list of them."""

from __future__ import annotations

from vidproc.frontends.http import (
    downloads,
    events,
    figures,
    health,
    info,
    openapi,
    submit,
    tasks,
    uploads,
)
from vidproc.frontends.http.page import routes as page
from vidproc.frontends.http.routing import Route

_DESCRIBED: tuple[Route, ...] = (
    *health.ROUTES,
    *info.ROUTES,
    *submit.ROUTES,
    *uploads.ROUTES,
    *tasks.ROUTES,
    *events.ROUTES,
    *downloads.ROUTES,
    *figures.ROUTES,
)

ROUTES = (*_DESCRIBED, *openapi.routes_for(_DESCRIBED), *page.ROUTES)
