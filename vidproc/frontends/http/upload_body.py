"""Feeds a request's body to an upload."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from vidproc.errors import ServiceError
from vidproc.frontends.http.body import BodyBroken
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.request import Request
from vidproc.frontends.receiving import Receiving
from vidproc.tasks.uploads.refusals import taken_over
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload, UploadSession

_EXTENSION = re.compile(r"[A-Za-z0-9]{1,10}", re.ASCII)


def media_type_of(filename: str | None, content_type: str | None = None) -> str:
    """Return the kind of a file as MMP names it: an extension, or "" if unknown."""
    extension = PurePath(filename or "").suffix[1:]
    if _EXTENSION.fullmatch(extension):
        return extension.lower()
    kind, _, subtype = (content_type or "").partition(";")[0].strip().lower().partition("/")
    return subtype if kind == "video" and _EXTENSION.fullmatch(subtype) else ""


class Check(Protocol):
    """A checksum that is computed as bytes arrive."""

    def update(self, data: bytes) -> None:
        """Add bytes that have arrived."""

    @property
    def right(self) -> bool:
        """Whether the bytes that have arrived have the right checksum."""


async def receive(
    request: Request, session: UploadSession, check: Check | None = None, *, whole: bool = False
) -> AcceptedTask | PartialUpload:
    """Feed a request's body to `session` and finish the session.

    `whole` is whether the body is the whole file, so that its end gives the length. With a `check`,
    nothing is kept of a body with another checksum, or of one that breaks off. Raises
    `ServiceError`, `HTTPError` 460, and `BodyBroken` if the connection is lost.
    """
    feed = begin(request, session, check)
    try:
        request.body.feed(feed)
    except BodyBroken:
        feed.lose()
    await feed.whole
    return await finish(request, session, whole=whole)


def begin(request: Request, session: UploadSession, check: Check | None = None) -> UploadFeed:
    """Return a feed for `session`. Raises `ServiceError` if a newer connection has taken over."""
    if session.over:
        raise taken_over()
    feed = UploadFeed(request, session, check)
    request.receiving = feed.receiving
    return feed


async def finish(
    request: Request, session: UploadSession, *, whole: bool
) -> AcceptedTask | PartialUpload:
    """Finish a session whose bytes have all arrived. Raises `ServiceError`."""
    try:
        if whole and session.length_follows:
            session.set_size(session.received)
        return await session.finish()
    except ServiceError:
        await session.abort()
        raise
    finally:
        request.receiving = None


class UploadFeed:
    """Feeds a body to a session. `whole` fires once all of it has arrived."""

    def __init__(self, request: Request, session: UploadSession, check: Check | None) -> None:
        self.whole: Deferred[None] = Deferred()
        self._request = request
        self._session = session
        self._check = check
        self._failed = False
        transport: Any = request.transport
        self.receiving = Receiving(session, transport, self._held, self.fail)
        # Bytes that must be checked cannot bypass this.
        self.receiving.direct = check is None

    def receive(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self._check is not None:
            self._check.update(data)
        self.receiving.write(data)

    def end(self) -> None:
        """The body is complete."""
        self.receiving.payload_ended()
        if self._failed:
            return
        if self._check is not None and not self._check.right:
            self.fail(
                HTTPError(
                    460,
                    "The checksum of the body is not the one that was promised.",
                    "The bytes changed on the way: send them again from the same offset.",
                )
            )
        else:
            self.whole.callback(None)

    def lose(self) -> None:
        """The body broke off."""
        self.fail(BodyBroken())

    def _held(self) -> None:
        self._request.connection.hold("upload", self.receiving.held)

    def fail(self, error: Exception) -> None:
        """End an upload that can't continue, then let `whole` fail."""
        if self._failed or self.whole.called:
            return
        self._failed = True
        self._request.receiving = None
        self.receiving.payload_ended()
        ended = self._session.abort()
        self._request.connection.hold("upload", False)
        # Tell the client only once the slot is free and the offset is final.
        ended.addBoth(lambda _: self.whole.errback(error))


class Counter:
    """Counts the bytes of a body. `whole` fires with their number, at once if it exceeds `most`."""

    def __init__(self, most: int) -> None:
        self.whole: Deferred[int] = Deferred()
        self._most = most
        self._size = 0

    def receive(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            self.end()

    def end(self) -> None:
        if not self.whole.called:
            self.whole.callback(self._size)

    def lose(self) -> None:
        self.fail(BodyBroken())

    def fail(self, error: Exception) -> None:
        if not self.whole.called:
            self.whole.errback(error)
