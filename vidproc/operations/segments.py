"""Encoding a clip in parallel segments and joining them without loss.

For encoders that leave cores idle (libvpx-vp9). Each segment is a separate command: a single FFmpeg
would keep its outputs in step, so that one segment waits for the other. Segments meet exactly: all
inputs count time from the same moment, and the end of one segment is, as the same number, the start
of the next, whatever the video's time stamps are. Joining copies packets and keeps their times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import ffmpeg
from ffmpeg.nodes import FilterableStream

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
from vidproc.operations.base import Job, P

LEAST = 4.0
"""The shortest segment, in seconds: each begins with a keyframe, which costs about 5 % of it."""
MOST = 8
"""The most parallel segments: more need memory, and encoders use additional threads anyway."""
MOST_PIXELS = 16_000_000
"""Pixels of all segments' frames together, for the same reason; two segments are always allowed."""
LIST = "segments.ffconcat"
"""The name of the file that lists the segments for FFmpeg."""

_SEEKABLE = ("mp4", "matroska")  # demuxers that never seek past the requested time
_LEAD = 0.5  # seconds read before a segment, so that a deinterlacer has the previous frames
_LEAST_RATE = 5.0  # frames/s below which a segment might have none
_TICKS = 90_000  # time base of the segments, in ticks per second


@dataclass(frozen=True, slots=True)
class Segment:
    """From `start` to `end`, in seconds of the clip, to be encoded with `cores` cores."""

    number: int
    start: float
    end: float
    cores: int

    @property
    def length(self) -> float:
        """Its length in seconds."""
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
    """Return the segments into which a clip of `size` is divided for `threads` threads.

    A single one if it is better to encode the clip as a whole.
    """
    video = frames.require_video(media)
    length = clip.length
    if video.duration is not None:
        length = min(length, video.duration - clip.start)
    count = min(threads, MOST, int(length / LEAST), max(2, MOST_PIXELS // (size[0] * size[1])))
    if not possible(media) or count < 2:
        return [Segment(0, 0.0, clip.length, max(1, threads))]
    # Whole ticks, so that nothing is rounded later.
    edges = [round(length * number / count * _TICKS) / _TICKS for number in range(count)]
    edges.append(clip.length)
    return [
        Segment(number, edges[number], edges[number + 1], threads // count)
        for number in range(count)
    ]


def possible(media: MediaInfo) -> bool:
    """Return whether a video can be cut into segments."""
    video = frames.require_video(media)
    return (
        not media.ends_early
        and video.duration is not None
        and (video.frame_rate or 0.0) >= _LEAST_RATE
        and any(name in media.container.split(",") for name in _SEEKABLE)
    )


def encode(
    media: MediaInfo,
    clip: clips.Clip,
    cut: Sequence[Segment],
    scaled: Callable[[reading.Source, frames.Sample], FilterableStream],
    options: dict[str, object],
    memory: int,
    weight: float,
) -> tuple[Command, ...]:
    """Return the commands that encode all segments of the clip, to be run in parallel.

    `scaled` returns the video at its size from an input node and a function that selects frames
    (`sample` of `frames.normalised`); `options` are the encoder's; `memory` is that of one segment,
    in bytes; `weight` (0 to 1) is that of all of them in the task.
    """
    begin = round(clip.start + frames.require_video(media).start_time, 6)
    begin = begin if begin > reading.NO_SEEK else 0.0
    commands = []
    for segment in cut:
        at = round(max(begin, begin + segment.start - _LEAD), 6)
        place: dict[str, object] = {}
        if at:
            # Together they shift the times of all inputs by the same amount, to the microsecond.
            place = {"ss": reading.seconds(at), "itsoffset": reading.seconds(at - begin)}
        node = ffmpeg.input(
            input_file(SOURCE), **reading.SAFE_INPUT, threads=f"{THREADS}+1", **place
        )
        graph = ffmpeg.output(
            scaled(node, partial(_exactly, segment)),
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
        fraction = segment.length / cut[-1].end
        commands.append(
            ffmpeg_command(
                graph,
                stage="encoding",
                duration=segment.length,
                weight=weight * fraction,
                cpus=float(segment.cores),
                memory=memory,
            )
        )
    return tuple(commands)


async def make(job: Job[P], commands: Sequence[Command]) -> bool:
    """Run the commands of `encode`; return whether every segment has frames.

    There are none after a long pause or where a file is damaged. Raises `CommandStopped`, and
    `CommandFailed` for failures that the file did not cause.
    """
    try:
        await job.run_together(commands)
    except CommandFailed as error:
        if not error.kind.may_be_the_files:
            raise
        return False
    return True


def _exactly(segment: Segment, stream: FilterableStream) -> FilterableStream:
    """Keep a segment's frames, with times from its start; the first frame of the clip is at 0."""
    ends: dict[str, object] = {"end": reading.seconds(segment.end)}
    if segment.start:
        ends["start"] = reading.seconds(segment.start)
    stream = stream.filter("trim", **ends).filter("settb", f"1/{_TICKS}")
    if not segment.start:
        return stream.filter("setpts", "if(eq(N,0),0,PTS)")
    return stream.filter("setpts", f"max(PTS-{round(segment.start * _TICKS)},0)")


def listing(cut: Sequence[Segment]) -> bytes:
    """Return the contents of `LIST`: the segments in order, with the times of their frames."""
    lines = ["ffconcat version 1.0"]
    for segment in cut:
        # Without an inpoint the first frame would be moved to the start of the segment.
        lines += [
            f"file {segment.file}",
            "inpoint 0",
            f"duration {reading.seconds(segment.length)}",
        ]
    return "\n".join([*lines, ""]).encode()


def joined() -> FilterableStream:
    """Return the video stream of the joined segments, to be copied."""
    node = ffmpeg.input(
        input_file(LIST),
        format="concat",
        protocol_whitelist="file",
        format_whitelist="concat,mov,mp4,m4a,3gp,3g2,mj2",
    )
    return node["0"]
