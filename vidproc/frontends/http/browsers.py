"""Keeps other sites' pages from using this server: checks of Host and Origin, CORS, headers."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from vidproc.frontends.http.problems import HTTPError

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""In every answer, unless it says otherwise."""

EXPOSED = (
    "Location, Vidproc-Task, ETag, Retry-After, Allow, Accept-Ranges, Content-Range,"
    " Content-Disposition, Repr-Digest, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size,"
    " Tus-Checksum-Algorithm, Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata,"
    " Upload-Expires, X-Request-Id"
)
"""Headers of answers that a page of a permitted origin may read."""
ALLOWED = (
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range, If-Range, If-None-Match,"
    " X-HTTP-Method-Override, X-Requested-With, X-Request-ID, Tus-Resumable, Upload-Checksum,"
    " Upload-Defer-Length, Upload-Length, Upload-Metadata, Upload-Offset"
)
"""Headers of requests that such a page may send."""
PREFLIGHT_AGE = 7200
"""Seconds for which a browser may cache the answer to a preflight."""

_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Hosts:
    """The hosts that are served: addresses, ``localhost`` and the `names` that the operator gave.

    If an attacker makes a page's name point to this machine (DNS rebinding), its requests carry
    that name.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = frozenset(names) | {"localhost"}

    def require(self, host: str) -> None:
        """Raise `HTTPError` 400 if a ``Host`` is malformed, 421 if it is not served."""
        name = host_name(host)
        if name is None:
            raise HTTPError(
                400, "The Host header is malformed.", "Send the server's name, such as localhost."
            )
        if "*" in self._names or name.rstrip(".") in self._names or _is_address(name):
            return
        raise HTTPError(
            421,
            "This server is not known by that name.",
            "Use its address, or let its operator add --http-host NAME.",
        )


def host_name(host: str) -> str | None:
    """Return the name or address in a ``Host`` header, in lower case; None if malformed."""
    if any(character in host for character in "/?#@\\ \t"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname or None


def _is_address(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


class Origins:
    """The pages that may use this server: its own, and those of the `origins` that the operator
    gave."""

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._origins = frozenset(origins)

    def require(self, origin: str, host: str, *, secure: bool = False) -> bool:
        """Return whether a request's ``Origin`` is another site, one that may use this server.

        `secure` is whether the request came by TLS, here or to a trusted proxy. Raises `HTTPError`
        403 if pages of this origin may not use the server.
        """
        if origin.lower() in self._origins:
            return True
        scheme, _, rest = origin.partition("://")
        # Even without `secure`, the page may use TLS, to a proxy that is not trusted.
        possible = ("https",) if secure else _DEFAULT_PORTS
        if scheme in possible and _with_port(rest, scheme) == _with_port(host, scheme):
            return False
        raise foreign_page()


def foreign_page() -> HTTPError:
    """Return the error for a page that may not use this server."""
    return HTTPError(
        403,
        "A page of this origin may not use this server.",
        "Its operator can permit it by --http-origin.",
        {"Vary": "Origin"},
    )


def _with_port(host: str, scheme: str) -> str:
    host = host.lower()
    has_port = ":" in host.rpartition("]")[2]
    return host if has_port else f"{host}:{_DEFAULT_PORTS[scheme]}"


def cross_origin_headers(origin: str) -> dict[str, str]:
    """Return the headers that allow a page of `origin` to read an answer."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": EXPOSED,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Vary": "Origin",
    }


def preflight_headers(methods: Sequence[str], *, private_network: bool) -> dict[str, str]:
    """Return the headers of an answer to a preflight, besides `cross_origin_headers`."""
    headers = {
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Allow-Headers": ALLOWED,
        "Access-Control-Max-Age": str(PREFLIGHT_AGE),
    }
    if private_network:
        headers["Access-Control-Allow-Private-Network"] = "true"
    return headers
