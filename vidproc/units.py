"""Sizes, durations and times as people write them, and back.

Sizes use powers of 1024 (``64G``); durations take ``s``, ``m``, ``h`` or ``d``
(``24h``); a position in a video is seconds (``12.5``) or ``HH:MM:SS.mmm``.
Every parser raises `ValueError` with a sentence that says how to write it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

N = TypeVar("N", int, float)

_SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION_FACTORS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([smhd]?)", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,9}):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)", re.ASCII)
_SECONDS = re.compile(r"\d{1,15}(?:\.\d*)?|\.\d+", re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``4T``, ``8M``, ``1.5G`` or ``4096``.

    Raises `ValueError`.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write bytes or use K, M, G or T, such as 64G")
    return int(float(match[1]) * _SIZE_FACTORS[match[2].upper()])


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as ``30s``, ``5m``, ``24h`` or ``7d``.

    Raises `ValueError`.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; use s, m, h or d, such as 30s or 24h")
    return float(match[1]) * _DURATION_FACTORS[match[2]]


def size_from(text: str, least: str) -> int:
    """Return the bytes of a limit that is at least `least` and makes sense. Raises `ValueError`.

    JSON numbers are exact up to 8192T.
    """
    return _between(parse_size, text, least, "8000T")


def duration_from(text: str, least: str) -> float:
    """Return the seconds of a limit that is at least `least` and makes sense. Raises `ValueError`.

    Dates and timers do not reach further than 100 years.
    """
    return _between(parse_duration, text, least, "36500d")


def _between(parse: Callable[[str], N], text: str, least: str, most: str) -> N:
    value = parse(text)
    if parse(least) <= value <= parse(most):
        return value
    raise ValueError(f"{text} is out of range; use {least} to {most}")


def parse_time(value: str | float) -> float:
    """Return the seconds of a position or length in a video.

    `value` is a number of seconds, or text: seconds (``"12.5"``), ``MM:SS`` or ``HH:MM:SS.mmm``.
    Raises `ValueError`.
    """
    if isinstance(value, str):
        text = value.strip()
        clock = _CLOCK.fullmatch(text)
        if clock is not None and int(clock[2]) < 60 and float(clock[3]) < 60:
            return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
        if _SECONDS.fullmatch(text):
            return float(text)
    elif not isinstance(value, bool) and 0 <= value < 1e15:
        return float(value)
    raise ValueError(
        f"{value!r} is not a time; write seconds such as 12.5, or HH:MM:SS such as 00:01:30.5"
    )


def format_size(size: float) -> str:
    """Return a number of bytes as text: ``1.1 MiB``."""
    if size == 1:
        return "1 byte"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Return a duration as text: ``4.2 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def iso_utc(timestamp: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC with milliseconds; None stays None."""
    if timestamp is None:
        return None
    moment = datetime.fromtimestamp(timestamp, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
