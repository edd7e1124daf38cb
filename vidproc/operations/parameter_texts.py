"""A sentence about each parameter, and its unit; `info` also has its type, range and default."""

from __future__ import annotations

from typing import NamedTuple


class ParameterText(NamedTuple):
    """A parameter's sentence, and the unit of its value if it has one."""

    description: str
    unit: str | None = None


_AUDIO_TRACKS = ParameterText("Which audio tracks are kept: all, or only the default one.")
_FIT = ParameterText(
    "How to change the aspect ratio: pad adds bars, crop cuts off the edges, stretch distorts."
)
_START = ParameterText("Where the clip starts: seconds or HH:MM:SS.mmm from the first frame.", "s")

PARAMETER_TEXTS: dict[str, dict[str, ParameterText]] = {
    "compress": {
        "quality": ParameterText("The lowest acceptable quality, as a VMAF score."),
        "codec": ParameterText("The video codec of the result."),
        "plays": ParameterText("The codecs that you can play; codec auto chooses from these."),
        "target_size": ParameterText(
            "The maximum size of the result; the quality is then ignored.", "bytes"
        ),
        "preset": ParameterText("Trades encoding time for size."),
        "hdr": ParameterText(
            "Whether HDR is kept or converted to SDR; by default it is kept, except in H.264."
        ),
        "audio_tracks": _AUDIO_TRACKS,
        "grain": ParameterText(
            "Whether film grain is removed and synthesised during playback (AV1)."
        ),
    },
    "resolution": {
        "width": ParameterText("The new displayed width.", "px"),
        "height": ParameterText("The new displayed height.", "px"),
        "fit": _FIT,
        "audio_tracks": _AUDIO_TRACKS,
    },
    "aspect_ratio": {
        "aspect_ratio": ParameterText(
            "The new displayed aspect ratio, W:H, from 1:10 to 10:1, such as 16:9."
        ),
        "fit": _FIT,
        "audio_tracks": _AUDIO_TRACKS,
    },
    "extract_audio": {
        "bitrate": ParameterText("The bit rate of the MP3; without one, VBR quality 2.", "bit/s"),
        "track": ParameterText("The audio track: its number, counted from 1, or its language."),
    },
    "gif": {
        "start_time": _START,
        "duration": ParameterText(
            "The length of the clip: seconds or HH:MM:SS.mmm, more than 0 and at most 600 s.",
            "s",
        ),
        "fps": ParameterText("Frames per second.", "frames/s"),
        "width": ParameterText("The width of the GIF; never more than the source's.", "px"),
        "max_size": ParameterText("The maximum size of the GIF.", "bytes"),
    },
    "webm": {
        "start_time": _START,
        "duration": ParameterText(
            "The length of the clip: seconds or HH:MM:SS.mmm, more than 0.", "s"
        ),
        "codec": ParameterText("The video codec of the clip."),
        "width": ParameterText("The width of the clip; by default the source's.", "px"),
        "quality": ParameterText("The encoder's CRF: lower is better and larger."),
    },
}
"""Operation -> parameter -> its text."""
