"""HTML forms whose last field is the video: first the other fields, then the video as it
arrives."""

from __future__ import annotations

from typing import Any, Protocol

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from twisted.internet.defer import Deferred

from vidproc.errors import ServiceError
from vidproc.frontends.http import upload_body
from vidproc.frontends.http.body import BodyBroken
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.request import Request
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload, UploadSession

MOST_FIELDS = 100
"""The most fields before the file."""
MOST_VALUES = 64 << 10
"""The most bytes of all these fields together."""
MOST_BESIDE = 1 << 20
"""The most bytes of a form besides its file."""


class FileSink(Protocol):
    """Takes the file of a form."""

    def receive(self, data: bytes) -> None:
        """Take bytes that have arrived."""

    def end(self) -> None:
        """Note that all of the file has arrived."""

    def fail(self, error: Exception) -> None:
        """Note why the file will not arrive as a whole."""


class Form:
    """One form, which takes a request's body. Call `fields` first, then `take` or `measure`."""

    def __init__(self, request: Request, content_type: str) -> None:
        """Raises `HTTPError` 400 if the boundary is missing or malformed."""
        _, options = parse_options_header(content_type)
        try:
            self._parser = PushMultipartParser(
                options.get("boundary", ""), max_segment_count=MOST_FIELDS + 1
            )
        except MultipartError as error:
            raise _malformed(error) from None
        self.filename = ""
        """The file's name, according to the form."""
        self._request = request
        self._fields: list[tuple[str, str]] = []
        self._values_size = 0
        self._name: str | None = None
        """The field being read."""
        self._value = bytearray()
        self._received = 0
        self._file_size = 0
        self._in_file = False
        self._file_ended = False
        self._before_file: Deferred[None] = Deferred()
        self._feed: FileSink | None = None
        # What has arrived while the upload waits to be admitted:
        self._early: list[bytes] = []
        self._error: Exception | None = None
        self._ended = False

    async def fields(self) -> list[tuple[str, str]]:
        """Return the names and values before the file. The client is paused there.

        Raises `HTTPError` 400 or 413, or `BodyBroken`.
        """
        self._request.body.feed(self)
        await self._before_file
        return self._fields

    async def take(self, session: UploadSession) -> AcceptedTask | PartialUpload:
        """Feed the file to `session` and finish it. Raises as `upload_body.receive` does."""
        feed = upload_body.begin(self._request, session)
        feed.receiving.direct = False  # the boundary must be found
        self._go_on(feed)
        await feed.whole
        return await upload_body.finish(self._request, session, whole=True)

    async def measure(self, most: int) -> int:
        """Discard the file and return its size, or some size beyond `most`.

        Raises `HTTPError` 400 or 413, or `BodyBroken`.
        """
        counter = upload_body.Counter(most)
        self._go_on(counter)
        return await counter.whole

    def _go_on(self, feed: FileSink) -> None:
        """Pass the file to `feed`: what has arrived, then the rest as it arrives."""
        self._feed = feed
        for data in self._early:
            feed.receive(data)
        self._early.clear()
        if self._error is not None:
            feed.fail(self._error)
        elif self._ended:
            feed.end()
        self._request.connection.hold("form", False)

    # As a sink of the body:

    def receive(self, data: bytes) -> None:
        """Parse bytes of the body."""
        if self._error is not None:
            return
        self._received += len(data)
        try:
            for event in self._parser.parse(data):
                self._take_event(event)
            if self._received - self._file_size > MOST_BESIDE:
                raise HTTPError(
                    413,
                    f"The form has more than {MOST_BESIDE} bytes beside its file.",
                    "Send fewer fields, and nothing before the first or after the last one.",
                )
        except MultipartError as error:
            self._fail(_malformed(error))
        except (HTTPError, ServiceError) as error:
            self._fail(error)

    def end(self) -> None:
        """The body is complete."""
        if self._error is not None:
            return
        self._ended = True
        if not self._in_file:
            self._fail(
                HTTPError(400, "The form has no file.", "Add a field named file, as the last one.")
            )
            return
        try:
            self._parser.close()
        except MultipartError as error:
            self._fail(_malformed(error))
            return
        if self._feed is not None:
            self._feed.end()

    def lose(self) -> None:
        """The body broke off."""
        self._fail(BodyBroken())

    def _take_event(self, event: Any) -> None:
        if isinstance(event, MultipartSegment):
            self._begin_field(event)
        elif event is None:
            self._end_field()
        elif self._in_file:
            self._take_file(bytes(event))
        else:
            self._value += event
            if self._values_size + len(self._value) > MOST_VALUES:
                raise HTTPError(
                    413, f"The form's fields have more than {MOST_VALUES} bytes.", "Send fewer."
                )

    def _take_file(self, data: bytes) -> None:
        self._file_size += len(data)
        if self._feed is None:
            self._early.append(data)
        else:
            self._feed.receive(data)

    def _begin_field(self, segment: MultipartSegment) -> None:
        if self._file_ended:
            raise HTTPError(400, "A field follows the form's file.", "Put the file last.")
        self._name = segment.name
        if segment.filename is not None or segment.name == "file":
            self._in_file = True
            self.filename = segment.filename or ""
            # The rest waits until the upload is admitted.
            self._request.connection.hold("form", True)
            self._before_file.callback(None)

    def _end_field(self) -> None:
        if self._in_file:
            self._file_ended = True
            return
        try:
            text = self._value.decode()
        except UnicodeDecodeError:
            raise HTTPError(400, "A field of the form is not UTF-8.", "Send UTF-8.") from None
        self._fields.append((self._name or "", text))
        self._values_size += len(self._value)
        self._value.clear()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            if self._feed is not None:
                self._feed.fail(error)
            elif not self._before_file.called:
                self._before_file.errback(error)


def _malformed(error: MultipartError) -> HTTPError:
    return HTTPError(
        400,
        f"The form can't be read: {error}.",
        "Send multipart/form-data with a boundary. Example: curl -F type=gif -F file=@film.mp4",
    )
