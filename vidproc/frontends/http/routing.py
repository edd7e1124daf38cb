"""Which handler serves which method and path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import unquote

from vidproc.frontends.http.answers import Answer
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.request import Request

Handler = Callable[[Request], Awaitable[Answer | None]]
"""Serves a request. Returns the answer, or None if it has written one itself. Raises `ServiceError`
or `HTTPError` if the request can't be served."""


class Access(Enum):
    """Who may use a resource if the server has tokens."""

    TOKEN = auto()
    """Whoever sends a token."""
    ANYBODY = auto()
    """Anybody; `Request.caller` has no principal then."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one resource.

    `path` is a template such as ``/api/v1/tasks/{task_id}``; each word in braces stands for one
    segment, which the handler finds in `Request.arguments`. A slash at the end of a path makes no
    difference. GET routes serve HEAD as well, unless HEAD has its own route. Handlers that take the
    body have `takes_body` and are called before it arrives; otherwise the body is discarded.
    `summary` is a sentence for people. All answers have `headers`, even errors.
    """

    method: str
    path: str
    handler: Handler
    summary: str = ""
    access: Access = Access.TOKEN
    takes_body: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request, and the arguments in its path."""

    route: Route
    arguments: dict[str, str]


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[tuple[str, ...], dict[str, Route]] = {}
        self._templates: list[tuple[tuple[str, ...], dict[str, Route]]] = []
        for route in self.routes:
            segments = tuple(route.path.split("/"))
            if "{" in route.path:
                table = next((t for s, t in self._templates if s == segments), None)
                if table is None:
                    table = {}
                    self._templates.append((segments, table))
            else:
                table = self._exact.setdefault(segments, {})
            if route.method in table:
                raise ValueError(f"{route.method} {route.path} has two routes")
            table[route.method] = route

    def methods(self, path: str) -> list[str]:
        """Return the methods of a path; none if there is no such path."""
        found = self._find(path)
        return [] if found is None else _allowed(found[0])

    def serves_options(self, path: str) -> bool:
        """Return whether a path has its own OPTIONS route."""
        found = self._find(path)
        return found is not None and "OPTIONS" in found[0]

    def match(self, method: str, path: str) -> Match:
        """Return the route; raises `HTTPError` 404 for the path or 405 for the method."""
        found = self._find(path)
        if found is None:
            raise HTTPError(
                404,
                "There is nothing at this path.",
                "The paths are listed in api/v1/openapi.json. Example: GET /api/v1/info",
            )
        table, arguments = found
        route = table.get(method)
        if route is None and method == "HEAD":
            route = table.get("GET")
        if route is None:
            allowed = _allowed(table)
            raise HTTPError(
                405,
                f"This path has no method {method}.",
                f"Use {' or '.join(allowed)}.",
                {"Allow": ", ".join(allowed)},
            )
        return Match(route, arguments)

    def _find(self, path: str) -> tuple[dict[str, Route], dict[str, str]] | None:
        if path.endswith("/") and path != "/":
            path = path[:-1]
        segments = tuple(path.split("/"))
        if segments in self._exact:
            return self._exact[segments], {}
        for template, table in self._templates:
            if len(template) == len(segments):
                arguments = _bind(template, segments)
                if arguments is not None:
                    return table, arguments
        return None


def _bind(template: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    arguments = {}
    for wanted, given in zip(template, segments, strict=True):
        if wanted.startswith("{"):
            if not given:
                return None
            arguments[wanted[1:-1]] = unquote(given, errors="replace")
        elif wanted != given:
            return None
    return arguments


def _allowed(table: dict[str, Route]) -> list[str]:
    methods = set(table) | {"OPTIONS"}
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)
