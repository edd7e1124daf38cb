"""What clients are told whose uploads can't go on."""

from __future__ import annotations

from vidproc.errors import ErrorCode, ServiceError
from vidproc.tasks.model import Task
from vidproc.tasks.settings import Caller
from vidproc.units import format_size


def taken_over() -> ServiceError:
    """Another connection goes on with the upload."""
    return ServiceError(
        ErrorCode.CONFLICT,
        "A newer connection goes on with this upload.",
        "Let it, or ask upload_status and go on from there.",
    )


def abandoned() -> ServiceError:
    """The upload was forgotten on the client's wish, on another connection."""
    return ServiceError(
        ErrorCode.CONFLICT,
        "The upload was abandoned on another connection.",
        "Draw a new UUID and start again.",
    )


def too_long(most: int) -> ServiceError:
    """More than `most` bytes have arrived."""
    return ServiceError(
        ErrorCode.TOO_LARGE,
        f"The upload has more than the {format_size(most)} that it may have.",
        "Send a smaller file, or only a stretch of the video.",
    )


def length_contradicts(length: int, other: int) -> ServiceError:
    """The length that is said now contradicts an earlier one, or the bytes that have arrived."""
    return ServiceError(
        ErrorCode.INVALID_PARAMETER,
        f"The upload can't have {length} bytes: it has {other}.",
        "Say the length of the whole file, once.",
    )


def no_such_upload() -> ServiceError:
    """There is no such upload for whoever asks."""
    return ServiceError(
        ErrorCode.NOT_FOUND,
        "There is no such upload.",
        "Start it with an upload request from offset 0.",
    )


def has_become_a_task(task_id: str) -> ServiceError:
    """An upload that is whole can't be abandoned."""
    return ServiceError(
        ErrorCode.CONFLICT,
        "The upload is whole and has become a task.",
        f"Cancel the task {task_id} instead.",
    )


def still_ending() -> ServiceError:
    """The upload's last connection has ended, but what it brought is not stored yet."""
    return ServiceError(
        ErrorCode.UNAVAILABLE,
        "What arrived last of this upload is still being stored.",
        "Ask upload_status in a few seconds and go on from there.",
    )


def wrong_checksum() -> ServiceError:
    """The bytes that have arrived are not those that were promised."""
    return ServiceError(
        ErrorCode.INVALID_PARAMETER,
        "The file's SHA-256 is not the one that was promised.",
        "The bytes changed on the way: send the file again.",
    )


def require_offset(given: int, right: int) -> None:
    """Raise `ServiceError` 409 when an upload does not go on where it stands."""
    if given != right:
        raise ServiceError(
            ErrorCode.CONFLICT,
            f"The offset is {given}, but the upload stands at {right} bytes.",
            f"Go on from offset {right}.",
            offset=right,
        )


def require_owner(known: Task, caller: Caller, owner_only: bool) -> None:
    """Raise `ServiceError` 409 when an upload belongs to somebody else."""
    if not caller.owns(known, owner_only):
        raise ServiceError(
            ErrorCode.CONFLICT,
            "This upload_id belongs to somebody else.",
            "Draw a new UUID and start again.",
        )


def require_same(known: Task, task: Task) -> None:
    """Raise `ServiceError` 422 when a request is not the one that an upload was begun with.

    A length that is not known yet fits any.
    """
    lengths = {known.input_size, task.input_size} - {0}
    if (known.type, known.parameters) != (task.type, task.parameters) or len(lengths) > 1:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            "This upload_id was begun with another type, size or other parameters.",
            "Send the same request again, or draw a new UUID for a new upload.",
        )


def require_same_checksum(known: Task, task: Task) -> None:
    """Raise `ServiceError` 422 when two requests for an upload promise different checksums."""
    promised = known.upload_sha256
    if None not in (promised, task.upload_sha256) and promised != task.upload_sha256:
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            "This upload_id was begun with another sha256.",
            "Send the same file again, or draw a new UUID for a new upload.",
        )
