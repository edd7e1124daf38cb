"""Conditional requests and ranges: what to answer to a request for a file (RFC 9110, 13 and 14).

No input or output: it turns headers and facts about the file into a `Selection`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from twisted.web.http import datetimeToString, stringToDatetime

_LONGEST_NUMBER = 18
"""The most digits of a position; no file needs more."""
_RANGE = re.compile(r"(\d*)-(\d*)", re.ASCII)
_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


@dataclass(frozen=True, slots=True)
class Representation:
    """A file as HTTP sees it: `etag` without its quotes (strong), `modified` in seconds since the
    epoch, `size` in bytes."""

    etag: str
    modified: float
    size: int

    @property
    def quoted_etag(self) -> str:
        """The value of the ETag header."""
        return f'"{self.etag}"'

    @property
    def last_modified(self) -> str:
        """The value of the Last-Modified header."""
        return str(datetimeToString(int(self.modified)), "ascii")


class Selection(NamedTuple):
    """What to answer: `status` 200 or 206 with the bytes from `start` to `end`; 304, 412 or 416
    with no bytes of the file."""

    status: int
    start: int = 0
    end: int = 0


def select(file: Representation, method: str, header: Callable[[str], str | None]) -> Selection:
    """Return what to answer to `method`, GET or HEAD. `header` returns a header's value, or None.

    In the order of RFC 9110, section 13.2.2. The answer to several ranges is the whole file. A
    malformed range is ignored, and so is any range of a HEAD request.
    """
    if not _preconditions_hold(file, header):
        return Selection(412)
    if _not_modified(file, header):
        return Selection(304)
    whole = Selection(200, 0, file.size)
    wanted = header("range")
    if method != "GET" or wanted is None or not _range_applies(file, header("if-range")):
        return whole
    return select_range(wanted, file.size) or whole


def select_range(value: str, size: int) -> Selection | None:
    """Return the selection that a Range header asks for in a file of `size` bytes.

    206 or 416; None if the header must be ignored: another unit, malformed, several ranges.
    """
    unit, equals, ranges = value.partition("=")
    parts = [part.strip(" \t") for part in ranges.split(",")]
    parts = [part for part in parts if part]
    if not equals or unit.strip().lower() != "bytes" or len(parts) != 1:
        return None
    match = _RANGE.fullmatch(parts[0])
    if match is None or match.group() == "-":
        return None
    first, last = match.groups()
    if not first:
        length = min(_number(last), size)
        if size == 0 and _number(last):
            return None  # an empty file: no Content-Range can describe it
        return Selection(206, size - length, size) if length else Selection(416)
    start = _number(first)
    end = _number(last) + 1 if last else size
    if last and end <= start:
        return None
    return Selection(206, start, min(end, size)) if start < size else Selection(416)


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _LONGEST_NUMBER else 10**_LONGEST_NUMBER


def _preconditions_hold(file: Representation, header: Callable[[str], str | None]) -> bool:
    """If-Match, or without it If-Unmodified-Since."""
    tags = header("if-match")
    if tags is not None:
        return tags.strip() == "*" or (False, file.etag) in _entity_tags(tags)
    since = _date(header("if-unmodified-since"))
    return since is None or int(file.modified) <= since


def _not_modified(file: Representation, header: Callable[[str], str | None]) -> bool:
    """If-None-Match, compared weakly, or without it If-Modified-Since."""
    tags = header("if-none-match")
    if tags is not None:
        known = {tag for _, tag in _entity_tags(tags)}
        return tags.strip() == "*" or file.etag in known
    since = _date(header("if-modified-since"))
    return since is not None and int(file.modified) <= since


def _range_applies(file: Representation, condition: str | None) -> bool:
    """Whether If-Range names exactly this file: by its strong tag or its date."""
    if condition is None:
        return True
    tag = _ENTITY_TAG.fullmatch(condition.strip())
    if tag is not None:
        return not tag[1] and tag[2] == file.etag
    return _date(condition) == int(file.modified)


def _entity_tags(value: str) -> list[tuple[bool, str]]:
    """Return the entity tags in a list header: whether each is weak, and the text in its quotes."""
    return [(match[1] is not None, match[2]) for match in _ENTITY_TAG.finditer(value)]


def _date(value: str | None) -> int | None:
    """Return an HTTP date in seconds since the epoch; None if there is none or it is malformed."""
    if value is None:
        return None
    try:
        return int(stringToDatetime(value.encode("ascii")))
    except (ValueError, IndexError, OverflowError):
        return None
