"""Requests as JSON and as bytes; imports nothing of Twisted, so that one can be sent before it."""

from __future__ import annotations

from typing import Any

import msgspec

from vidproc.mmp.codec import encode_head


def request_fields(action: str, token: str | None, **fields: object) -> dict[str, Any]:
    """Return a request's JSON, with the token if there is one."""
    if token is not None:
        fields["token"] = token
    return {"action": action, **fields}


def upload_fields(
    token: str | None,
    *,
    operation: str,
    parameters: dict[str, Any],
    filename: str,
    size: int,
    upload_id: str,
    **rest_of: object,
) -> dict[str, Any]:
    """Return the JSON of an upload's request. `rest_of` is for one that sends the rest of a
    file."""
    return request_fields(
        "upload",
        token,
        type=operation,
        parameters=parameters,
        filename=filename,
        size=size,
        upload_id=upload_id,
        **rest_of,
    )


def encode_request(fields: dict[str, Any], media_type: str = "", size: int = 0) -> bytes:
    """Return the bytes of a request before its payload of `size` bytes.

    Raises `LocalProtocolError` if it is too large for the protocol.
    """
    return encode_head(msgspec.json.encode(fields), media_type, size)
