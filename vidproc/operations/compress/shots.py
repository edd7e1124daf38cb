"""Finding the shots of a video, and the segments that it is encoded in.

FFmpeg's `scdet` finds the cuts, on small frames. A shot that is too short is merged with the one
before it, and one that is too long is divided evenly, so that every segment is long enough for a
sample and none occupies a core for long.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import ffmpeg

from vidproc.ffmpeg.command import (
    SOURCE,
    THREADS,
    Command,
    ffmpeg_command,
    input_file,
    output_file,
)
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.frames import require_video
from vidproc.operations.reading import NO_SEEK, SAFE_INPUT

SHORTEST, LONGEST = 2.0, 10.0
"""The shortest and the longest segment, in seconds."""
TICKS = 90_000
"""Time base of the segments, in ticks per second."""
_WIDTH = 320
_THRESHOLD = 8
"""Of `scdet`, 0 to 100: low, because a false cut costs only a keyframe."""
_MOST_BYTES = 1 << 20
_CUT = re.compile(rb"lavfi\.scd\.time=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Shot:
    """A stretch of the video from `start` to `end`, in seconds from its first frame.

    `last` says that it extends to the video's end, wherever that is. Its first frame is at most
    `lead` seconds after `start`, and no other is; 0 where that is not known. A sample of a shot has
    a `gap` (start, end) that is left out.
    """

    number: int
    start: float
    end: float
    last: bool = False
    lead: float = 0.0
    gap: tuple[float, float] | None = None

    @property
    def length(self) -> float:
        """Its length in seconds."""
        return sum(end - start for start, end in self.stretches)

    @property
    def stretches(self) -> list[tuple[float, float]]:
        """The (start, end) of what it consists of, in seconds."""
        if self.gap is None:
            return [(self.start, self.end)]
        return [(self.start, self.gap[0]), (self.gap[1], self.end)]

    def sample(self, length: float) -> Shot:
        """Return a sample of `length` seconds, half from the shot's first half and half from its
        second one. It is the whole shot if that is no longer."""
        if length >= self.length:
            return self
        first = ticks(self.start + (self.length - length) / 4)
        second = ticks(self.start + (3 * self.length - length) / 4)
        half = ticks(length / 2)
        return Shot(self.number, first, second + half, gap=(first + half, second))


def ticks(seconds: float) -> float:
    """Return seconds in whole ticks, so that nothing is rounded on the way to FFmpeg."""
    return round(seconds * TICKS) / TICKS


def cuts_command(media: MediaInfo, *, packets: str, weight: float) -> Command:
    """Return the command that prints the times of the cuts to its standard output, and writes the
    times and sizes of the video's packets to the file `packets` (FFmpeg's `framecrc`).

    Frames that no other frame refers to are skipped: the same cuts for two thirds of the CPU time.
    """
    video = require_video(media)
    node = ffmpeg.input(
        input_file(SOURCE),
        **SAFE_INPUT,
        threads=THREADS,
        skip_loop_filter="all",
        skip_frame="noref",
    )
    stream = node[str(video.index)]
    seen = stream.filter("scale", _WIDTH, -2, flags="fast_bilinear")
    seen = seen.filter("scdet", threshold=_THRESHOLD)
    seen = seen.filter("metadata", mode="print", key="lavfi.scd.time", file="-")
    cuts = ffmpeg.output(
        seen, "-", format="null", fps_mode="passthrough", filter_complex_threads=THREADS
    )
    sizes = ffmpeg.output(stream, output_file(packets), c="copy", format="framecrc")
    return ffmpeg_command(
        ffmpeg.merge_outputs(cuts, sizes),
        stage="searching",
        duration=media.duration,
        weight=weight,
        capture=_MOST_BYTES,
    )


def lead(media: MediaInfo) -> float:
    """Return the lead of a shot after a cut of `parse_cuts`: just over half a frame."""
    return 0.55 / (require_video(media).frame_rate or 25.0)


def parse_cuts(printed: bytes, media: MediaInfo) -> list[float]:
    """Return the times of the cuts, in seconds from the first frame, half a frame before each
    shot's first one: whichever way a time is rounded, the frame stays on its side."""
    video = require_video(media)
    begin = video.start_time if video.start_time > NO_SEEK else 0.0
    half = 0.5 / (video.frame_rate or 25.0)
    return [float(time) - begin - half for time in _CUT.findall(printed)]


def divide(cuts: Iterable[float], duration: float, lead: float = 0.0) -> list[Shot]:
    """Return the segments of a video of `duration` seconds with cuts at these times.

    `lead` is that of the shots that begin at a cut.
    """
    edges = [0.0]
    for cut in sorted(cuts):
        if cut - edges[-1] >= SHORTEST and duration - cut >= SHORTEST:
            edges.append(cut)
    edges.append(duration)
    fine = [(0.0, 0.0)]
    for start, end in itertools.pairwise(edges):
        count = max(1, math.ceil((end - start) / LONGEST))
        fine += [(ticks(start + (end - start) * n / count), 0.0) for n in range(1, count)]
        fine.append((ticks(end), lead))
    count = len(fine) - 1
    return [
        Shot(n, start, end, last=n == count - 1, lead=lead)
        for n, ((start, lead), (end, _)) in enumerate(itertools.pairwise(fine))
    ]
