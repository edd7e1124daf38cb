"""Checks a finished file against what its operation promised. Used by the server and by tests."""

from __future__ import annotations

from dataclasses import dataclass

from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.base import Expectation
from vidproc.units import format_duration


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a file, or None: a clause whose subject "it" is the result. `warning` is a
    sentence for the client about a file that is right."""

    fault: str | None = None
    warning: str | None = None


def compare(found: MediaInfo, expected: Expectation, source: MediaInfo) -> Verdict:
    """Compare a finished file, made from `source`, with what was expected."""
    if fault := _wrong_streams(found, expected):
        return Verdict(fault)
    warning = None
    if expected.audio_tracks is not None and len(found.audio) < expected.audio_tracks:
        warning = f"Only {len(found.audio)} of {expected.audio_tracks} audio tracks could be read."
    if expected.duration is None:
        return Verdict(warning=warning)
    if found.duration is None:
        return Verdict("its duration is unknown")
    lengths = f"{format_duration(found.duration)} of {format_duration(expected.duration)}"
    if found.duration < expected.duration - expected.tolerance:
        # FFmpeg ends with status 0 when its input is cut short.
        return Verdict(warning=f"The source ended early or is damaged: the result has {lengths}.")
    if found.duration > expected.duration + expected.tolerance:
        if _length_is_certain(expected, source):
            return Verdict(
                f"it lasts {format_duration(found.duration)} and should last"
                f" {format_duration(expected.duration)}"
            )
        return Verdict(
            warning="The source is longer than it says: the result has"
            f" {format_duration(found.duration)}, not {format_duration(expected.duration)}."
        )
    return Verdict(warning=warning)


def _wrong_streams(found: MediaInfo, expected: Expectation) -> str | None:
    if expected.video != (found.video is not None):
        return "it has no video stream" if expected.video else "it should have no video stream"
    if expected.audio != bool(found.audio):
        return "it has no audio stream" if expected.audio else "it should have no audio stream"
    if expected.size and found.video and found.video.displayed_size != expected.size:
        width, height = found.video.displayed_size
        wanted = f"{expected.size[0]}x{expected.size[1]}"
        return f"its frames are {width}x{height} pixels and should be {wanted}"
    return None


def _length_is_certain(expected: Expectation, source: MediaInfo) -> bool:
    """Return whether a longer result can only be an error.

    The duration of a source may be known from its header alone, which may be wrong. But a clip has
    the duration that was asked for, whatever the header says.
    """
    if source.measured or source.duration is None or expected.duration is None:
        return source.measured
    return expected.duration < source.duration - expected.tolerance
