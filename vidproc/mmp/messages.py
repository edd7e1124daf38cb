"""MMP's requests and answers as types, and their JSON.

`parse_request` turns the JSON of a message into one of the request types, or raises a
`ServiceError` that says which field is wrong. `encode_answer` gives the bytes of an answer,
kept short enough for one packet unless the request asked for detail.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec

from vidproc.answers import Answer, RequestId
from vidproc.errors import ErrorCode, ServiceError
from vidproc.mmp.codec import MAX_JSON_SIZE, MAX_PAYLOAD_SIZE, encode_head
from vidproc.untrusted_json import decode_json

MAX_SHORT_ANSWER = 1200
"""Header, JSON and media type of an answer stay under this many bytes without ``detail``.

Clients read an answer's JSON with a single ``recv``; 1,200 bytes fit one packet on any network.
"""

MAX_DEPTH = 32
"""The deepest nesting of objects and lists in a request's JSON."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_PAYLOAD_SIZE)]


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """The base of all requests: an `id` that the answers repeat, a `token`, and `detail`."""

    id: RequestId = None
    token: str | None = None
    detail: bool = False


class Upload(Request, kw_only=True, frozen=True):
    """Send a file and start a task; with `upload_id` in several requests, `size` bytes in all."""

    type: str
    parameters: dict[str, Any] = {}
    filename: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    upload_id: UUID | None = None
    size: Offset | None = None
    offset: Offset = 0
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$", max_length=64)] | None = None


class Status(Request, kw_only=True, frozen=True):
    """Ask for the status of a task."""

    task_id: str


class Download(Request, kw_only=True, frozen=True):
    """Fetch a task's result from byte `offset` on."""

    task_id: str
    offset: Offset = 0


class Watch(Request, kw_only=True, frozen=True):
    """Follow a task: a status at once, on every change and every `interval` seconds."""

    task_id: str
    interval: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 1.0


class Cancel(Request, kw_only=True, frozen=True):
    """End a task and remove its files."""

    task_id: str


class UploadStatus(Request, kw_only=True, frozen=True):
    """Ask how much of a resumable upload was received."""

    upload_id: UUID


class List(Request, kw_only=True, frozen=True):
    """Ask for the token's own tasks."""


class Info(Request, kw_only=True, frozen=True):
    """Ask for the version, the limits and the operations."""


REQUEST_TYPES: dict[str, type[Request]] = {
    "upload": Upload,
    "status": Status,
    "download": Download,
    "watch": Watch,
    "cancel": Cancel,
    "delete": Cancel,
    "upload_status": UploadStatus,
    "list": List,
    "info": Info,
}

_EXAMPLES = {
    "upload": '{"action":"upload","type":"compress","parameters":{}}',
    "status": '{"action":"status","task_id":"..."}',
    "download": '{"action":"download","task_id":"..."}',
    "watch": '{"action":"watch","task_id":"...","interval":1}',
    "cancel": '{"action":"cancel","task_id":"..."}',
    "delete": '{"action":"delete","task_id":"..."}',
    "upload_status": '{"action":"upload_status","upload_id":"<UUID>"}',
    "list": '{"action":"list","token":"..."}',
    "info": '{"action":"info"}',
}


def parse_request(json: bytes) -> Request:
    """Return the request in `json`, the UTF-8 of one object.

    Raises `ServiceError` 400 for bad JSON, an unknown action, and a missing or malformed field;
    `request_id` finds the ``id`` for the answer to such a request.
    """
    fields = decode_object(json)
    action = fields.get("action")
    if not isinstance(action, str) or action not in REQUEST_TYPES:
        what = "The request has no action" if action is None else "The action is unknown"
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            f"{what}.",
            f"Use one of {', '.join(REQUEST_TYPES)}. Example: {_EXAMPLES['info']}",
        )
    try:
        return msgspec.convert(fields, REQUEST_TYPES[action])
    except msgspec.ValidationError as error:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            f"The {action} request is malformed: {clip(str(error), 200)}.",
            f"Correct that field. Example: {_EXAMPLES[action]}",
        ) from None


def decode_object(json: bytes) -> dict[str, Any]:
    """Return the JSON object in `json`. Raises `ServiceError` 400 if it is not one."""
    example = f"Send one JSON object in UTF-8. Example: {_EXAMPLES['info']}"
    if not json:
        raise ServiceError(ErrorCode.BAD_REQUEST, "The request has no JSON.", example)
    try:
        fields = decode_json(json)
    except msgspec.DecodeError as error:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            f"The request's JSON can't be read: {clip(str(error), 120)}.",
            example,
        ) from None
    if not isinstance(fields, dict):
        raise ServiceError(ErrorCode.BAD_REQUEST, "The request's JSON is not an object.", example)
    # Brackets in strings are counted too, but most requests need no closer check.
    if json.count(b"{") + json.count(b"[") > MAX_DEPTH and _deeper_than(fields, MAX_DEPTH):
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            f"The request's JSON is nested deeper than {MAX_DEPTH}.",
            example,
        )
    return fields


def _deeper_than(value: Any, most: int) -> bool:
    """Return whether objects and lists are nested more than `most` deep.

    Without recursion, which deep nesting would break.
    """
    level = [value]
    for _ in range(most):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def request_id(json: bytes) -> RequestId:
    """Return the ``id`` of a request that may be malformed otherwise; None if it has none."""
    try:
        return msgspec.json.decode(json, type=_OnlyId).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _OnlyId(msgspec.Struct):
    id: RequestId = None


# --- answers ---------------------------------------------------------------------------------


class Partial(Answer, kw_only=True):
    """`offset` bytes of a resumable upload were received."""

    status: str
    offset: int


class DownloadStarts(Answer, kw_only=True):
    """The result from `offset` on follows as the payload. `size` and `sha256` are of all of it."""

    status: str
    size: int
    offset: int
    sha256: str

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= self.size:
            raise ValueError("offset outside the file")


class ErrorBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is wrong and what to do next."""

    code: int
    description: str
    solution: str
    offset: int | None = None
    task_id: str | None = None


class ErrorAnswer(Answer, kw_only=True):
    """The request was refused or failed."""

    error: ErrorBody


def error_answer(error: ServiceError, id: RequestId = None) -> ErrorAnswer:
    """Return the answer that tells a client of `error`."""
    offset = error.extra.get("offset")
    task_id = error.extra.get("task_id")
    return ErrorAnswer(
        id=id,
        error=ErrorBody(
            code=int(error.code),
            description=error.description,
            solution=error.solution,
            offset=offset if isinstance(offset, int) else None,
            task_id=task_id if isinstance(task_id, str) else None,
        ),
    )


def encode_answer(
    answer: Answer, media_type: str = "", payload_size: int = 0, *, detail: bool = False
) -> bytes:
    """Return an answer's header, JSON and media type.

    Without `detail`, free texts are cut so that the result stays under `MAX_SHORT_ANSWER` bytes.
    With it, long parts become empty if they would not fit MMP's 65,535 bytes of JSON.
    """
    if answer.id is None:
        answer.id = msgspec.UNSET
    json = msgspec.json.encode(answer)
    room = MAX_JSON_SIZE if detail else MAX_SHORT_ANSWER - 1 - 8 - len(media_type.encode())
    if len(json) > room:
        json = _shorten(msgspec.to_builtins(answer), room)
    return encode_head(json, media_type, payload_size)


_FREE_TEXTS = ("message", "error", "description", "solution")
_LONG_PARTS = ("parameters", "warnings", "input", "output")


def _shorten(fields: dict[str, Any], room: int) -> bytes:
    """Return the JSON of an answer, cut to `room` bytes.

    Very long parts of the long form become empty; free texts are clipped, more and more until it
    fits.
    """
    for key in _LONG_PARTS:
        part = fields.get(key)
        if isinstance(part, dict | list) and len(msgspec.json.encode(part)) > room // 5:
            fields[key] = type(part)()
    bodies = [body for body in (fields, fields.get("error")) if isinstance(body, dict)]
    for allowance in (400, 250, 150, 80, 40, 0):
        for body in bodies:
            for key in _FREE_TEXTS:
                if isinstance(body.get(key), str):
                    body[key] = clip(body[key], allowance)
        json = msgspec.json.encode(fields)
        if len(json) <= room:
            break
    return json


def clip(text: str, length: int) -> str:
    """Return `text`, cut with an ellipsis if it has more than `length` bytes of UTF-8."""
    raw = text.encode()
    if len(raw) <= length:
        return text
    return raw[: max(0, length - 3)].decode(errors="ignore") + ("…" if length >= 3 else "")
