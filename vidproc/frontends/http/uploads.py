"""Resumable uploads by tus: creating, describing, continuing and deleting them.

They are the same as MMP's resumable uploads: the same store, the same rule for taking over.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from twisted.internet.task import deferLater

from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.http import tus, upload_body
from vidproc.frontends.http.answers import Answer, empty_answer, json_answer
from vidproc.frontends.http.body import BodyBroken
from vidproc.frontends.http.problems import HTTPError
from vidproc.frontends.http.request import DRAINABLE, Request
from vidproc.frontends.http.routing import Access, Route
from vidproc.frontends.reports import accepted
from vidproc.mmp.messages import decode_object
from vidproc.tasks.uploads.known import UploadView
from vidproc.tasks.uploads.refusals import require_offset
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload
from vidproc.tasks.uploads.submission import Submission

PATH = "/api/v1/uploads"
SETTLE_STEP = 0.05
"""Seconds between checks of an upload that another connection may still be sending."""
SETTLE_STEPS = 10
"""Checks after which the offset is reported as it is."""


async def options(request: Request) -> Answer:
    """Answer which parts of tus are supported."""
    return empty_answer(
        204,
        {
            "Allow": "DELETE, HEAD, OPTIONS, PATCH" if request.arguments else "OPTIONS, POST",
            "Tus-Version": tus.VERSION,
            "Tus-Extension": ",".join(tus.EXTENSIONS),
            "Tus-Max-Size": str(request.backend.tasks.settings.max_upload),
            "Tus-Checksum-Algorithm": ",".join(tus.CHECKSUMS),
        },
    )


async def create(request: Request) -> Answer:
    """Create an upload, and take the bytes that come with the request."""
    tus.require_version(request.header("Tus-Resumable"))
    if request.header("Upload-Concat") is not None:
        raise HTTPError(
            400, "This server does not join uploads.", "Send the file as one upload, in order."
        )
    submission = _submission(request)
    carries = _content_type(request) == tus.CONTENT_TYPE and request.body.length != 0
    checksum = _checksum(request)
    if carries:
        _require_fit(request, 0, submission.size)
    elif not request.body.ended:
        await request.body.read(DRAINABLE)
    view = await request.backend.tasks.create_upload(submission, request.caller)
    headers = {"Location": request.reference(f"{PATH}/{view.upload_id}")}
    if not carries or view.task_id is not None or view.offset:
        return _told(201, view, headers)
    try:
        result = await _take(request, view, 0, checksum)
    except (ServiceError, HTTPError, BodyBroken):
        if request.header("Idempotency-Key") is None:
            await _abandon_quietly(request, view)
        raise
    return await _moved(request, 201, view, result, headers)


async def describe(request: Request) -> Answer:
    """Answer how much of an upload has been received."""
    tus.require_version(request.header("Tus-Resumable"))
    view = await _settled(request)
    headers = {"Upload-Offset": str(view.offset)}
    if view.length is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(view.length)
    if view.metadata:
        headers["Upload-Metadata"] = view.metadata
    return _told(200, view, headers)


async def append(request: Request) -> Answer:
    """Take further bytes of an upload."""
    tus.require_version(request.header("Tus-Resumable"))
    if _content_type(request) != tus.CONTENT_TYPE:
        raise HTTPError(
            415,
            "The body of a PATCH has another content type.",
            f"Send Content-Type: {tus.CONTENT_TYPE}.",
        )
    offset = tus.read_size("Upload-Offset", request.header("Upload-Offset"))
    if offset is None:
        raise HTTPError(
            400,
            "The header Upload-Offset is missing.",
            "Ask by HEAD where the upload stands, and send that.",
        )
    checksum = _checksum(request)
    tasks, upload_id = request.backend.tasks, request.arguments["upload_id"]
    view = await tasks.describe_upload(upload_id, request.caller)
    length = tus.read_size("Upload-Length", request.header("Upload-Length"))
    if length is not None:
        view = await tasks.set_upload_length(upload_id, length, request.caller)
    if not view.arriving or offset > (view.length or offset):
        # Otherwise the offset is known only once this connection has taken over.
        require_offset(offset, view.offset)
    _require_fit(request, offset, view.length)
    result = await _take(request, view, offset, checksum)
    return await _moved(request, 204, view, result, {})


async def terminate(request: Request) -> Answer:
    """Delete an upload and what was received of it."""
    tus.require_version(request.header("Tus-Resumable"))
    await request.backend.tasks.abandon_upload(request.arguments["upload_id"], request.caller)
    return empty_answer(204)


def _submission(request: Request) -> Submission:
    """Return what the headers of a creation request ask for."""
    length = tus.read_size("Upload-Length", request.header("Upload-Length"))
    deferred = request.header("Upload-Defer-Length")
    if (length is None) == (deferred is None) or deferred not in (None, "1"):
        raise HTTPError(
            400,
            "A creation needs one of Upload-Length and Upload-Defer-Length: 1.",
            "Send the file's length in bytes. Example: Upload-Length: 1000000",
        )
    metadata_text = request.header("Upload-Metadata")
    metadata = tus.read_metadata(metadata_text)
    if "type" not in metadata:
        raise HTTPError(
            400,
            "The Upload-Metadata does not say what to do with the video.",
            "Add the key type, such as gif, and parameters as a JSON object, each in Base64.",
        )
    sha256 = metadata.get("sha256")
    if sha256 is not None and not _is_sha256(sha256):
        raise HTTPError(
            400, "The sha256 is not 64 hexadecimal digits.", "Send the whole file's SHA-256 in hex."
        )
    filename = metadata.get("filename")
    key = request.header("Idempotency-Key")
    return Submission(
        type=metadata["type"],
        parameters=_parameters(metadata.get("parameters", "")),
        media_type=upload_body.media_type_of(filename),
        payload_size=0,
        filename=None if filename is None else filename[:1024],
        upload_id=str(uuid4()) if key is None else tus.read_key(key),
        size=length,
        sha256=sha256,
        length_follows=length is None,
        metadata=metadata_text,
    )


def _parameters(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`, which may be empty. Raises `HTTPError` 400."""
    if not text:
        return {}
    try:
        return decode_object(text.encode())
    except ServiceError:
        raise HTTPError(
            400,
            "The parameters in the Upload-Metadata are not a JSON object.",
            'Send one, in Base64. Example: {"start_time":0,"duration":5}',
        ) from None


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in text)


def _content_type(request: Request) -> str:
    return (request.header("Content-Type") or "").partition(";")[0].strip().lower()


def _checksum(request: Request) -> tus.Checksum | None:
    text = request.header("Upload-Checksum")
    return None if text is None else tus.Checksum.read(text)


def _require_fit(request: Request, offset: int, length: int | None) -> None:
    """Raise `HTTPError` 413 if a body goes beyond the end of its upload or the size limit."""
    most = request.backend.tasks.settings.max_upload if length is None else length
    if offset + (request.body.length or 0) > most:
        raise HTTPError(
            413,
            f"The body reaches past the {most} bytes that the upload may have.",
            "Send no more than Upload-Length - Upload-Offset bytes.",
        )


async def _take(
    request: Request, view: UploadView, offset: int, checksum: tus.Checksum | None
) -> AcceptedTask | PartialUpload:
    """Take the request's body as the bytes of an upload from `offset` on."""
    submission = Submission(
        type=view.type,
        parameters=view.parameters,
        media_type=view.media_type,
        payload_size=request.body.length or 0,
        filename=view.filename,
        upload_id=view.upload_id,
        size=view.length,
        offset=offset,
        length_follows=view.length is None,
        provisional=checksum is not None,
    )
    admitted = await request.backend.tasks.admit(submission, request.caller)
    if not isinstance(admitted, AcceptedTask):
        return await upload_body.receive(request, admitted, checksum)
    if offset != view.length or request.body.length != 0:
        raise ServiceError(
            ErrorCode.CONFLICT,
            f"The offset is {offset}, but the upload is whole.",
            "Ask for its task, which the header Vidproc-Task of a HEAD names.",
            offset=view.length or 0,
            task_id=admitted.task_id,
        )
    return admitted


async def _moved(
    request: Request,
    status: int,
    view: UploadView,
    result: AcceptedTask | PartialUpload,
    headers: dict[str, str],
) -> Answer:
    """Return the answer after a body was taken."""
    now = await request.backend.tasks.describe_upload(view.upload_id, request.caller)
    if isinstance(result, PartialUpload):
        headers["Upload-Offset"] = str(result.offset)
    else:
        headers["Upload-Offset"] = str(now.length)
    return _told(status, now, headers)


def _told(status: int, view: UploadView, headers: dict[str, str]) -> Answer:
    """Return an answer that describes an upload."""
    if view.expires_at is not None:
        headers["Upload-Expires"] = tus.http_date(view.expires_at)
    if view.task_id is not None:
        headers["Vidproc-Task"] = view.task_id
        headers.setdefault("Upload-Offset", str(view.offset))
        if status == 201:
            return json_answer(accepted(view.task_id), 201, headers)
    return empty_answer(status, headers)


async def _settled(request: Request) -> UploadView:
    """Return an upload once the bytes of a connection that was just lost are stored.

    Otherwise the offset could still grow after a client was told it. If another connection keeps
    sending, return the upload as it is after a moment.
    """
    tasks, upload_id = request.backend.tasks, request.arguments["upload_id"]
    view: UploadView = await tasks.describe_upload(upload_id, request.caller)
    for _ in range(SETTLE_STEPS):
        if not view.arriving:
            break
        await deferLater(request.backend.reactor, SETTLE_STEP)
        view = await tasks.describe_upload(upload_id, request.caller)
    return view


async def _abandon_quietly(request: Request, view: UploadView) -> None:
    """Delete an upload whose client will never learn its Location."""
    try:
        await request.backend.tasks.abandon_upload(view.upload_id, request.caller)
    except ServiceError:
        pass  # it is gone already, or someone else continues it


_TUS = {"Tus-Resumable": tus.VERSION}
_ONE = f"{PATH}/{{upload_id}}"

ROUTES = (
    Route(
        "OPTIONS",
        PATH,
        options,
        "The supported version and extensions of tus.",
        Access.ANYBODY,
        headers=_TUS,
    ),
    Route(
        "OPTIONS",
        _ONE,
        options,
        "The supported version and extensions of tus.",
        Access.ANYBODY,
        headers=_TUS,
    ),
    Route("POST", PATH, create, "Create a resumable upload.", takes_body=True, headers=_TUS),
    Route("HEAD", _ONE, describe, "How much of an upload was received.", headers=_TUS),
    Route("PATCH", _ONE, append, "Send further bytes of an upload.", takes_body=True, headers=_TUS),
    Route("DELETE", _ONE, terminate, "Delete an upload.", headers=_TUS),
)
