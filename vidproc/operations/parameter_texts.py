"""Each parameter in a sentence, and its unit: what `info` tells beside type, range and default."""

from __future__ import annotations

from typing import NamedTuple


class ParameterText(NamedTuple):
    """A parameter's sentence, and the unit of its value if it has one."""

    description: str
    unit: str | None = None


_AUDIO_TRACKS = ParameterText("Which audio tracks are kept: all of them, or the default one alone.")
_FIT = ParameterText(
    "How the frame gets its new shape: pad adds bars, crop cuts the edges off, stretch distorts."
)
_START = ParameterText("Where the clip starts: seconds or HH:MM:SS.mmm from the first frame.", "s")

PARAMETER_TEXTS: dict[str, dict[str, ParameterText]] = {
    "compress": {
        "quality": ParameterText("The lowest quality that is acceptable, as a VMAF score."),
        "codec": ParameterText("The video codec of the result."),
        "plays": ParameterText("The codecs that can be played, for the codec auto to choose from."),
        "target_size": ParameterText("The most bytes that the result may have.", "bytes"),
        "preset": ParameterText("Whether encoding is to be fast, or the result small."),
        "hdr": ParameterText("Whether HDR video is kept or converted to SDR."),
        "audio_tracks": _AUDIO_TRACKS,
        "grain": ParameterText("Whether film grain is removed and synthesized when played (AV1)."),
    },
    "resolution": {
        "width": ParameterText("The new width as displayed.", "px"),
        "height": ParameterText("The new height as displayed.", "px"),
        "fit": _FIT,
        "audio_tracks": _AUDIO_TRACKS,
    },
    "aspect_ratio": {
        "aspect_ratio": ParameterText(
            "The new shape as displayed, W:H, from 1:10 to 10:1, such as 16:9."
        ),
        "fit": _FIT,
        "audio_tracks": _AUDIO_TRACKS,
    },
    "extract_audio": {
        "bitrate": ParameterText(
            "The bit rate of the MP3; without one it varies, at VBR quality 2.", "bit/s"
        ),
        "track": ParameterText("The audio track: its number, from 1, or its language."),
    },
    "gif": {
        "start_time": _START,
        "duration": ParameterText(
            "How long the clip is, more than 0 and at most 600 seconds; seconds or HH:MM:SS.mmm.",
            "s",
        ),
        "fps": ParameterText("Frames per second.", "frames/s"),
        "width": ParameterText("The width of the GIF; never more than the source's.", "px"),
        "max_size": ParameterText("The most bytes that the GIF may have.", "bytes"),
    },
    "webm": {
        "start_time": _START,
        "duration": ParameterText(
            "How long the clip is, more than 0; seconds or HH:MM:SS.mmm.", "s"
        ),
        "codec": ParameterText("The video codec of the clip."),
        "width": ParameterText("The width of the clip; the source's without it.", "px"),
        "quality": ParameterText("The encoder's CRF: lower is better and larger."),
    },
}
"""Operation -> parameter -> its text."""
