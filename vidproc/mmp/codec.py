"""MMP's framing, sans-IO: bytes in, events out.

A message on the wire, big-endian (docs/mmp.md has worked examples)::

    0      2      3          8
    | JSON | type | payload  |  then JSON bytes, media type bytes, payload bytes
    | size | size | size     |
    | u16  | u8   | u40      |

`Decoder` takes bytes split in any way and returns, for each message, `MessageStarted`, any number
of `PayloadChunk`, and `MessageEnded`. It never collects a payload: chunks are passed on as they
arrived, without being copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from vidproc.mmp.errors import LocalProtocolError, RemoteProtocolError

HEADER_SIZE = 8
MAX_JSON_SIZE = (1 << 16) - 1
MAX_MEDIA_TYPE_SIZE = (1 << 8) - 1
MAX_PAYLOAD_SIZE = (1 << 40) - 1

_JSON_WHITESPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """Header, JSON and media type of a message have arrived; its payload follows.

    `json` is UTF-8 of one JSON object, or empty; `payload_size` is in bytes.
    """

    json: bytes
    media_type: str
    payload_size: int


@dataclass(frozen=True, slots=True)
class PayloadChunk:
    """Some bytes of the payload, in order. `data` is a view of what came from the transport."""

    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """The message is complete."""


class NeedData(Enum):
    """The bytes so far hold no further event."""

    NEED_DATA = auto()


NEED_DATA = NeedData.NEED_DATA

Event = MessageStarted | PayloadChunk | MessageEnded


def encode_head(json: bytes, media_type: str = "", payload_size: int = 0) -> bytes:
    """Return header, JSON and media type of a message; the payload follows them.

    Raises `LocalProtocolError` if a part is too large for its size field.
    """
    kind = media_type.encode()
    if len(json) > MAX_JSON_SIZE:
        raise LocalProtocolError(f"the JSON is {len(json)} bytes; MMP carries {MAX_JSON_SIZE}")
    if len(kind) > MAX_MEDIA_TYPE_SIZE:
        raise LocalProtocolError(
            f"the media type is {len(kind)} bytes; MMP carries {MAX_MEDIA_TYPE_SIZE}"
        )
    if not 0 <= payload_size <= MAX_PAYLOAD_SIZE:
        raise LocalProtocolError(
            f"a payload of {payload_size} bytes; MMP carries 0 to {MAX_PAYLOAD_SIZE}"
        )
    header = (
        len(json).to_bytes(2, "big")
        + len(kind).to_bytes(1, "big")
        + payload_size.to_bytes(5, "big")
    )
    return header + json + kind


class _State(Enum):
    HEAD = auto()
    PAYLOAD = auto()
    END = auto()
    BROKEN = auto()


class Decoder:
    """Incremental decoder of a stream of MMP messages.

    Call `receive_data` with the transport's bytes, then `next_event` until it returns `NEED_DATA`.
    To pause, do not call `next_event`.
    """

    def __init__(self) -> None:
        self._state = _State.HEAD
        self._buffer = b""
        self._position = 0
        self._head_size = 0
        self._remaining = 0

    @property
    def buffered(self) -> int:
        """Bytes received and not yet returned in an event."""
        return len(self._buffer) - self._position

    @property
    def payload_remaining(self) -> int:
        """Bytes of the current payload that were not returned yet."""
        return self._remaining

    @property
    def in_head(self) -> bool:
        """Whether a message's head was received in part."""
        return self._state is _State.HEAD and self.buffered > 0

    @property
    def idle(self) -> bool:
        """Whether the stream is exactly between two messages."""
        return self._state is _State.HEAD and self.buffered == 0

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer, split in any way. What follows an error is dropped."""
        if self._state is _State.BROKEN:
            return
        if self.buffered:
            self._buffer = self._buffer[self._position :] + data
        else:
            self._buffer = data
        self._position = 0

    def next_event(self) -> Event | NeedData:
        """Return the next event, or `NEED_DATA`.

        Raises `RemoteProtocolError` if the bytes are not MMP, now and on every later call.
        """
        if self._state is _State.HEAD:
            return self._read_head()
        if self._state is _State.PAYLOAD:
            return self._read_payload()
        if self._state is _State.END:
            self._state = _State.HEAD
            return MessageEnded()
        raise RemoteProtocolError("the stream was not MMP")

    def payload_taken(self, size: int) -> None:
        """Note that `size` bytes of the payload were read without this decoder.

        Call it only when everything received was returned in events.
        """
        assert self.buffered == 0 and 0 <= size <= self._remaining
        self._remaining -= size
        if size and self._remaining == 0:
            self._state = _State.END

    def receive_eof(self) -> None:
        """Note that the peer has closed its side. Call it when `next_event` has returned
        `NEED_DATA`.

        Raises `RemoteProtocolError` in the middle of a message.
        """
        if self._state is not _State.BROKEN and not self.idle:
            what = "payload" if self._state is _State.PAYLOAD else "head"
            raise RemoteProtocolError(f"the stream ended in the middle of a message's {what}")

    def _read_head(self) -> Event | NeedData:
        available = self.buffered
        if available < HEADER_SIZE:
            return NEED_DATA
        start = self._position
        header = self._buffer[start : start + HEADER_SIZE]
        json_size = int.from_bytes(header[0:2], "big")
        type_size = header[2]
        json_end = start + HEADER_SIZE + json_size
        self._refuse_foreign(start + HEADER_SIZE, json_end)
        if available < HEADER_SIZE + json_size + type_size:
            return NEED_DATA
        type_end = json_end + type_size
        try:
            media_type = self._buffer[json_end:type_end].decode()
        except UnicodeDecodeError:
            raise self._broken("the media type is not UTF-8") from None
        self._position = type_end
        self._remaining = int.from_bytes(header[3:8], "big")
        self._state = _State.PAYLOAD if self._remaining else _State.END
        json = self._buffer[start + HEADER_SIZE : json_end]
        return MessageStarted(json, media_type, self._remaining)

    def _refuse_foreign(self, start: int, end: int) -> None:
        """Distinguish HTTP, TLS and noise from MMP by the first two bytes of the JSON object.

        Any eight bytes are a valid header, and those of another protocol can announce 64 KiB of
        JSON that never come. But an object starts with ``{`` and then ``"`` or ``}``.
        """
        seen = self._buffer[start : min(end, start + 64)].lstrip(_JSON_WHITESPACE)
        if not seen:
            return
        second = seen[1:].lstrip(_JSON_WHITESPACE)[:1]
        if seen[:1] != b"{" or second not in (b"", b'"', b"}"):
            raise self._broken("the bytes after the header do not start a JSON object")

    def _read_payload(self) -> Event | NeedData:
        available = self.buffered
        if available == 0:
            return NEED_DATA
        take = min(available, self._remaining)
        if take == len(self._buffer):
            data: bytes | memoryview = self._buffer
        else:
            data = memoryview(self._buffer)[self._position : self._position + take]
        self._position += take
        self._remaining -= take
        if self._position == len(self._buffer):
            self._buffer = b""
            self._position = 0
        if self._remaining == 0:
            self._state = _State.END
        return PayloadChunk(data)

    def _broken(self, why: str) -> RemoteProtocolError:
        self._state = _State.BROKEN
        self._buffer = b""
        self._position = 0
        return RemoteProtocolError(why)
