"""What calls ask a driver to do.

Calls are generators that do no input or output of their own. They yield one of these and are sent
the answer, or `Broken` is thrown into them if none came.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, TypeVar

T = TypeVar("T")

CHUNK = 1 << 20
"""Bytes read from a file at a time."""


class Broken(Exception):
    """A connection could not be made, or broke before the answer was complete."""


class Receiver(Protocol):
    """Takes an answer's body as it arrives."""

    def wants(self, reply: Reply) -> bool:
        """Return whether to stream the body of this answer here; otherwise it is collected."""

    def write(self, data: bytes) -> bool:
        """Take the next bytes; return whether to continue. May wait for the disk."""


@dataclass(frozen=True)
class FilePart:
    """A request's body: `size` bytes of `file` from `offset`. `on_sent` gets the bytes sent."""

    file: BinaryIO
    offset: int
    size: int
    on_sent: Callable[[int], None]


@dataclass(frozen=True)
class Send:
    """Send a request. `url` is absolute; `patience` is how long it may bring nothing."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: FilePart | bytes | None = None
    receiver: Receiver | None = None
    patience: float = 60.0


@dataclass(frozen=True)
class Sleep:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class InThread:
    """Call a function that may block."""

    function: Callable[[], object]


@dataclass(frozen=True)
class Reply:
    """An answer; `body` is empty where a receiver took it. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    url: str = ""


Effect = Send | Sleep | InThread
Call = Generator[Effect, Any, T]
