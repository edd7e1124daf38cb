"""``GET /`` and the page's files. They hold nothing secret: anybody may have them."""

from __future__ import annotations

import hashlib

from vidproc.frontends.http.answers import Answer
from vidproc.frontends.http.page.files import PageFile, page
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Access, Route

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may load and do: our own files, and images and films that it made itself."""

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


async def document(request: Request) -> Answer:
    """Answer the page itself, which a browser asks for again each time."""
    file = page().document
    etag = f'"{hashlib.sha256(file.data).hexdigest()[:16]}"'
    headers = {"Cache-Control": "no-cache", "ETag": f"W/{etag}"}
    known = request.header("If-None-Match") or ""
    if etag in known:
        return Answer(304, b"", headers)
    return _answer(request, file, headers)


async def static(request: Request) -> Answer:
    """Answer one of the page's files, which never changes below its version."""
    if request.arguments["version"] == page().version:
        file = page().files.get(request.arguments["name"])
        if file is not None:
            return _answer(request, file, {"Cache-Control": "public, max-age=31536000, immutable"})
    raise HTTPError(
        404, "The page has no such file.", "Load the page again: the server may be a newer one."
    )


def _answer(request: Request, file: PageFile, headers: dict[str, str]) -> Answer:
    headers |= {"Content-Type": file.media_type, "Vary": "Accept-Encoding"}
    if _takes_gzip(request.header("Accept-Encoding")):
        return Answer(200, file.packed, {**headers, "Content-Encoding": "gzip"})
    return Answer(200, file.data, headers)


def _takes_gzip(accepted: str | None) -> bool:
    """Return whether a client takes gzip: it names it, and not with a weight of 0."""
    for choice in (accepted or "").lower().split(","):
        name, *parameters = (part.strip() for part in choice.split(";"))
        if name == "gzip":
            return not any(p.startswith("q=") and not p[2:].strip("0.") for p in parameters)
    return False


ROUTES = (
    Route("GET", "/", document, "The page.", Access.ANYBODY, headers=_HEADERS),
    Route(
        "GET",
        "/static/{version}/{name}",
        static,
        "The page's files.",
        Access.ANYBODY,
        headers=_HEADERS,
    ),
)
