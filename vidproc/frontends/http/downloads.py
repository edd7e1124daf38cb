"""A task's result: the whole file or a range of it, and signed links to it."""

from __future__ import annotations

import base64

import msgspec
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from vidproc.files.sender import TransferStopped
from vidproc.frontends.http.answers import Answer, json_answer
from vidproc.frontends.http.conditional import Representation, Selection, select
from vidproc.frontends.http.disposition import attachment, result_name
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Access, Route
from vidproc.frontends.sending import Sending
from vidproc.tasks.results import Result
from vidproc.topics import Topic, TopicLogger
from vidproc.units import iso_utc

MEDIA_TYPES = {
    "mp4": "video/mp4",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "gif": "image/gif",
    "mp3": "audio/mpeg",
}
"""Media types by the kind of a result; any other kind is application/octet-stream."""

log = TopicLogger(Topic.CONNECTIONS, __name__)


class Link(msgspec.Struct, kw_only=True):
    """A link to a result: its `url`, relative to the URL of the request, and when it expires."""

    url: str
    expires_at: str


async def result(request: Request) -> Answer | None:
    """Send a task's result."""
    task_id = request.arguments["task_id"]
    token = request.parameter("link")
    if token is not None and request.shared.links.opens(task_id, token):
        found = await request.backend.tasks.linked_result(task_id)
    else:
        request.authenticate()
        found = await request.backend.tasks.result(task_id, request.caller)
    try:
        return await _answer(request, found)
    finally:
        found.close()


async def _answer(request: Request, found: Result) -> Answer | None:
    file = Representation(found.sha256, found.task.completed_at or 0.0, found.size)
    selection = select(file, request.verb, request.header)
    headers = _headers(found, file)
    if selection.status == 416:
        raise HTTPError(
            416,
            f"The range lies beyond the file's {file.size} bytes.",
            "Ask for a range within it. Example: Range: bytes=0-1023",
            {"Content-Range": f"bytes */{file.size}"},
        )
    if selection.status == 412:
        raise HTTPError(
            412,
            "The file is not the one that the request names.",
            "Fetch it without If-Match and If-Unmodified-Since.",
        )
    if selection.status == 304:
        return Answer(304, b"", headers)
    headers |= _description(found)
    if selection.status == 206:
        headers["Content-Range"] = f"bytes {selection.start}-{selection.end - 1}/{file.size}"
    headers["Content-Length"] = str(selection.end - selection.start)
    if request.lost:
        return None
    request.begin(selection.status, headers)
    if request.verb == "HEAD":
        request.write(b"")
    else:
        await _send(request, found, selection)
    request.finish()
    return None


def _headers(found: Result, file: Representation) -> dict[str, str]:
    """Return the headers that even a 304 has."""
    digest = base64.b64encode(bytes.fromhex(found.sha256)).decode()
    return {
        "ETag": file.quoted_etag,
        "Last-Modified": file.last_modified,
        "Cache-Control": "private, no-cache",
        "Repr-Digest": f"sha-256=:{digest}:",
        "Referrer-Policy": "no-referrer",
    }


def _description(found: Result) -> dict[str, str]:
    name = result_name(found.task.filename, found.media_type)
    return {
        "Content-Type": MEDIA_TYPES.get(found.media_type, "application/octet-stream"),
        "Accept-Ranges": "bytes",
        "Content-Disposition": attachment(name),
    }


async def _send(request: Request, found: Result, selection: Selection) -> None:
    """Send the selected bytes. The result counts as fetched only if all of it was sent."""
    sender = _Sender(request, found, selection)
    try:
        await sender.run()
    except OSError as error:
        # The head announced bytes that will not follow, so only closing can tell the client.
        log.error(
            "result of task {task_id} can't be read: {error}",
            task_id=found.task.task_id,
            error=str(error),
        )
        request.connection.abort()
        raise TransferStopped from error
    finally:
        request.send(None)
        if selection.status == 200:
            request.backend.tasks.note_sent(found, 0, found.sent)


@implementer(IPushProducer)
class _Sender:
    """Sends a result's bytes as fast as the client reads them."""

    def __init__(self, request: Request, found: Result, selection: Selection) -> None:
        self._request = request
        request.write(b"")  # the head is sent before the file
        assert request.transport is not None
        self._sending = Sending(
            request.backend.disk,
            found,
            selection.start,
            request.transport,
            request.sent,
            end=selection.end,
        )
        request.send(self._sending)

    async def run(self) -> None:
        """Send; raises `OSError` or `TransferStopped`."""
        request = self._request
        gone = request.notifyFinish()

        def lost(_: Failure) -> None:
            self._sending.stop()

        gone.addErrback(lost)
        request.registerProducer(self, True)
        try:
            await self._sending.run()
        finally:
            if not request.lost:
                request.unregisterProducer()

    def pauseProducing(self) -> None:
        """The client does not read."""
        self._sending.pause()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._sending.resume()

    def stopProducing(self) -> None:
        """The connection is lost."""
        self._sending.stop()


async def link(request: Request) -> Answer:
    """Make a link to a task's result that works without a token."""
    task_id = request.arguments["task_id"]
    found = await request.backend.tasks.result(task_id, request.caller)
    found.close()
    token, ends = request.shared.links.token_for(task_id)
    url = request.reference(f"/api/v1/tasks/{task_id}/result?link={token}")
    made = Link(url=url, expires_at=iso_utc(ends) or "")
    headers = {"Location": url, "Referrer-Policy": "no-referrer"}
    return json_answer(made, 201, headers)


ROUTES = (
    Route(
        "GET",
        "/api/v1/tasks/{task_id}/result",
        result,
        "The result, or a range of it.",
        Access.ANYBODY,
    ),
    Route(
        "POST",
        "/api/v1/tasks/{task_id}/link",
        link,
        "A link to the result that a browser can follow without a token, for an hour.",
    ),
)
