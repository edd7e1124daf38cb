"""Encoding a film in segments, side by side, and joining them without loss.

For encoders that leave cores idle (libvpx-vp9). Each segment is a command of its own: one FFmpeg
would keep its outputs abreast and have one segment wait for the other. Segments touch each other
exactly: all inputs count time from the same moment, and one number of seconds ends a segment and
begins the next, whatever the film's time stamps are. Joining copies packets and keeps their times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ffmpeg

from vidproc.ffmpeg.command import (
    SOURCE,
    THREADS,
    Command,
    CommandFailed,
    ffmpeg_command,
    input_file,
    output_file,
)
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import clips, frames, reading, sizes
from vidproc.operations.base import Job

LEAST = 4.0
"""Seconds of a segment, at least: each begins with a keyframe, which costs some 5 % of them."""
MOST = 8
"""Segments at once: more need memory, and encoders have some threads of their own."""
MOST_PIXELS = 16_000_000
"""Pixels of all segments' frames together, for the same reason; two segments are always allowed."""
LIST = "segments.ffconcat"
"""The name of the file that tells FFmpeg what to join."""

_SEEKABLE = ("mp4", "matroska")  # demuxers that never land behind the moment asked for
_LEAD = 0.5  # seconds read before a segment, so that a deinterlacer knows the pictures before it
_LEAST_RATE = 5.0  # pictures/s below which a segment might have none
_TICKS = 90_000  # time base of the segments, in ticks per second


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the clip, from `start` to `end` in seconds of it, for so many `cores`."""

    number: int
    start: float
    end: float
    cores: int

    @property
    def length(self) -> float:
        """Its seconds."""
        return self.end - self.start

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"segment-{self.number}.mp4"


def divide(
    media: MediaInfo,
    clip: clips.Clip,
    size: sizes.Size,
    threads: int,
) -> list[Segment]:
    """Return the segments into which a clip, at `size`, is cut for `threads` threads.

    One alone says that it is better not cut.
    """
    video = frames.require_video(media)
    length = clip.length
    if video.duration is not None:
        length = min(length, video.duration - clip.start)
    count = min(threads, MOST, int(length / LEAST), max(2, MOST_PIXELS // (size[0] * size[1])))
    possible = (
        not media.ends_early
        and video.duration is not None
        and (video.frame_rate or 0.0) >= _LEAST_RATE
        and any(name in media.container.split(",") for name in _SEEKABLE)
    )
    if not possible or count < 2:
        return [Segment(0, 0.0, clip.length, max(1, threads))]
    # Whole ticks, so that nothing is rounded on the way.
    edges = [round(length * number / count * _TICKS) / _TICKS for number in range(count)]
    edges.append(clip.length)
    return [
        Segment(number, edges[number], edges[number + 1], threads // count)
        for number in range(count)
    ]


def encode(
    media: MediaInfo,
    clip: clips.Clip,
    cut: Sequence[Segment],
    picture: Callable[[Any, Callable[[Any], Any]], Any],
    options: dict[str, Any],
    memory: int,
    share: float,
) -> tuple[Command, ...]:
    """Return the commands, to be run at once, that make all segments of the clip.

    `picture` returns the picture at its size from an input node and a function that chooses
    pictures (`sample` of `frames.picture`); `options` are the encoder's; `memory` in bytes
    is one segment's, `share` (0 to 1) that of all of them in the task.
    """
    begin = round(clip.start + frames.require_video(media).start_time, 6)
    begin = begin if begin > reading.NO_SEEK else 0.0
    commands = []
    for segment in cut:
        at = round(max(begin, begin + segment.start - _LEAD), 6)
        place: dict[str, Any] = {}
        if at:
            # Together they shift all inputs' times by the same, to the microsecond.
            place = {"ss": reading.seconds(at), "itsoffset": reading.seconds(at - begin)}
        node = ffmpeg.input(
            input_file(SOURCE), **reading.SAFE_INPUT, threads=f"{THREADS}+1", **place
        )
        graph = ffmpeg.output(
            picture(node, partial(_exactly, segment)),
            output_file(segment.file),
            **{
                "format": "mp4",
                "fps_mode": "vfr",
                "enc_time_base": f"1:{_TICKS}",
                "video_track_timescale": _TICKS,
                "threads": THREADS,
                "map_metadata": -1,
                "abort_on": "empty_output",
                **options,
            },
        )
        part_of_all = segment.length / cut[-1].end
        commands.append(
            ffmpeg_command(
                graph,
                stage="encoding",
                duration=segment.length,
                share=share * part_of_all,
                cpus=float(segment.cores),
                memory=memory,
            )
        )
    return tuple(commands)


async def make(job: Job[Any], commands: Sequence[Command]) -> bool:
    """Run the commands of `encode`; return whether every segment has pictures.

    None are there after a long pause, or where a file is damaged. Raises `CommandStopped`, and
    `CommandFailed` for what is no fault of the file's.
    """
    try:
        await job.run_together(commands)
    except CommandFailed as error:
        if not error.kind.may_be_the_files:
            raise
        return False
    return True


def _exactly(segment: Segment, stream: Any) -> Any:
    """Keep a segment's pictures and count their times from its start; the film's first is at 0."""
    ends: dict[str, Any] = {"end": reading.seconds(segment.end)}
    if segment.start:
        ends["start"] = reading.seconds(segment.start)
    stream = stream.filter("trim", **ends).filter("settb", f"1/{_TICKS}")
    if not segment.start:
        return stream.filter("setpts", "if(eq(N,0),0,PTS)")
    return stream.filter("setpts", f"max(PTS-{round(segment.start * _TICKS)},0)")


def listing(cut: Sequence[Segment]) -> bytes:
    """Return the contents of `LIST`: the segments one after another, their pictures' times kept."""
    lines = ["ffconcat version 1.0"]
    for segment in cut:
        # Without an inpoint the first picture would be moved to the segment's very start.
        lines += [
            f"file {segment.file}",
            "inpoint 0",
            f"duration {reading.seconds(segment.length)}",
        ]
    return "\n".join([*lines, ""]).encode()


def joined() -> Any:
    """Return the picture stream of the joined segments, to be copied."""
    node = ffmpeg.input(
        input_file(LIST),
        format="concat",
        protocol_whitelist="file",
        format_whitelist="concat,mov,mp4,m4a,3gp,3g2,mj2",
    )
    return node["0"]
