"""What a client asks for with an upload, and the checks that need no bytes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vidproc.errors import ErrorCode, ServiceError
from vidproc.request_id import current_request_id
from vidproc.tasks.model import Task, new_task_id
from vidproc.tasks.orders import Order, parse_order
from vidproc.tasks.settings import Caller
from vidproc.units import format_size

_MEDIA_TYPE = re.compile(r"\.?([A-Za-z0-9][A-Za-z0-9_+-]{0,31})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asks for with an upload. Sizes in bytes.

    `payload_size` is the size of this message's payload, `size` that of the whole file.
    """

    type: str
    parameters: dict[str, Any]
    media_type: str
    payload_size: int
    filename: str | None = None
    upload_id: str | None = None
    size: int | None = None
    offset: int = 0
    sha256: str | None = None
    length_follows: bool = False
    """Whether the size of the whole file is not known yet; then `payload_size` means nothing."""
    provisional: bool = False
    """Whether the payload still has to fit a checksum, and counts as received only then."""
    restart: bool = False
    """Whether the upload starts at byte 0 again, whatever was received under its `upload_id`."""
    metadata: str | None = None
    """What a client wants to be told again of its upload, as it wrote it."""


def check_submission(
    submission: Submission, caller: Caller, *, max_upload: int, now: float
) -> tuple[Task, Order]:
    """Return the task that a submission will become, and its order.

    The task's `input_size` is 0 if the length follows. Raises `ServiceError` 400, 413, 415 or 422
    for what can be refused from the request alone.
    """
    order, warnings = parse_order(submission.type, submission.parameters)
    if _MEDIA_TYPE.fullmatch(submission.media_type) is None:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            "The media type is malformed.",
            "Send the file's extension without the dot, such as mp4.",
        )
    if submission.length_follows:
        size = 0
    else:
        size = _whole_size(submission)
        require_length(size, max_upload)
    task = Task(
        task_id=new_task_id(),
        type=submission.type,
        parameters=submission.parameters,
        peer=caller.peer,
        principal=caller.principal,
        media_type=submission.media_type.lstrip(".").lower(),
        filename=submission.filename,
        created_at=now,
        input_size=size,
        upload_id=submission.upload_id,
        upload_sha256=submission.sha256.lower() if submission.sha256 else None,
        upload_metadata=submission.metadata,
        verified=0 if submission.provisional else None,
        warnings=warnings,
        request_id=current_request_id(),
    )
    return task, order


def _whole_size(submission: Submission) -> int:
    """Return the bytes of the whole file; raises `ServiceError` when the sizes contradict."""
    end = submission.offset + submission.payload_size
    if submission.upload_id is not None:
        if submission.size is None:
            raise ServiceError(
                ErrorCode.BAD_REQUEST,
                "A resumable upload needs the whole file's size.",
                'Add "size" in bytes to the request.',
            )
        if end > submission.size:
            raise ServiceError(
                ErrorCode.INVALID_PARAMETER,
                f"offset and payload add up to {end} bytes; the size is {submission.size}.",
                "Send no more than size - offset bytes.",
            )
        return submission.size
    if submission.offset:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            "An offset needs an upload_id.",
            "Draw a UUID for the upload and send it as upload_id from the start.",
        )
    if submission.size is not None and submission.size != end:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            f"The size is {submission.size} but the payload has {end} bytes.",
            "Send the whole file, or an upload_id to send it in several requests.",
        )
    return end


def require_length(length: int, max_upload: int) -> None:
    """Raise `ServiceError` 415 when a file is empty, 413 when it is too long. Sizes in bytes."""
    if length == 0:
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The file is empty.",
            "Send a video file as the payload.",
        )
    if length > max_upload:
        raise ServiceError(
            ErrorCode.TOO_LARGE,
            f"The file has {format_size(length)}; this server takes {format_size(max_upload)}.",
            "Send a smaller file, or only a stretch of the video.",
        )
