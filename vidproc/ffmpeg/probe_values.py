"""Checks of single values in a probe's answer; invalid ones are dropped."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from vidproc.ffmpeg.media import MasteringDisplay

MAX_SIDE = 16384
"""The longest accepted side in pixels."""
MAX_DURATION = 10 * 86400.0
"""Seconds; a longer duration is wrong, or a camera that runs all year."""

_TAGS = frozenset(
    """title artist album_artist album composer genre track disc copyright show season_number
    episode_id episode_sort network media_type""".split()  # noqa: SIM905 - reads better
)
_CATALOGUED = frozenset({"title", "artist", "album", "show"})
_DEVICE_TAG = re.compile(
    r"com\.(apple\.quicktime|android)\.|location|make$|model|date_(recorded|digitized)|gps|firmware"
)
ROLES = (
    "dub", "original", "comment", "hearing_impaired", "visual_impaired", "captions", "descriptions"
)  # fmt: skip
"""What a track may be for, in FFmpeg's words."""
_NAME = re.compile(r"[A-Za-z0-9_.,+-]{1,64}")
_LANGUAGE = re.compile(r"([a-z]{2,3})(-.*)?")


def number(value: object, low: float, high: float) -> float | None:
    """Return a finite number within bounds, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and low <= found <= high else None


def duration(value: object) -> float | None:
    """Return seconds above 0 and up to `MAX_DURATION`, else None."""
    return number(value, 0, MAX_DURATION) or None


def bit_rate(value: object) -> int | None:
    """Return bits per second, up to 100 Gbit/s, else None."""
    found = number(value, 1, 1e11)
    return None if found is None else int(found)


def side(value: object) -> int | None:
    """Return the pixels of a frame's width or height, up to `MAX_SIDE`, else None."""
    found = number(value, 1, MAX_SIDE)
    return None if found is None else int(found)


def stream_index(found: dict[str, Any]) -> int:
    """Return a stream's number; raises `ValueError` if it has none."""
    index = number(found["index"], 0, 10_000)
    if index is None:
        raise ValueError("a stream without a number")
    return int(index)


def frame_rate(value: object) -> float | None:
    """Return frames per second from [numerator, denominator], None unless 1 to 1000."""
    if not (isinstance(value, list) and len(value) == 2):
        return None
    num, den = number(value[0], 1, 1e12), number(value[1], 1, 1e12)
    return number(num / den, 1, 1000) if num and den else None


def sample_aspect_ratio(value: object) -> tuple[int, int]:
    """Return a sample aspect ratio from 1:100 to 100:1, else 1:1."""
    if isinstance(value, list) and len(value) == 2:
        num, den = number(value[0], 1, 1e9), number(value[1], 1, 1e9)
        if num and den and 0.01 <= num / den <= 100:
            common = math.gcd(int(num), int(den))
            return int(num) // common, int(den) // common
    return 1, 1


def rotation(value: object) -> int:
    """Return a player's clockwise rotation from FFmpeg's counterclockwise degrees.

    Within one degree of a quarter turn, like FFmpeg's own autorotation.
    """
    turn = -(number(value, -36000, 36000) or 0.0) % 360
    for quarter in (90, 180, 270):
        if abs(turn - quarter) <= 1:
            return quarter
    return 0


def clean_text(value: object, longest: int = 200) -> str | None:
    """Return text without control, direction and other invisible characters, None if empty."""
    if not isinstance(value, str):
        return None
    kept = (
        " " if c.isspace() else c
        for c in value[: longest * 4]
        if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    return " ".join("".join(kept).split())[:longest] or None


def clean_name(value: object) -> str | None:
    """Return the name of a codec, format or colour if it looks like one."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def clean_language(value: object) -> str | None:
    """Return a language's two or three letters, None if undetermined."""
    match = _LANGUAGE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    return match[1] if match is not None and match[1] not in ("und", "unk", "mis", "zxx") else None


def mastering_display(value: object) -> MasteringDisplay | None:
    """Return a mastering display from ten numbers, None unless all of them are possible."""
    if not isinstance(value, list) or len(value) != 10:
        return None
    places = [number(each, 0.0, 1.0) for each in value[:8]]
    least, most = number(value[8], 0.0, 10_000.0), number(value[9], 1e-4, 10_000.0)
    points = [place for place in places if place is not None]
    if len(points) != 8 or least is None or most is None or least >= most:
        return None
    red, green, blue, white = ((points[n], points[n + 1]) for n in (0, 2, 4, 6))
    return MasteringDisplay(red=red, green=green, blue=blue, white=white, least=least, most=most)


def content_light(value: object) -> tuple[int, int] | None:
    """Return the light levels of the brightest pixel and frame in cd/m2, None if unknown."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    levels = [number(each, 0, 65535) for each in value]
    brightest, frame = (None if level is None else int(level) for level in levels)
    return (brightest, frame) if brightest is not None and frame is not None and brightest else None


def roles(value: object) -> tuple[str, ...]:
    """Return what a track is for, in FFmpeg's words."""
    return tuple(role for role in ROLES if isinstance(value, list) and role in value)


def clean_tags(value: object) -> dict[str, str]:
    """Return the harmless tags, by lower-case name."""
    if not isinstance(value, dict):
        return {}
    tags = {str(key).lower(): clean_text(text) for key, text in list(value.items())[:200]}
    kept = {key: text for key, text in tags.items() if key in _TAGS and text}
    if date := _work_date(tags):
        kept["date"] = date
    return kept


def _work_date(tags: dict[str, str | None]) -> str | None:
    """Return when a work came out, None if the date may be that of a recording.

    It is a date without a time of day, in a file that no camera or phone has tagged; only a year,
    unless the work has a title or the like.
    """
    if any(_DEVICE_TAG.match(key) for key in tags):
        return None
    text = tags.get("date_released") or tags.get("date") or tags.get("year") or ""
    match = re.match(r"(\d{4})(-\d\d(-\d\d)?)?(?!\d)", text, re.ASCII)
    if match is None:
        return None
    catalogued = any(tags.get(key) for key in _CATALOGUED)
    return match[0] if catalogued else match[1]
