"""The parameters of every operation: names, types, ranges and defaults in one place.

Server and client share this table, so it imports nothing heavy. Times are in seconds (a number
or ``HH:MM:SS.mmm``), sizes in pixels, bit rates in bits per second.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from vidproc.errors import ErrorCode, ServiceError
from vidproc.operations.allowed_values import allowed_values, example_value, name_of
from vidproc.operations.parameter_texts import PARAMETER_TEXTS
from vidproc.units import parse_time

Fit = Literal["pad", "crop", "stretch"]
AudioTracks = Literal["all", "default"]
Time = float | str
"""Seconds, or text that is parsed when the parameters are created."""

Dimension = Annotated[int, msgspec.Meta(ge=16, le=8192)]


class Parameters(msgspec.Struct, kw_only=True, frozen=True):
    """Base class of the operations' parameters. `parse_parameters` checks every range."""


class Compress(Parameters, kw_only=True, frozen=True):
    """`quality` is a VMAF score; `target_size` is in bytes. Without `hdr` HDR is kept unless the
    codec is h264. Codec auto is the one of `plays` whose result is the smallest. `grain` auto
    removes film grain and has the player synthesise it, which takes AV1."""

    quality: Annotated[float, msgspec.Meta(ge=70, le=99)] = 95.0
    codec: Literal["h264", "hevc", "av1", "auto"] = "h264"
    target_size: Annotated[int, msgspec.Meta(ge=1, le=(1 << 40) - 1)] | None = None
    preset: Literal["fast", "balanced", "small"] = "balanced"
    audio_tracks: AudioTracks = "all"
    hdr: Literal["keep", "sdr"] | None = None
    grain: Literal["off", "auto"] = "off"
    plays: (
        Annotated[tuple[Literal["h264", "hevc", "av1"], ...], msgspec.Meta(min_length=1)] | None
    ) = None

    def __post_init__(self) -> None:
        if self.codec == "auto" and self.plays is None:
            raise ValueError("plays is missing: codec auto needs the codecs that you can play")
        codecs = set(self.plays or ()) if self.codec == "auto" else {self.codec}
        if self.hdr == "keep" and codecs == {"h264"}:
            raise ValueError("hdr keep needs codec hevc or av1; H.264 becomes SDR")
        if self.grain == "auto" and "av1" not in codecs:
            raise ValueError("grain auto needs codec av1")


class Resolution(Parameters, kw_only=True, frozen=True):
    """The new displayed frame size."""

    width: Dimension
    height: Dimension
    fit: Fit = "pad"
    audio_tracks: AudioTracks = "all"


class AspectRatio(Parameters, kw_only=True, frozen=True):
    """The new displayed aspect ratio, ``W:H`` such as 16:9 or 2.39:1, from 1:10 to 10:1."""

    aspect_ratio: str
    fit: Fit = "pad"
    audio_tracks: AudioTracks = "all"

    def __post_init__(self) -> None:
        self.ratio()

    def ratio(self) -> tuple[float, float]:
        """Return (W, H); raises `ValueError` if it is malformed or out of range."""
        match = re.fullmatch(
            r"\s*(\d{1,5}(?:\.\d{1,6})?)\s*:\s*(\d{1,5}(?:\.\d{1,6})?)\s*",
            self.aspect_ratio,
            re.ASCII,
        )
        if match is None:
            raise ValueError('aspect_ratio must be "W:H", such as "16:9" or "2.39:1"')
        width, height = float(match[1]), float(match[2])
        if not 0 < height <= width * 10 or not width <= height * 10:
            raise ValueError("aspect_ratio must be from 1:10 to 10:1")
        return width, height


class ExtractAudio(Parameters, kw_only=True, frozen=True):
    """`bitrate` in bits/s, VBR quality 2 without it; `track` is a number from 1 or a language."""

    bitrate: Annotated[int, msgspec.Meta(ge=32_000, le=320_000)] | None = None
    track: (
        Annotated[int, msgspec.Meta(ge=1, le=1000)]
        | Annotated[
            str, msgspec.Meta(pattern="^([0-9]{1,3}|[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*)$(?!\\n)")
        ]
        | None
    ) = None


class _ClipParameters(Parameters, kw_only=True, frozen=True):
    """A clip of the video. Times may be text; `start` and `length` are in seconds."""

    start_time: Time
    duration: Time

    def __post_init__(self) -> None:
        for name in ("start_time", "duration"):
            try:
                parse_time(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if self.length <= 0:
            raise ValueError("duration must be more than 0")
        if max(self.start, self.length) > 10_000_000:
            raise ValueError("start_time and duration must be at most 10,000,000 seconds")

    @property
    def start(self) -> float:
        """Seconds from the first frame shown."""
        return parse_time(self.start_time)

    @property
    def length(self) -> float:
        """The requested length in seconds."""
        return parse_time(self.duration)


class Gif(_ClipParameters, kw_only=True, frozen=True):
    """`fps` is frames per second; `width` is at most the source's; `max_size` is in bytes."""

    fps: Annotated[float, msgspec.Meta(ge=1, le=50)] = 12.0
    width: Annotated[int, msgspec.Meta(ge=16, le=1920)] = 480
    max_size: Annotated[int, msgspec.Meta(ge=1, le=(1 << 40) - 1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length > 600:
            raise ValueError("duration must be at most 600 seconds for a GIF; use webm for more")


class WebM(_ClipParameters, kw_only=True, frozen=True):
    """`quality` is the encoder's CRF: lower is better and larger."""

    codec: Literal["vp9", "av1"] = "vp9"
    width: Dimension | None = None
    quality: Annotated[int, msgspec.Meta(ge=4, le=63)] = 30


PARAMETERS: dict[str, type[Parameters]] = {
    "compress": Compress,
    "resolution": Resolution,
    "aspect_ratio": AspectRatio,
    "extract_audio": ExtractAudio,
    "gif": Gif,
    "webm": WebM,
}
"""Operation name -> its parameters, in the order in which people see them."""

EXAMPLES: dict[str, str] = {
    "compress": '{"quality":95}',
    "resolution": '{"width":1280,"height":720}',
    "aspect_ratio": '{"aspect_ratio":"16:9"}',
    "extract_audio": '{"bitrate":192000}',
    "gif": '{"start_time":0,"duration":5}',
    "webm": '{"start_time":0,"duration":5}',
}


def parse_parameters(operation: str, fields: dict[str, Any]) -> tuple[Parameters, list[str]]:
    """Return the typed parameters of `operation` and a warning for each unknown key.

    Raises `ServiceError` 400 for an unknown operation, and 422 for a parameter that is missing, has
    the wrong type or is out of range.
    """
    kind = PARAMETERS.get(operation)
    if kind is None:
        raise ServiceError(
            ErrorCode.BAD_REQUEST,
            "The type is not an operation.",
            f"Use one of {', '.join(PARAMETERS)}.",
        )
    known = get_type_hints(kind)
    warnings = [
        f"The parameter {key[:40]!r} is not one of {operation}'s; it was ignored."
        for key in list(fields)[:20]
        if key not in known
    ]
    given = {
        key: _whole(value) for key, value in fields.items() if key in known and value is not None
    }
    try:
        parameters = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        problem = _problem(operation, given, str(error))
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            f"A parameter of {operation} is invalid: {problem}.",
            f"Correct it. Example: {_example(operation, parameter_in(operation, problem))}",
        ) from None
    return parameters, warnings


def describe_parameters(operation: str) -> dict[str, Any]:
    """Return the JSON schema of each parameter of `operation`, by name.

    Each has a `description`, and a `unit` where there is one, besides its type, range and default.
    """
    schema = msgspec.json.schema(PARAMETERS[operation])
    definition = next(iter(schema["$defs"].values()))
    properties: dict[str, Any] = definition["properties"]
    for name, text in PARAMETER_TEXTS[operation].items():
        if name in properties:
            properties[name]["description"] = text.description
            if text.unit is not None:
                properties[name]["unit"] = text.unit
    return properties


def allowed(operation: str, name: str) -> str:
    """Return in words which values a parameter takes, "" if there is no short way to say it."""
    return allowed_values(name, describe_parameters(operation)[name])


def parameter_in(operation: str, problem: str) -> str | None:
    """Return which parameter a sentence about a problem is about, None if it names none."""
    return name_of(problem, list(PARAMETERS[operation].__struct_fields__))


def _whole(value: Any) -> Any:
    """Return 1280 for 1280.0: some languages have no other numbers, and JSON Schema calls that an
    integer."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
    return int(value) if whole else value


def _problem(operation: str, given: dict[str, Any], message: str) -> str:
    """Say what msgspec found wrong, such as ``Expected `int` >= 16 - at `$.width` ``."""
    match = re.fullmatch(r"(.*) - at `\$\.?(\w*).*`", message, re.DOTALL)
    text, name = (match[1], match[2]) if match else (message, "")
    if name in given:
        wanted = allowed(operation, name)
        if wanted:
            value = json.dumps(given[name])
            return f"{name} must be {wanted}, not {value if len(value) <= 60 else value[:60] + '…'}"
        text = f"{name}: {text}"
    return text.replace("Object missing required field", "missing the required field")[:200]


def _example(operation: str, name: str | None) -> str:
    """Return an example of the parameters that has the one called `name`."""
    example: dict[str, Any] = msgspec.json.decode(EXAMPLES[operation])
    if name is not None and name not in example:
        example[name] = example_value(name, describe_parameters(operation)[name])
    if name == "plays":
        example["codec"] = "auto"
    return msgspec.json.encode(example).decode()
