"""Surveying a video: where it can be cut into segments, and what each of them takes.

A survey reads the packets of the video stream once, in the sandbox (`survey_child`), and decodes
nothing. It says which frames a segment has, where FFmpeg must seek to for them, and which bytes of
the file that takes. Cuts are placed between two frames, so that no rounding of time stamps can move
a frame to the other side. `check_command` counts the frames of finished segments.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import msgspec

from vidproc.ffmpeg.command import SOURCE, Command, Part, input_file
from vidproc.ffmpeg.media import MediaInfo
from vidproc.ffmpeg.probe import ANALYZE_DURATION, FORMATS, MAX_PIXELS, MAX_STREAMS, PROBE_SIZE

SURVEY_CHILD = str(Path(__file__).with_name("survey_child.py"))
"""The script that a Command with ``program="survey"`` runs."""

_SEGMENT_FORMATS = "mov,matroska"
_CAPTURE = 4 << 20
_MEMORY = 512 << 20
_MEMORY_PER_PACKET = 400
_LEAST_SECONDS = 120
_SLOWEST = 20_000_000
"""Bytes per second: a survey of a file on a slow disk may take so long."""

_T = TypeVar("_T", bound=msgspec.Struct)


class SurveyFailed(Exception):
    """The video cannot be cut, or the answer makes no sense. The text is for logs."""


class Stretch(msgspec.Struct, kw_only=True, frozen=True):
    """A stretch of a video.

    It has the frames from `start` to before `end`, in seconds from the container's start; None is
    the end of the file. Both are halfway between two frames, `start` of the first stretch is the
    time of its first frame. `frames` is how many there are, `first` and `last` are their times in
    ticks. `at` is where to seek to, in seconds, so that all of them can be decoded; None is the
    file's start. `ranges` are the bytes (offset, end) that this takes, None if that is most of the
    file or unknown.
    """

    start: float
    end: float | None
    at: float | None
    frames: int
    first: int
    last: int
    ranges: list[tuple[int, int]] | None

    def part(self, size: int) -> Part:
        """Return what a command reads of a source of `size` bytes for this stretch."""
        ranges = None
        if self.ranges is not None:
            ranges = tuple((start, end) for start, end in self.ranges)
            before = 0
            for start, end in ranges:
                if not before <= start < end <= size:
                    ranges = None
                    break
                before = end
        return Part(self.at or 0.0, self.end, ranges)


class Counted(msgspec.Struct, kw_only=True, frozen=True):
    """The frames of a finished segment; `first` and `last` are times in ticks.

    `rising` says whether the decoding times rise; `headers` identifies the decoder's parameters.
    """

    frames: int
    packets: int
    first: int
    last: int
    rising: bool
    headers: str


class _Surveyed(msgspec.Struct, kw_only=True, frozen=True):
    windows: list[Stretch | None] = []
    error: str | None = None


class _Checked(msgspec.Struct, kw_only=True, frozen=True):
    segments: list[Counted] = []
    error: str | None = None


def survey_command(
    media: MediaInfo,
    cuts: Sequence[float] = (),
    *,
    tick: Fraction,
    start: float = 0.0,
    end: float | None = None,
    windows: Sequence[tuple[float, float]] = (),
    snap: float | Sequence[float] = 0.0,
    least: float = 0.0,
    lead: float = 0.0,
    weight: float = 0.0,
) -> Command:
    """Return the command that surveys the video of `SOURCE`. All times are in seconds from the
    container's start.

    The video from `start` to `end` is cut at about `cuts`: at a keyframe, if one is at most `snap`
    seconds away (a number for all cuts, or one for each), else at the next frame; a stretch shorter
    than `least` is not cut off. `windows` are other stretches to look at. Decoding begins at least
    `lead` seconds before each. `tick` is the length of the ticks in which frames' times are given.
    """
    assert media.video is not None
    options = {
        **_limits(FORMATS),
        "index": media.video.index,
        "cuts": [float(cut) for cut in cuts],
        "windows": [[float(first), float(last)] for first, last in windows],
        "tick": [tick.numerator, tick.denominator],
        "start": start,
        "end": end,
        "snap": [float(snap)] * len(cuts) if isinstance(snap, float) else list(snap),
        "least": least,
        "lead": lead,
        "seconds": _LEAST_SECONDS + media.size // _SLOWEST,
        "segments": False,
    }
    video = media.video
    packets = video.frames or (video.duration or 0.0) * (video.frame_rate or 0.0)
    memory = _MEMORY + int(packets) * _MEMORY_PER_PACKET
    return _command((SOURCE,), options, "preparing", weight, memory)


def check_command(files: Sequence[str], *, tick: Fraction, weight: float = 0.0) -> Command:
    """Return the command that counts the frames of the segments in `files`."""
    options = {
        **_limits(_SEGMENT_FORMATS),
        "tick": [tick.numerator, tick.denominator],
        "seconds": _LEAST_SECONDS + 2 * len(files),
        "segments": True,
    }
    return _command(files, options, "joining", weight, _MEMORY)


def _limits(formats: str) -> dict[str, object]:
    return {
        "formats": formats,
        "max_pixels": MAX_PIXELS,
        "max_streams": MAX_STREAMS,
        "probesize": PROBE_SIZE,
        "analyzeduration": ANALYZE_DURATION,
    }


def _command(
    files: Sequence[str], options: dict[str, object], stage: str, weight: float, memory: int
) -> Command:
    return Command(
        program="survey",
        arguments=(*map(input_file, files), msgspec.json.encode(options).decode()),
        stage=stage,
        weight=weight,
        cpus=1.0,
        memory=memory,
        capture=_CAPTURE,
        near=True,
    )


def parse_survey(stdout: bytes, windows: int = 0) -> tuple[list[Stretch], list[Stretch | None]]:
    """Return the stretches into which a video is cut, and those of its `windows` further ones,
    None where there are no frames. Raises `SurveyFailed`."""
    found = _parse(stdout, _Surveyed)
    if found.error is not None:
        raise SurveyFailed(found.error)
    own = len(found.windows) - windows
    cut = [each for each in found.windows[:own] if each is not None]
    if own < 1 or len(cut) != own:
        raise SurveyFailed("the survey's answer makes no sense")
    for one, other in itertools.pairwise(cut):
        if not (one.end == other.start and one.first <= one.last < other.first):
            raise SurveyFailed("the survey's answer makes no sense")
    return cut, found.windows[own:]


def parse_check(stdout: bytes, files: int) -> list[Counted]:
    """Return what `check_command` found in each of so many files. Raises `SurveyFailed`."""
    found = _parse(stdout, _Checked)
    if found.error is not None or len(found.segments) != files:
        raise SurveyFailed(found.error or "the survey's answer makes no sense")
    return found.segments


def _parse(stdout: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(stdout, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SurveyFailed(f"the survey's answer makes no sense: {error}") from None
