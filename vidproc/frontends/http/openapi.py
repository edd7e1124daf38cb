"""The API's description in OpenAPI 3.1, made from the routes and the types of the messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from vidproc import __version__
from vidproc.answers import (
    Accepted,
    Cancelled,
    ServerDescription,
    ServerFigures,
    StatusDetail,
    TaskList,
)
from vidproc.frontends.http import tus
from vidproc.frontends.http.answers import Answer
from vidproc.frontends.http.downloads import MEDIA_TYPES, Link
from vidproc.frontends.http.problems import PROBLEM_TYPE, Problem
from vidproc.frontends.http.request import Request
from vidproc.frontends.http.routing import Access, Route
from vidproc.operations.parameters import PARAMETERS, describe_parameters

_BINARY: dict[str, Any] = {}
"""The schema of bytes: in OpenAPI 3.1, only their media type describes them."""
_TEXT = {"type": "string"}
_NUMBER = {"type": "integer", "minimum": 0}


class Health(msgspec.Struct, kw_only=True):
    """The server answers."""

    status: str


class Document(msgspec.Struct, kw_only=True):
    """An OpenAPI 3.1 document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """A header of a request or an answer."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: _TEXT)
    required: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer: the type of its JSON, or its media types, and its headers."""

    description: str
    kind: type[msgspec.Struct] | None = None
    media_types: Sequence[str] = ()
    headers: Sequence[Header] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """What the routing table does not say about a method of a resource."""

    replies: Mapping[int, Reply]
    query: Sequence[Mapping[str, Any]] = ()
    headers: Sequence[Header] = ()
    body: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Schemas of the body, by media type."""


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the description of these routes. Routes without an entry in `DESCRIPTIONS` are
    omitted."""
    kinds: list[Any] = [Problem]
    for description in descriptions().values():
        kinds += [reply.kind for reply in description.replies.values() if reply.kind is not None]
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        schema.get("properties", {}).pop("id", None)  # MMP's alone
    paths: dict[str, Any] = {}
    for route in routes:
        found = descriptions().get((route.method, route.path))
        if found is not None:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, found)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vidproc",
            "version": __version__,
            "description": "Send videos, follow their tasks, fetch the results.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "../..", "description": "Where this document is from."}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, description: Description) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()} {route.path}",
        "summary": route.summary,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in (word[1:-1] for word in route.path.split("/") if word[:1] == "{")
            ),
            *description.query,
            *(_parameter(header) for header in description.headers),
        ],
        "responses": {
            **{str(status): _reply(reply) for status, reply in description.replies.items()},
            "default": {
                "description": "What is wrong, and what to do next.",
                "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
        # A server without tokens needs none.
        "security": [] if route.access is Access.ANYBODY else [{"token": []}, {}],
    }
    if description.body:
        content = {
            media_type: {"schema": schema} for media_type, schema in description.body.items()
        }
        operation["requestBody"] = {"required": False, "content": content}
    return operation


def _parameter(header: Header) -> dict[str, Any]:
    return {
        "name": header.name,
        "in": "header",
        "description": header.description,
        "required": header.required,
        "schema": header.schema,
    }


def _reply(reply: Reply) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": reply.description}
    if reply.headers:
        answer["headers"] = {
            header.name: {"description": header.description, "schema": header.schema}
            for header in reply.headers
        }
    if reply.kind is not None:
        schema = {"$ref": f"#/components/schemas/{reply.kind.__name__}"}
        answer["content"] = {"application/json": {"schema": schema}}
    elif reply.media_types:
        answer["content"] = {kind: {"schema": _BINARY} for kind in reply.media_types}
    return answer


# --- what the routing table does not say -------------------------------------------------------

_LOCATION = Header("Location", "Where it is, relative to this URL.")
_RESUMABLE = Header("Tus-Resumable", "1.0.0.", {"const": tus.VERSION})
_TUS = Header("Tus-Resumable", "1.0.0.", {"type": "string", "enum": [tus.VERSION]}, required=True)
_LENGTH = Header("Upload-Length", "Bytes of the whole file.", _NUMBER)
_OFFSET = Header("Upload-Offset", "Bytes that have arrived.", _NUMBER)
_EXPIRES = Header("Upload-Expires", "When the upload is forgotten.")
_TASK = Header("Vidproc-Task", "The task that the upload has become.")
_ETAG = Header("ETag", "The file's SHA-256.")
_DIGEST = Header("Repr-Digest", "The file's SHA-256 (RFC 9530).")
_CHECKSUM = Header("Upload-Checksum", "sha1, sha256 or crc32, and the body's checksum in Base64.")
_KEY = Header(
    "Idempotency-Key",
    "A UUID. The same request under the same key gets the same task.",
    {"type": "string", "format": "uuid"},
)
_LAST_EVENT = Header("Last-Event-ID", "The id of the last event that has been seen.")


@cache
def descriptions() -> Mapping[tuple[str, str], Description]:
    """Return the descriptions, by method and path."""
    accepted = Reply("The task is queued.", Accepted, headers=(_LOCATION,))
    submit = Description(
        {201: accepted},
        query=_submit_query(),
        headers=(_KEY,),
        body={
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "type": "object",
                "properties": {"type": {"enum": list(PARAMETERS)}, "file": _BINARY},
            },
        },
    )
    events = Description(
        {
            200: Reply("Events named status.", media_types=("text/event-stream",)),
            204: Reply("All of it has been seen: do not connect again."),
        },
        headers=(_LAST_EVENT,),
    )
    task_query = {
        "name": "task",
        "in": "query",
        "required": True,
        "description": "The tasks to follow.",
        "schema": {"type": "array", "minItems": 1, "maxItems": 100, "items": {"type": "string"}},
    }
    tus_options = Description(
        {204: Reply("What of tus there is.", headers=(Header("Tus-Version", "1.0.0."),))}
    )
    files = (*MEDIA_TYPES.values(), "application/octet-stream")
    whole = (_ETAG, _DIGEST, Header("Content-Disposition", "The name of the file."))
    uploads, upload = "/api/v1/uploads", "/api/v1/uploads/{upload_id}"
    tasks, task = "/api/v1/tasks", "/api/v1/tasks/{task_id}"
    return {
        ("GET", "/healthz"): Description({200: Reply("The server lives.", Health)}),
        ("GET", "/readyz"): Description({200: Reply("The server takes uploads.", Health)}),
        ("GET", "/metrics"): Description({200: Reply("Metrics.", media_types=("text/plain",))}),
        ("GET", "/api/v1/openapi.json"): Description({200: Reply("This document.", Document)}),
        ("GET", "/api/v1/info"): Description({200: Reply("The server.", ServerDescription)}),
        ("GET", "/api/v1/server"): Description({200: Reply("Figures.", ServerFigures)}),
        ("POST", tasks): submit,
        ("PUT", tasks): submit,
        ("GET", tasks): Description({200: Reply("The tasks.", TaskList)}),
        ("GET", task): Description({200: Reply("The long form of the status.", StatusDetail)}),
        ("DELETE", task): Description({200: Reply("What the cancel did.", Cancelled)}),
        ("GET", f"{task}/events"): events,
        ("GET", "/api/v1/events"): Description(events.replies, (task_query,), events.headers),
        ("GET", f"{task}/result"): Description(
            {
                200: Reply("The file.", media_types=files, headers=whole),
                206: Reply("A range of it.", media_types=files, headers=whole),
                304: Reply("The file that you have.", headers=(_ETAG,)),
            },
            query=(
                {
                    "name": "link",
                    "in": "query",
                    "description": "What a signed link has instead of a token.",
                    "schema": _TEXT,
                },
            ),
            headers=(
                Header("Range", "One range of bytes, such as bytes=0-1023."),
                Header("If-Range", "An ETag or a date; another file is sent whole."),
                Header("If-None-Match", "ETags; 304 if the file is one of them."),
                Header("If-Modified-Since", "A date; 304 if the file is not newer."),
            ),
        ),
        ("POST", f"{task}/link"): Description({201: Reply("A link.", Link, headers=(_LOCATION,))}),
        ("OPTIONS", uploads): tus_options,
        ("OPTIONS", upload): tus_options,
        ("POST", uploads): Description(
            {201: Reply("The upload.", headers=(_LOCATION, _RESUMABLE, _OFFSET, _EXPIRES, _TASK))},
            headers=(
                _TUS,
                _LENGTH,
                Header("Upload-Defer-Length", "1: the length follows.", {"const": "1"}),
                Header("Upload-Metadata", "type, parameters (JSON), filename, sha256; in Base64."),
                _CHECKSUM,
            ),
            body={tus.CONTENT_TYPE: _BINARY},
        ),
        ("HEAD", upload): Description(
            {200: Reply("How far it is.", headers=(_RESUMABLE, _OFFSET, _LENGTH, _EXPIRES, _TASK))},
            headers=(_TUS,),
        ),
        ("PATCH", upload): Description(
            {204: Reply("It has arrived.", headers=(_RESUMABLE, _OFFSET, _EXPIRES, _TASK))},
            headers=(
                _TUS,
                Header("Upload-Offset", "Where the body belongs.", _NUMBER, required=True),
                _CHECKSUM,
            ),
            body={tus.CONTENT_TYPE: _BINARY},
        ),
        ("DELETE", upload): Description({204: Reply("It is forgotten.")}, headers=(_TUS,)),
    }


def _submit_query() -> list[Mapping[str, Any]]:
    """Return the query of an upload: type, label, and the parameters of all operations."""
    query: list[Mapping[str, Any]] = [
        {
            "name": "type",
            "in": "query",
            "required": True,
            "description": "What to do with the video.",
            "schema": {"type": "string", "enum": list(PARAMETERS)},
        },
        {
            "name": "filename",
            "in": "query",
            "description": "A label; the name of the result begins with it.",
            "schema": {"type": "string", "maxLength": 1024},
        },
    ]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for operation in PARAMETERS:
        for name, schema in describe_parameters(operation).items():
            found.setdefault(name, {})[operation] = schema
    for name, schemas in found.items():
        texts = [f"{operation}: {schema['description']}" for operation, schema in schemas.items()]
        bare = [_without_texts(schema) for schema in schemas.values()]
        kinds = [schema for number, schema in enumerate(bare) if schema not in bare[:number]]
        query.append(
            {
                "name": name,
                "in": "query",
                "description": " ".join(texts),
                "schema": kinds[0] if len(kinds) == 1 else {"anyOf": kinds},
            }
        )
    return query


def _without_texts(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in schema if key not in ("description", "unit", "default")}


def routes_for(others: Sequence[Route]) -> tuple[Route, ...]:
    """Return the route of the document, which describes `others` and itself."""

    @cache
    def rendered() -> bytes:
        return msgspec.json.encode(document([*others, route]))

    async def openapi(request: Request) -> Answer:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
        return Answer(200, rendered(), headers)

    route = Route(
        "GET", "/api/v1/openapi.json", openapi, "This API, as OpenAPI 3.1.", Access.ANYBODY
    )
    return (route,)
