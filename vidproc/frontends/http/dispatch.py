"""From a request's head to its handler: the checks before it, and the answers to errors."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from vidproc.errors import ServiceError
from vidproc.files.sender import TransferStopped
from vidproc.frontends.http.answers import Answer, empty_answer
from vidproc.frontends.http.body import BodyBroken
from vidproc.frontends.http.browsers import (
    SECURITY_HEADERS,
    cross_origin_headers,
    foreign_page,
    preflight_headers,
)
from vidproc.frontends.http.problems import HTTPError, problem_answer
from vidproc.frontends.http.proxies import key_of
from vidproc.frontends.http.request import DRAINABLE, Request
from vidproc.frontends.http.routing import Access, Match
from vidproc.frontends.http.site import Site
from vidproc.request_id import accepted_request_id, new_request_id, within
from vidproc.tasks.settings import Caller

REQUEST_ID = "X-Request-Id"
"""The header with a request's id: of each answer, and of what a trusted proxy passes on."""
MOST_METHOD = 20
"""The longest method that is put into a header, in characters."""
MOST_QUERY_FIELDS = 200
"""The most names and values in a query."""

_ABSOLUTE = re.compile(r"https?://([^/?#]*)([/?].*)?", re.ASCII | re.IGNORECASE)
_SAFE = ("GET", "HEAD", "OPTIONS")


def serve(site: Site, request: Request) -> None:
    """Answer a request whose head has arrived."""
    request_id = None
    if request.connection.from_proxy:
        request_id = accepted_request_id(request.header(REQUEST_ID))
    request_id = request_id or new_request_id()
    request.request_id = request_id

    def fault(failure: Failure) -> ServiceError:
        with within(request_id):
            return site.backend.gate.fault(failure)

    def failed(failure: Failure) -> None:
        if request.lost or failure.check(BodyBroken, TransferStopped):
            return
        error: ServiceError | HTTPError
        if isinstance(failure.value, ServiceError | HTTPError):
            error = failure.value
        else:
            error = fault(failure)
        if request.startedWriting:
            # The answer has begun, so only closing the connection can tell the client.
            request.connection.abort()
        else:
            request.answer(problem_answer(error))

    def unanswered(failure: Failure) -> None:
        fault(failure)
        request.connection.abort()

    with within(request_id):
        served = ensureDeferred(_serve(site, request))
    served.addErrback(failed).addErrback(unanswered)


async def _serve(site: Site, request: Request) -> None:
    request.common_headers = {**SECURITY_HEADERS, REQUEST_ID: request.request_id}
    if site.varies:
        request.common_headers["Vary"] = "Origin"
    match = _check_head(site, request)
    if match is None:
        request.answer(_options(site, request))
        return
    route = match.route
    request.arguments = match.arguments
    request.common_headers.update(route.headers)
    if route.access is Access.TOKEN:
        request.authenticate()
    if route.takes_body:
        _require_plain_body(request)
    elif not request.body.ended:
        await request.body.read(DRAINABLE)
    answer = await route.handler(request)
    if answer is not None:
        request.answer(answer)


def _check_head(site: Site, request: Request) -> Match | None:
    """Return the route; None for an OPTIONS request that no handler serves.

    Raises `HTTPError` for everything that can be refused by the head alone.
    """
    _read_target(request)
    _meet_client(site, request)
    site.hosts.require(request.host_name)
    origins = request.headers("Origin")
    if origins and site.origins.require(origins[-1], request.host_name, secure=request.secure):
        request.common_headers.update(cross_origin_headers(origins[-1]))
        request.foreign_origin = True
    elsewhere = request.header("Sec-Fetch-Site") == "cross-site"
    if elsewhere and not origins and request.verb not in _SAFE:
        raise foreign_page()  # a browser that sent no Origin
    override = request.header("X-HTTP-Method-Override")
    if override is not None and request.verb not in _SAFE:
        request.method = override.strip().upper()[:MOST_METHOD].encode("ascii", "replace")
    expect = request.header("Expect")
    if expect is not None and expect.lower() != "100-continue":
        raise HTTPError(417, "This expectation can't be met.", "Send no Expect header.")
    if request.verb == "OPTIONS":
        if _is_preflight(request) or request.url_path == "*":
            return None
        if not site.router.serves_options(request.url_path) and site.router.methods(
            request.url_path
        ):
            return None
    return site.router.match(request.verb, request.url_path)


def _require_plain_body(request: Request) -> None:
    """Raise `HTTPError` 415 if the body has a content coding."""
    coding = request.header("Content-Encoding")
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        raise HTTPError(
            415,
            "The body has a Content-Encoding.",
            "Send the file as it is: a video does not get smaller.",
            {"Accept-Encoding": "identity"},
        )


def _is_preflight(request: Request) -> bool:
    return request.header("Access-Control-Request-Method") is not None


def _options(site: Site, request: Request) -> Answer:
    methods = site.router.methods(request.url_path)
    headers = {"Allow": ", ".join(methods)} if methods else {}
    if request.foreign_origin and _is_preflight(request):
        private = request.header("Access-Control-Request-Private-Network") == "true"
        headers |= preflight_headers(methods, private_network=private)
    return empty_answer(204, headers)


def _read_target(request: Request) -> None:
    target = request.uri.decode("latin-1")
    hosts = request.headers("Host")
    if len(hosts) > 1 or (not hosts and request.clientproto == b"HTTP/1.1"):
        raise HTTPError(
            400, "A request needs one Host header.", "Send the server's name in it.", close=True
        )
    request.host_name = hosts[0] if hosts else "localhost"
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        request.host_name = absolute[1]
        target = absolute[2] or "/"
        if target.startswith("?"):
            target = f"/{target}"
    request.url_path, _, query = target.partition("?")
    if not request.url_path.startswith("/") and request.url_path != "*":
        raise HTTPError(400, "The path is malformed.", "Start it with a slash.")
    try:
        request.query = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=MOST_QUERY_FIELDS
        )
    except ValueError:
        raise HTTPError(
            400,
            f"The query can't be read: it is not UTF-8 or has over {MOST_QUERY_FIELDS} fields.",
            "Write it as ?type=gif&start_time=0&duration=5",
        ) from None


def _meet_client(site: Site, request: Request) -> None:
    """Find out who the client is, from the connection or from trusted proxies."""
    request.peer = request.connection.peer or ""
    request.secure = bool(request.isSecure())
    if request.connection.from_proxy:
        client = site.proxies.client(request.headers("X-Forwarded-For"))
        if client is not None:
            request.peer = key_of(client)
        proto = request.header("X-Forwarded-Proto")
        if proto is not None:
            request.secure = proto.rpartition(",")[2].strip().lower() == "https"
    request.caller = Caller(request.peer)
