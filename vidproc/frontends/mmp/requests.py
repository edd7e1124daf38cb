"""Answers requests that need no transfer or watch, and prepares the others."""

from __future__ import annotations

from vidproc.answers import Answer
from vidproc.errors import ErrorCode, ServiceError
from vidproc.frontends.interface import Backend
from vidproc.frontends.mmp.reports import describe_server, list_report, status_report
from vidproc.frontends.reports import accepted, cancelled
from vidproc.mmp import messages
from vidproc.mmp.codec import MessageStarted
from vidproc.tasks.results import Result
from vidproc.tasks.settings import Caller
from vidproc.tasks.uploads.session import AcceptedTask, PartialUpload
from vidproc.tasks.uploads.submission import Submission


async def answer_request(
    request: messages.Request, caller: Caller, backend: Backend
) -> tuple[Answer, bool]:
    """Return the answer to a request, and whether it may take more than one packet.

    Not for uploads, downloads and watches. Raises `ServiceError`.
    """
    tasks = backend.tasks
    match request:
        case messages.Status():
            view = await tasks.status(request.task_id, caller)
            return status_report(view, request), request.detail
        case messages.Cancel():
            return cancelled(await tasks.cancel(request.task_id, caller)), False
        case messages.UploadStatus():
            return upload_answer(await tasks.upload_status(str(request.upload_id), caller)), False
        case messages.List():
            # A hundred tasks take about 50 KB.
            return list_report(await tasks.list(caller), request), True
        case messages.Info():
            return describe_server(backend.server_info(), request), request.detail
    raise TypeError(f"{type(request).__name__} has no answer of its own")


def upload_answer(upload: AcceptedTask | PartialUpload) -> Answer:
    """Return the answer that says how much of an upload was received."""
    if isinstance(upload, AcceptedTask):
        return accepted(upload.task_id)
    return messages.Partial(status="partial", offset=upload.offset)


def submission_of(request: messages.Upload, head: MessageStarted) -> Submission:
    """Return the submission in an upload request."""
    return Submission(
        type=request.type,
        parameters=request.parameters,
        media_type=head.media_type,
        payload_size=head.payload_size,
        filename=request.filename,
        upload_id=str(request.upload_id) if request.upload_id else None,
        size=request.size,
        offset=request.offset,
        sha256=request.sha256,
    )


def download_answer(request: messages.Download, result: Result) -> messages.DownloadStarts:
    """Return the head of a download; raises `ServiceError` 409 for an offset past the end."""
    if request.offset > result.size:
        raise ServiceError(
            ErrorCode.CONFLICT,
            f"The offset is {request.offset}, but the result has {result.size} bytes.",
            "Download it from offset 0.",
            offset=result.size,
        )
    return messages.DownloadStarts(
        id=request.id,
        status="completed",
        size=result.size,
        offset=request.offset,
        sha256=result.sha256,
    )
