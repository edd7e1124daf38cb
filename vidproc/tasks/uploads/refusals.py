"""Errors for clients whose uploads cannot continue."""

from __future__ import annotations

from vidproc.errors import ErrorCode, ServiceError
from vidproc.tasks.model import Task
from vidproc.tasks.settings import Caller
from vidproc.units import format_size


def taken_over() -> ServiceError:
    """Another connection has taken over the upload."""
    return ServiceError(
        ErrorCode.CONFLICT,
        "A newer connection has taken over this upload.",
        "Let it finish, or ask how much has arrived and continue from there.",
    )


def abandoned() -> ServiceError:
    """The client deleted the upload on another connection."""
    return ServiceError(
        ErrorCode.CONFLICT,
        "The upload was abandoned on another connection.",
        "Draw a new UUID and start again.",
    )


def too_long(most: int) -> ServiceError:
    """More than `most` bytes were received."""
    return ServiceError(
        ErrorCode.TOO_LARGE,
        f"The upload exceeds the {format_size(most)} that it may have.",
        "Send a smaller file, or only a stretch of the video.",
    )


def length_contradicts(length: int, other: int) -> ServiceError:
    """The given length contradicts an earlier one, or the bytes received."""
    return ServiceError(
        ErrorCode.INVALID_PARAMETER,
        f"The upload can't have {length} bytes: it has {other}.",
        "Give the length of the whole file, once.",
    )


def no_such_upload() -> ServiceError:
    """There is no such upload, or it belongs to someone else."""
    return ServiceError(
        ErrorCode.NOT_FOUND,
        "There is no such upload.",
        "Start it with an upload request from offset 0.",
    )


def has_become_a_task(task_id: str) -> ServiceError:
    """A complete upload cannot be abandoned."""
    return ServiceError(
        ErrorCode.CONFLICT,
        "The upload is complete and has become a task.",
        f"Cancel the task {task_id} instead.",
    )


def still_ending() -> ServiceError:
    """The upload's last connection has ended, but its bytes are not stored yet."""
    return ServiceError(
        ErrorCode.UNAVAILABLE,
        "The last bytes of this upload are still being stored.",
        "Ask in a few seconds how much has arrived, and continue from there.",
    )


def wrong_checksum() -> ServiceError:
    """The bytes received are not those that the client announced."""
    return ServiceError(
        ErrorCode.INVALID_PARAMETER,
        "The SHA-256 of the received file is not the one in the request.",
        "The bytes changed on the way: send the file again.",
    )


def require_offset(given: int, right: int) -> None:
    """Raise `ServiceError` 409 if an upload does not continue where it stopped."""
    if given != right:
        raise ServiceError(
            ErrorCode.CONFLICT,
            f"The offset is {given}, but {right} bytes of the upload were received.",
            f"Continue from offset {right}.",
            offset=right,
        )


def require_owner(known: Task, caller: Caller, owner_only: bool) -> None:
    """Raise `ServiceError` 409 if an upload belongs to someone else."""
    if not caller.owns(known, owner_only):
        raise ServiceError(
            ErrorCode.CONFLICT,
            "This upload_id belongs to someone else.",
            "Draw a new UUID and start again.",
        )


def require_same(known: Task, task: Task) -> None:
    """Raise `ServiceError` 422 if a request differs from the one that started the upload.

    An unknown length matches any.
    """
    lengths = {known.input_size, task.input_size} - {0}
    if (known.type, known.parameters) != (task.type, task.parameters) or len(lengths) > 1:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            "This upload_id was started with a different type, size or parameters.",
            "Send the same request again, or draw a new UUID for a new upload.",
        )


def require_same_checksum(known: Task, task: Task) -> None:
    """Raise `ServiceError` 422 if two requests for an upload give different checksums."""
    promised = known.upload_sha256
    if None not in (promised, task.upload_sha256) and promised != task.upload_sha256:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            "This upload_id was started with a different sha256.",
            "Send the same file again, or draw a new UUID for a new upload.",
        )
