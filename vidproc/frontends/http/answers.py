"""Answers that are complete in memory, as handlers return them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(slots=True)
class Answer:
    """A status, headers and a body. With `close`, the connection ends after it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False


def json_answer(
    message: msgspec.Struct | dict[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return a message as JSON. Nobody may cache it, because it soon changes."""
    return Answer(
        status,
        msgspec.json.encode(message),
        {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})},
    )


def empty_answer(status: int = 204, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer without a body."""
    return Answer(status, b"", {"Cache-Control": "no-store", **(headers or {})})
