"""The resources that there are: the one place that lists them."""

from __future__ import annotations

from vidproc.frontends.http import health, info, submit, uploads
from vidproc.frontends.http.routing import Route

ROUTES: tuple[Route, ...] = (
    *health.ROUTES,
    *info.ROUTES,
    *submit.ROUTES,
    *uploads.ROUTES,
)
