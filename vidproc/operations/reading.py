"""Reading a task's file: FFmpeg's input with all safety options, and seeking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import ffmpeg
from ffmpeg.nodes import FilterableStream

from vidproc.ffmpeg.command import SOURCE, THREADS, input_file
from vidproc.ffmpeg.media import UNTIMED, MediaInfo
from vidproc.ffmpeg.probe import ANALYZE_DURATION, FORMATS, MAX_PIXELS, MAX_STREAMS, PROBE_SIZE

NO_SEEK = 0.02
"""Seconds: a start so near the container's start counts as that; encoder delays look like one."""


_UNINDEXED = frozenset({"mpegts", "mpeg", "wtv"})
"""Containers in which FFmpeg seeks to any frame, or too far, but shows none before the next
keyframe."""


_PRIMED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2"})
"""Containers after a seek in which FFmpeg's decoders drop as many samples as at the file's start:
an encoder's delay, or all audio that an edit list cuts off, which can be seconds. What comes before
the place that was sought is cut away anyway."""


_LONGEST_GOP = 10.0
"""The longest GOP, in seconds; encoders seldom make longer ones."""


_KEYFRAME_FIRST = frozenset({"flv", "live_flv"})
"""Containers in which FFmpeg reads nothing at all after a seek to before the first keyframe."""


_NEAR_START = 1.0
"""Seconds: a seek this near the start may be to before the first keyframe, since FFmpeg seeks by
decoding times, which come earlier, and a little ahead of those."""


_MOST_NEGATIVE = -0.1
"""Seconds: encoder delays of audio are shorter. Before that FFmpeg finds no keyframe."""


SAFE_INPUT: dict[str, object] = {
    "protocol_whitelist": "file",
    "format_whitelist": FORMATS,
    "max_streams": MAX_STREAMS,
    "max_pixels": MAX_PIXELS,
    "probesize": PROBE_SIZE,
    "analyzeduration": ANALYZE_DURATION,
}
"""Options for every input from outside."""


class Source(Protocol):
    """An input node of a graph, as the streams of a file."""

    def __getitem__(self, index: str, /) -> FilterableStream:
        """Return a stream by its index in the file."""


def source(
    media: MediaInfo,
    *,
    name: str = SOURCE,
    start: float | None = None,
    duration: float | None = None,
) -> Source:
    """Return the input node of the task's file, or of another file `name` of the attempt.

    `start` and `duration` are in seconds; 0 is the first frame shown, which may come after the
    container's start. If both are None, everything is read and the streams' offsets are kept.
    """
    options: dict[str, object] = {**SAFE_INPUT, "threads": THREADS}
    lead = 0.0
    if start is not None or duration is not None:
        offset = media.video.start_time if media.video is not None else 0.0
        at = (start or 0.0) + max(0.0, offset)
        if at > NO_SEEK:
            if media.restarts:
                lead = at
            elif media.container in _UNINDEXED:
                lead = _LONGEST_GOP if at > _LONGEST_GOP + NO_SEEK else at
            elif _unseekable(media, at):
                lead = at
            if at > lead:
                options["ss"] = seconds(at - lead)
                if media.container in _PRIMED:
                    options["flags2"] = "+skip_manual"
        if duration is not None:
            options["t"] = seconds(duration + lead)
    node = ffmpeg.input(input_file(name), **options)
    return _Later(node, media, lead) if lead else node


def _unseekable(media: MediaInfo, at: float) -> bool:
    """Return whether FFmpeg would read nothing after a seek to `at` seconds."""
    if media.container in _KEYFRAME_FIRST:
        return at <= _NEAR_START
    if media.container == "avi" and media.video and media.video.pixel_format == "pal8":
        return True  # FFmpeg passes the palette with the first frame alone
    negative = media.start_time < _MOST_NEGATIVE and not media.subtitles
    return media.container in UNTIMED or negative


@dataclass(frozen=True, slots=True)
class _Later:
    """An input node whose video and audio begin `lead` seconds into what is read."""

    node: Source
    media: MediaInfo
    lead: float

    def __getitem__(self, index: str, /) -> FilterableStream:
        stream = self.node[index]
        if any(subtitle.index == int(index) for subtitle in self.media.subtitles):
            return stream  # these containers have no text subtitles that could be kept
        kind = "a" if any(track.index == int(index) for track in self.media.audio) else ""
        stream = stream.filter(f"{kind}trim", start=seconds(self.lead))
        return stream.filter(f"{kind}setpts", f"PTS-{seconds(self.lead)}/TB")


def seconds(value: float) -> str:
    """Return seconds as FFmpeg reads them, to the microsecond."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
