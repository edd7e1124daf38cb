"""Plain uploads: a POST or PUT whose body is the video, or an HTML form that contains it."""

from __future__ import annotations

from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.http import forms, tus, upload_body
from vidproc.frontends.http.answers import Answer, json_answer
from vidproc.frontends.http.parameter_values import read_parameters
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Route
from vidproc.frontends.reports import accepted
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload, UploadSession
from vidproc.tasks.uploads.submission import Submission

PATH = "/api/v1/tasks"
_RESERVED = ("type", "filename")


async def submit(request: Request) -> Answer:
    """Take a video and create its task."""
    if request.body.ended and request.header("Content-Length") is None:
        raise HTTPError(
            411,
            "The length of the video is not known.",
            "Send it as the body, with a Content-Length or in chunks.",
        )
    content_type = request.header("Content-Type") or ""
    if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        return await _submit_form(request, content_type)
    submission = _submission(request, list(request.query), request.body.length)
    admitted = await request.backend.tasks.admit(submission, request.caller)
    if isinstance(admitted, AcceptedTask):
        if submission.length_follows:
            known = await _known_length(request, submission)
            counter = upload_body.Counter(known)
            request.body.feed(counter)
            _require_same(await counter.whole, known)
        return _accepted(request, admitted)
    return _finished(request, admitted, await upload_body.receive(request, admitted, whole=True))


async def _submit_form(request: Request, content_type: str) -> Answer:
    most = request.backend.tasks.settings.max_upload
    if (request.body.length or 0) > most + forms.MOST_BESIDE:
        raise too_large(most)
    form = forms.Form(request, content_type)
    fields = await form.fields()
    submission = _submission(
        request, [*request.query, *fields], None, filename=form.filename or None
    )
    admitted = await request.backend.tasks.admit(submission, request.caller)
    if isinstance(admitted, AcceptedTask):
        known = await _known_length(request, submission)
        _require_same(await form.measure(known), known)
        return _accepted(request, admitted)
    return _finished(request, admitted, await form.take(admitted))


def too_large(most: int) -> ServiceError:
    """Return the error for a body that is too large for any upload."""
    return ServiceError(
        ErrorCode.TOO_LARGE,
        f"The body is longer than the {most} bytes of an upload that this server takes.",
        "Send a smaller file, or only a stretch of the video.",
    )


def _submission(
    request: Request,
    pairs: list[tuple[str, str]],
    length: int | None,
    filename: str | None = None,
) -> Submission:
    """Return what a query or a form asks for. `length` is None if it is known only at the end."""
    types = {value for name, value in pairs if name == "type"}
    if len(types) > 1:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            "The request names more than one type.",
            "Name one, in the query or in the form. To process a video twice, send it twice.",
        )
    operation = next(iter(types), None)
    if operation is None:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            "The request does not say what to do with the video.",
            "Add type to the query. Example: POST /api/v1/tasks?type=gif&start_time=0&duration=5",
        )
    filename = _last(pairs, "filename") or filename
    key = request.header("Idempotency-Key")
    parameters = read_parameters(operation, (p for p in pairs if p[0] not in _RESERVED))
    return Submission(
        type=operation,
        parameters=parameters,
        media_type=upload_body.media_type_of(filename, request.header("Content-Type")),
        payload_size=length or 0,
        filename=None if filename is None else filename[:1024],
        upload_id=None if key is None else tus.read_key(key),
        size=length if key is not None else None,
        length_follows=length is None,
        restart=key is not None,
    )


def _last(pairs: list[tuple[str, str]], name: str) -> str | None:
    return next((value for key, value in reversed(pairs) if key == name), None)


async def _known_length(request: Request, submission: Submission) -> int:
    """Return the size of the upload that a repeated request names, in bytes."""
    assert submission.upload_id is not None
    view = await request.backend.tasks.describe_upload(submission.upload_id, request.caller)
    return view.length or 0


def _require_same(size: int, known: int) -> None:
    """Raise `ServiceError` 422 if a repeated request's video is not the accepted one."""
    if size != known:
        raise _another_length(size, known)


def _finished(
    request: Request, session: UploadSession, result: AcceptedTask | PartialUpload
) -> Answer:
    if isinstance(result, PartialUpload):
        # Complete, but another video than the first one with this key.
        raise _another_length(result.offset, session.size)
    return _accepted(request, result)


def _another_length(size: int, known: int) -> ServiceError:
    return ServiceError(
        ErrorCode.INVALID_PARAMETER,
        f"The body has {size} bytes, but this Idempotency-Key was begun with {known}.",
        "Send the same file again, or draw a new UUID for a new upload.",
    )


def _accepted(request: Request, task: AcceptedTask) -> Answer:
    location = request.reference(f"{PATH}/{task.task_id}")
    return json_answer(accepted(task.task_id), 201, {"Location": location})


ROUTES = (
    Route("POST", PATH, submit, "Upload a video and create its task.", takes_body=True),
    Route("PUT", PATH, submit, "The same, for curl -T.", takes_body=True),
)
