"""What a client is told when its file can't be processed."""

from __future__ import annotations

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.command import CommandFailed, FailureKind

_CHECK = "Check that the file plays from start to end, or send it in another format."


def explain_failure(error: CommandFailed) -> ServiceError:
    """Return what to tell a client whose file was the reason why a command failed."""
    match error.kind:
        case FailureKind.SPACE:
            return ServiceError(
                ErrorCode.NO_SPACE,
                "The server ran out of disk space while it worked on this task.",
                "Try again later, or ask the server's operator to make space.",
            )
        case FailureKind.MEMORY:
            return too_much_memory()
        case FailureKind.TIMED_OUT:
            return ServiceError(
                ErrorCode.TOO_LARGE,
                "Processing this file took more CPU time than the server gives one task.",
                "Send a shorter or smaller video.",
            )
        case FailureKind.STALLED:
            return ServiceError(
                ErrorCode.TOO_LARGE,
                "Processing this file made no progress and was stopped.",
                _CHECK,
            )
    return ServiceError(
        ErrorCode.UNSUPPORTED_MEDIA,
        f"FFmpeg could not process this file ({error.command.stage}: {error.reason}).",
        _CHECK,
    )


def too_much_memory() -> ServiceError:
    """Processing the file takes too much memory."""
    return ServiceError(
        ErrorCode.TOO_LARGE,
        "This file needs more memory than the server gives one task.",
        "Send a smaller or less unusual file.",
    )


def not_a_video() -> ServiceError:
    """The probe can't read the file."""
    return ServiceError(ErrorCode.UNSUPPORTED_MEDIA, "This file can't be read as a video.", _CHECK)


def empty_result() -> ServiceError:
    """The commands ended well and made nothing."""
    return ServiceError(
        ErrorCode.UNSUPPORTED_MEDIA, "Nothing could be made from this file.", _CHECK
    )


def unplayable_result() -> ServiceError:
    """The probe can't read the result."""
    return ServiceError(
        ErrorCode.UNSUPPORTED_MEDIA,
        "The result made from this file can't be played, so it was discarded.",
        _CHECK,
    )


def wrong_result(fault: str) -> ServiceError:
    """The result is not what the operation promised."""
    return ServiceError(
        ErrorCode.UNSUPPORTED_MEDIA,
        f"The result made from this file is not right: {fault}.",
        _CHECK,
    )
