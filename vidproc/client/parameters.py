"""The parameters of the operations: their options, and their values as sent to the server."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from vidproc.client.options import UsageError
from vidproc.units import parse_size, parse_time

TYPES = ("compress", "resolution", "aspect_ratio", "extract_audio", "gif", "webm")


OPTION_TYPES: dict[str, tuple[str, ...]] = {
    "width": ("resolution", "gif", "webm"),
    "height": ("resolution",),
    "aspect_ratio": ("aspect_ratio",),
    "fit": ("resolution", "aspect_ratio"),
    "start_time": ("gif", "webm"),
    "duration": ("gif", "webm"),
    "quality": ("compress", "webm"),
    "codec": ("compress", "webm"),
    "target_size": ("compress",),
    "preset": ("compress",),
    "audio_tracks": ("compress", "resolution", "aspect_ratio"),
    "hdr": ("compress",),
    "grain": ("compress",),
    "plays": ("compress",),
    "bitrate": ("extract_audio",),
    "track": ("extract_audio",),
    "fps": ("gif",),
    "max_size": ("gif",),
}
"""Parameter -> the types that have it; the option is the name with dashes."""


EXAMPLES: dict[str, str] = {
    "compress": "vidproc film.mp4 --type compress --quality 95",
    "resolution": "vidproc film.mp4 --type resolution --width 1280 --height 720",
    "aspect_ratio": 'vidproc film.mp4 --type aspect_ratio --aspect-ratio "16:9"',
    "extract_audio": "vidproc film.mp4 --type extract_audio --bitrate 192k",
    "gif": "vidproc film.mp4 --type gif --start-time 0 --duration 5",
    "webm": "vidproc film.mp4 --type webm --start-time 0 --duration 5",
}


_BIT_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([km]?)(?:bit/s|bps|b)?", re.IGNORECASE | re.ASCII)


def option_of(parameter: str) -> str:
    """Return the option for a parameter: ``--start-time`` for ``start_time``."""
    return "--" + parameter.replace("_", "-")


def read_parameters(given: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of the chosen type as sent to the server, checked.

    Raises `UsageError`.
    """
    operation: str = given.type
    fields = {name: value for name in OPTION_TYPES if (value := getattr(given, name)) is not None}
    for name in fields:
        types = OPTION_TYPES[name]
        if operation not in types:
            raise UsageError(
                f"{option_of(name)} does not belong to --type {operation}; "
                f"it is for --type {' or '.join(types)}",
                f"Example: {EXAMPLES[operation]}",
            )
    _require(operation, fields)
    parameters = {name: _convert(name, text) for name, text in fields.items()}
    _check_ranges(operation, parameters)
    return parameters


def _require(operation: str, fields: dict[str, str]) -> None:
    if operation == "resolution" and not {"width", "height"} <= fields.keys():
        raise UsageError(
            "Resolution change requires both --width and --height",
            "Example: --width 1280 --height 720",
        )
    if operation == "aspect_ratio" and "aspect_ratio" not in fields:
        raise UsageError(
            "Aspect ratio change requires --aspect-ratio",
            'Example: --aspect-ratio "16:9"',
        )
    if operation in ("gif", "webm") and not {"start_time", "duration"} <= fields.keys():
        what = "GIF" if operation == "gif" else "WebM"
        raise UsageError(
            f"{what} creation requires both --start-time and --duration",
            "Example: --start-time 0 --duration 5",
        )


def _whole(text: str) -> int:
    if re.fullmatch(r"[+-]?\d{1,12}", text.strip(), re.ASCII) is None:
        raise ValueError(f"must be a whole number, not {text!r}")
    return int(text)


def _number(text: str) -> int | float:
    if re.fullmatch(r"[+-]?(\d{1,12}(\.\d*)?|\.\d+)", text.strip(), re.ASCII) is None:
        raise ValueError(f"must be a number, not {text!r}")
    value = float(text)
    return int(value) if value.is_integer() else value


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise ValueError(
            f"must be a size in bytes, or with K, M or G such as 8M, not {text!r}"
        ) from None


def _bit_rate(text: str) -> int:
    match = _BIT_RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"must be bits per second such as 192k or 192000, not {text!r}")
    return round(float(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()])


def _time(text: str) -> int | float:
    try:
        value = parse_time(text)
    except ValueError:
        raise ValueError(
            f"must be seconds such as 12.5, or HH:MM:SS such as 00:01:30.5, not {text!r}"
        ) from None
    return int(value) if value.is_integer() else value


def _words(text: str) -> list[str]:
    return [word.strip().lower() for word in text.split(",")]


def _track(text: str) -> int | str:
    text = text.strip()
    return int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else text


_CONVERTERS: dict[str, Callable[[str], object]] = {
    "width": _whole,
    "height": _whole,
    "start_time": _time,
    "duration": _time,
    "quality": _number,
    "target_size": _size,
    "bitrate": _bit_rate,
    "track": _track,
    "fps": _number,
    "plays": _words,
    "max_size": _size,
}


_PARAMETER_EXAMPLES = {
    "width": "--width 1280",
    "height": "--height 720",
    "aspect_ratio": '--aspect-ratio "16:9"',
    "fit": "--fit crop",
    "start_time": "--start-time 0 --duration 5",
    "duration": "--start-time 0 --duration 5",
    "target_size": "--target-size 8M",
    "preset": "--preset fast",
    "audio_tracks": "--audio-tracks default",
    "hdr": "--hdr sdr",
    "grain": "--codec av1 --grain auto",
    "plays": "--codec auto --plays h264,hevc",
    "bitrate": "--bitrate 192k",
    "track": "--track 2",
    "fps": "--fps 12",
    "max_size": "--max-size 2M",
}


def _parameter_example(operation: str, name: str) -> str:
    if name == "quality":
        return "Example: --quality 95" if operation == "compress" else "Example: --quality 30"
    if name == "codec":
        return "Example: --codec h264" if operation == "compress" else "Example: --codec vp9"
    return f"Example: {_PARAMETER_EXAMPLES[name]}"


def _convert(name: str, text: str) -> object:
    try:
        return _CONVERTERS.get(name, str)(text)
    except ValueError as error:
        example = _parameter_example("compress", name)
        raise UsageError(f"{option_of(name)} {error}", example) from None


def _check_ranges(operation: str, parameters: dict[str, Any]) -> None:
    """Check the values as the server would, before anything is sent."""
    from vidproc.errors import ServiceError
    from vidproc.operations.parameters import allowed, parameter_in, parse_parameters

    try:
        parse_parameters(operation, parameters)
        return
    except ServiceError as error:
        description = error.description
    problem = description.partition(" is invalid: ")[2].rstrip(".") or description
    name = parameter_in(operation, problem)
    if name is None:
        raise UsageError(problem, f"Example: {EXAMPLES[operation]}")
    value = parameters.get(name)
    wanted = allowed(operation, name)
    if name == "aspect_ratio":
        sentence = f"--aspect-ratio must be W:H from 1:10 to 10:1, not {value!r}"
    elif wanted and problem.startswith(f"{name} must be {wanted}"):
        wanted = wanted.removeprefix("a number ")
        sentence = f"{option_of(name)} must be {wanted}, not {value!r}"
        if len(OPTION_TYPES[name]) > 1:
            sentence += f", for --type {operation}"
    else:
        sentence = re.sub(
            rf"(?<!-)\b({'|'.join(OPTION_TYPES)})\b", lambda found: option_of(found[1]), problem
        )
    raise UsageError(sentence, _parameter_example(operation, name))
