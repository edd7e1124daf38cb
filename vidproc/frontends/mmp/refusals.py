"""Errors for clients whose connection ends."""

from __future__ import annotations

from vidproc.errors import ErrorCode, ServiceError
from vidproc.mmp.errors import RemoteProtocolError


def not_mmp(error: RemoteProtocolError) -> ServiceError:
    """The bytes are not MMP."""
    return ServiceError(
        ErrorCode.BAD_REQUEST,
        f"This is not an MMP request: {error}.",
        "This port speaks MMP (docs/mmp.md), not HTTP and not TLS. Use the vidproc client, or send"
        " an 8-byte header, then JSON, media type and payload.",
    )


def too_slow(why: str) -> ServiceError:
    """The client is too slow; `why` is a sentence."""
    return ServiceError(
        ErrorCode.BAD_REQUEST,
        why,
        "Send it again over a faster connection; an upload with an upload_id continues where it"
        " stopped.",
    )
