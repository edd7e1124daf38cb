"""The finished file: video, audio and subtitles in a container, without private tags."""

from __future__ import annotations

from dataclasses import dataclass, field

import ffmpeg
from ffmpeg.nodes import FilterableStream, OutputStream

from vidproc.ffmpeg.command import THREADS, output_file
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.audio import Container
from vidproc.operations.reading import Source
from vidproc.operations.sizes import Size
from vidproc.operations.tracks import Tracks

_SNAPPED_RATE = 23  # frames/s from which half a frame is less than 22 ms


def film_duration(media: MediaInfo, tracks: Tracks) -> float | None:
    """Return the duration in seconds of the video and the chosen audio, None if unknown."""
    video = media.video
    if video is None or video.duration is None:
        return media.duration
    ends = [video.start_time + video.duration]
    for audio in tracks.audio:
        if audio.track.duration is None:
            return media.duration
        ends.append(audio.track.start_time + audio.track.duration)
    return max(ends)


def tolerance(media: MediaInfo) -> float:
    """Return by how many seconds the duration may legitimately change."""
    rate = media.video.frame_rate if media.video is not None else None
    allowed = max(0.5, 2 / rate if rate else 0.0)
    if media.ends_early:
        allowed = max(allowed, 2.0, 0.1 * (media.duration or 0.0))
    return allowed


_SVT_MOST_RATE = 240.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes into the finished file: `video` holds the encoder's output options, `tracks` is all
    the rest."""

    file: str
    container: Container
    video: dict[str, object]
    tracks: Tracks
    extra: dict[str, object] = field(default_factory=dict)


def svt_rate(rate: float | None, *, known: bool = True) -> dict[str, object]:
    """Return options that tell SVT-AV1 a frame rate if it would refuse the `rate` of the video.

    It takes at most 240 frames a second. Unless the filters' output has a `known` rate, it would
    count the ticks of the clock as frames. The frames' times stay as they are.
    """
    rate = rate or 0.0
    if known and rate <= _SVT_MOST_RATE:
        return {}
    rate = max(1.0, min(rate, _SVT_MOST_RATE))
    return {"svtav1-params": f"fps-num={round(rate * 1000)}:fps-denom=1000"}


def deliver(
    node: Source, media: MediaInfo, stream: FilterableStream, delivery: Delivery
) -> OutputStream:
    """Return the output node: video, audio and subtitles in a file without private tags."""
    options: dict[str, object] = {
        "format": delivery.container,
        "threads": THREADS,
        "filter_complex_threads": THREADS,
        "max_muxing_queue_size": 4096,
        **rate_options(media, delivery.container),
        **delivery.video,
        **delivery.tracks.options(media, delivery.container),
    }
    if len(delivery.tracks.audio) > 1:
        options["max_error_rate"] = 1  # one track that is damaged must not spoil the others
    if delivery.container == "mp4":
        options["movflags"] = "+faststart"
    options.update(delivery.extra)
    streams = [stream, *delivery.tracks.streams(node)]
    output = ffmpeg.output(*streams, output_file(delivery.file), **options)
    if not delivery.tracks.chapters:
        return output
    # Chapters come from the source, which is not the first input of a command that joins segments,
    # and none of its inputs where no other track comes from it.
    source = _input_arguments(node)
    arguments = ffmpeg.get_args(output)
    inputs = [arguments[at + 1] for at, word in enumerate(arguments) if word == "-i"]
    if source[-1] in inputs:
        options["map_chapters"] = inputs.index(source[-1])
        return ffmpeg.output(*streams, output_file(delivery.file), **options)
    options["map_chapters"] = len(inputs)
    output = ffmpeg.output(*streams, output_file(delivery.file), **options)
    return output.global_args(*source)


def _input_arguments(node: Source) -> list[str]:
    """Return the arguments of an input node, up to its file."""
    arguments = [str(word) for word in ffmpeg.get_args(ffmpeg.output(node["0"], "-"))]
    return arguments[: arguments.index("-i") + 2]


def rate_options(media: MediaInfo, container: Container = "mp4") -> dict[str, object]:
    """Return options that keep the frames' times.

    FFmpeg's default time base is one frame. That is right for a constant rate, where it removes
    the rounding to a container's milliseconds. But it would shift the frames of a variable rate,
    or of a low one relative to the audio. WebM counts milliseconds anyway.
    """
    options: dict[str, object] = {"fps_mode": "vfr"}
    video = media.video
    if container == "webm":
        options["enc_time_base"] = "1:1000"
    elif video is None or not video.constant_rate or (video.frame_rate or 0) < _SNAPPED_RATE:
        options["enc_time_base"] = "1:90000"
    return options


def x264(crf: int = 21, **rest: object) -> dict[str, object]:
    """Return options for H.264 that plays everywhere, at a constant quality `crf`."""
    return {
        "c:v": "libx264",
        "preset": "medium",
        "crf": crf,
        "profile:v": "high",
        "pix_fmt": "yuv420p",
        **rest,
    }


STITCHABLE: dict[str, object] = {"x264-params": "stitchable=1"}
"""Options of `x264` for segments: otherwise its headers depend on the frames and the rate."""


def encoding_memory(size: Size, *others: Size) -> int:
    """Return an estimate of the memory of an encode at `size`, in bytes: lookahead, decoded frames.

    `others` are the frame sizes before the encoder, such as the source's.
    """
    return (160 << 20) + 120 * size[0] * size[1] + sum(50 * w * h for w, h in others)
