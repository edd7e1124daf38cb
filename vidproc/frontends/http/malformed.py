"""Errors for requests that are malformed or too long. Each ends its connection."""

from __future__ import annotations

from twisted.web.http import datetimeToString

from vidproc.frontends.http.answers import Answer
from vidproc.frontends.http.problems import HTTPError, title_of

MOST_URL = 8 << 10
"""The longest request line, in bytes."""
MOST_LINE = 16 << 10
"""The longest header line, in bytes."""
MOST_HEAD = 32 << 10
"""The longest head of a request, in bytes."""
MOST_HEADERS = 100
"""The most headers of a request."""


def bad_request() -> HTTPError:
    """What arrived is not a request."""
    return HTTPError(
        400,
        "This is not an HTTP/1.1 request.",
        "This port speaks HTTP, not MMP and not TLS, and its lines end with CR LF."
        " Example: curl http://localhost:9980/api/v1/info",
        close=True,
    )


def bad_framing() -> HTTPError:
    """It is unclear where the body ends."""
    return HTTPError(
        400,
        "The length of the request's body is not clear.",
        "Send one Content-Length, or Transfer-Encoding: chunked with well-formed chunks.",
        close=True,
    )


def long_url() -> HTTPError:
    """The request line is too long."""
    return HTTPError(
        414,
        f"The URL has more than {MOST_URL} bytes.",
        "Send a shorter one; parameters of an upload fit the metadata of tus, too.",
        close=True,
    )


def long_head() -> HTTPError:
    """A header is too long, or all of them together, or there are too many."""
    return HTTPError(
        431,
        f"The head has more than {MOST_HEADERS} headers, {MOST_LINE} bytes in one of them or"
        f" {MOST_HEAD} bytes in all.",
        "Send fewer or shorter headers.",
        close=True,
    )


def wasteful_chunks() -> HTTPError:
    """The chunks of a body consist mostly of their sizes and extensions."""
    return HTTPError(
        400,
        "The chunks of the body consist mostly of their sizes and extensions.",
        "Send larger chunks, without extensions.",
        close=True,
    )


def other_version() -> HTTPError:
    """The request has another version of HTTP."""
    return HTTPError(505, "This server speaks HTTP/1.1.", "Use that.", close=True)


def raw_answer(answer: Answer, request_id: str) -> bytes:
    """Return the bytes of an answer that ends the connection before a request was understood."""
    reason = title_of(answer.status)
    headers = answer.headers | {
        "Content-Length": str(len(answer.body)),
        "Connection": "close",
        "X-Content-Type-Options": "nosniff",
        "X-Request-Id": request_id,
        "Date": str(datetimeToString(), "ascii"),
    }
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body
