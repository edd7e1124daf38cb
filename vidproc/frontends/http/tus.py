"""Reads and writes the headers of tus 1.0.0 (https://tus.io/protocols/resumable-upload)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from uuid import UUID

from twisted.web.http import datetimeToString

from vidproc.frontends.http.problems import HTTPError

VERSION = "1.0.0"
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "termination",
    "expiration",
)
CHECKSUMS = ("sha1", "sha256", "crc32")
CONTENT_TYPE = "application/offset+octet-stream"

_SIZE = re.compile(r"\d{1,15}", re.ASCII)
_KEY = re.compile(r"[!-+\--~]{1,200}", re.ASCII)  # no space, no comma


def require_version(version: str | None) -> None:
    """Raise `HTTPError` 412 if a request is not of our version of tus."""
    if version != VERSION:
        raise HTTPError(
            412,
            "This is not a request of tus 1.0.0.",
            f"Send the header Tus-Resumable: {VERSION}.",
            {"Tus-Version": VERSION},
        )


def read_size(name: str, text: str | None) -> int | None:
    """Return the bytes in a header, None without the header. Raises `HTTPError` 400."""
    if text is None:
        return None
    if _SIZE.fullmatch(text) is None:
        raise HTTPError(
            400, f"The header {name} is malformed.", f"Send a number of bytes. Example: {name}: 100"
        )
    return int(text)


def read_metadata(text: str | None) -> dict[str, str]:
    """Return the pairs in ``Upload-Metadata``. Raises `HTTPError` 400."""
    found: dict[str, str] = {}
    for pair in (text or "").split(","):
        if not pair.strip():
            continue
        key, _, value = pair.strip().partition(" ")
        try:
            decoded = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _bad_metadata(f"the value of {key[:40]!r} is not Base64 of UTF-8") from None
        if _KEY.fullmatch(key) is None or key in found:
            raise _bad_metadata(f"the key {key[:40]!r} is malformed, or there twice")
        found[key] = decoded
    return found


def _bad_metadata(why: str) -> HTTPError:
    return HTTPError(
        400,
        f"The header Upload-Metadata is malformed: {why}.",
        "Send pairs of a key and Base64, with commas between. Example: type Z2lm,filename YS5tcDQ=",
    )


def http_date(seconds: float) -> str:
    """Return a time as an HTTP date."""
    return str(datetimeToString(seconds), "ascii")


def read_key(text: str) -> str:
    """Return the UUID in ``Idempotency-Key``, with or without quotes; raises `HTTPError` 400."""
    try:
        return str(UUID(text.strip().strip('"')))
    except ValueError:
        raise HTTPError(
            400, "The Idempotency-Key is not a UUID.", "Draw a new UUID for each new upload."
        ) from None


class Checksum:
    """The checksum in ``Upload-Checksum``, and that of the bytes as they arrive."""

    def __init__(self, algorithm: str, promised: bytes) -> None:
        self._promised = promised
        self._crc = 0
        self._hash = None if algorithm == "crc32" else hashlib.new(algorithm)

    @classmethod
    def read(cls, text: str) -> Checksum:
        """Parse the header. Raises `HTTPError` 400."""
        algorithm, _, value = text.strip().partition(" ")
        try:
            promised = base64.b64decode(value.strip(), validate=True)
        except binascii.Error:
            promised = b""
        if algorithm not in CHECKSUMS or not promised:
            raise HTTPError(
                400,
                "The header Upload-Checksum is malformed, or its algorithm is unknown.",
                f"Send one of {', '.join(CHECKSUMS)} and the checksum in Base64.",
            )
        return cls(algorithm, promised)

    def update(self, data: bytes) -> None:
        """Add bytes that have arrived."""
        if self._hash is None:
            self._crc = zlib.crc32(data, self._crc)
        else:
            self._hash.update(data)

    @property
    def right(self) -> bool:
        """Whether the bytes that have arrived have the right checksum."""
        if self._hash is None:
            return self._promised in (self._crc.to_bytes(4, "big"), b"%08x" % self._crc)
        return hmac.compare_digest(self._hash.digest(), self._promised)
