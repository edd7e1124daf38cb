"""The finished file: video, audio and subtitles in a container, without private tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ffmpeg

from vidproc.ffmpeg.command import THREADS, output_file
from vidproc.ffmpeg.media import MediaInfo, SubtitleStream
from vidproc.operations.audio import ChosenAudio, Container
from vidproc.operations.frames import counted
from vidproc.operations.sizes import Size

KEPT_TAGS = ("title", "artist", "album_artist", "album", "composer", "genre", "track")
"""Tags that describe the content. Others may reveal where, when or with what it was recorded."""


_SNAPPED_RATE = 23  # frames/s from which half a frame is less than 22 ms


def film_duration(media: MediaInfo, chosen_audio: ChosenAudio | None) -> float | None:
    """Return the duration in seconds of the video and the chosen audio, None if unknown."""
    video = media.video
    if (
        video is None
        or video.duration is None
        or (chosen_audio and chosen_audio.track.duration is None)
    ):
        return media.duration
    ends = [video.start_time + video.duration]
    if chosen_audio is not None and chosen_audio.track.duration is not None:
        ends.append(chosen_audio.track.start_time + chosen_audio.track.duration)
    return max(ends)


def tolerance(media: MediaInfo) -> float:
    """Return by how many seconds the duration may legitimately change."""
    rate = media.video.frame_rate if media.video is not None else None
    allowed = max(0.5, 2 / rate if rate else 0.0)
    if media.ends_early:
        allowed = max(allowed, 2.0, 0.1 * (media.duration or 0.0))
    return allowed


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes into the finished file besides the video frames.

    `video` holds the encoder's output options. `whole` means that the file covers the whole
    source, so that chapters stay valid.
    """

    file: str
    container: Container
    video: dict[str, Any]
    chosen_audio: ChosenAudio | None = None
    subtitles: Sequence[SubtitleStream] = ()
    whole: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def deliver(node: Any, media: MediaInfo, stream: Any, delivery: Delivery) -> Any:
    """Return the output node: video, audio and subtitles in a file without private tags."""
    streams = [stream]
    mp4 = delivery.container == "mp4"
    options: dict[str, Any] = {
        "format": delivery.container,
        "threads": THREADS,
        "filter_complex_threads": THREADS,
        "max_muxing_queue_size": 4096,
        **clean_metadata(media),
        "map_chapters": 0 if delivery.whole and 0 < media.chapters <= 1000 else -1,
        **rate_options(media, delivery.container),
        **delivery.video,
    }
    if media.video is not None and media.video.language:
        options["metadata:s:v:0"] = f"language={media.video.language}"
    if delivery.chosen_audio is not None:
        streams.append(delivery.chosen_audio.stream(node))
        options.update(delivery.chosen_audio.options())
        if delivery.chosen_audio.track.language:
            options["metadata:s:a:0"] = f"language={delivery.chosen_audio.track.language}"
        options["disposition:a:0"] = "default"
    for number, subtitle in enumerate(delivery.subtitles):
        streams.append(node[str(subtitle.index)])
        if subtitle.language:
            options[f"metadata:s:s:{number}"] = f"language={subtitle.language}"
    if delivery.subtitles:
        options["c:s"] = "mov_text" if mp4 else "webvtt"
    if mp4:
        options["movflags"] = "+faststart"
    options.update(delivery.extra)
    return ffmpeg.output(*streams, output_file(delivery.file), **options)


def clean_metadata(media: MediaInfo) -> dict[str, Any]:
    """Return options that drop all tags except `KEPT_TAGS`."""
    options: dict[str, Any] = {"map_metadata:g": -1, "map_metadata:s": -1}
    kept = [(name, media.tags[name]) for name in KEPT_TAGS if media.tags.get(name)]
    for number, (name, value) in enumerate(kept):
        options[f"metadata:g:{number}"] = f"{name}={value}"
    return options


def rate_options(media: MediaInfo, container: Container = "mp4") -> dict[str, Any]:
    """Return options that keep the frames' times.

    FFmpeg's default time base is one frame. That is right for a constant rate, where it removes
    the rounding to a container's milliseconds. But it would shift the frames of a variable rate,
    or of a low one relative to the audio. WebM counts milliseconds anyway.
    """
    options: dict[str, Any] = {"fps_mode": "vfr"}
    video = media.video
    if container == "webm":
        options["enc_time_base"] = "1:1000"
    elif video is None or not video.constant_rate or (video.frame_rate or 0) < _SNAPPED_RATE:
        options["enc_time_base"] = "1:90000"
    return options


def kept_subtitles(media: MediaInfo) -> tuple[SubtitleStream, ...]:
    """Return the subtitle tracks that can be kept: text, at most 32."""
    return tuple(stream for stream in media.subtitles if stream.text)[:32]


def subtitle_warnings(media: MediaInfo, kept: Sequence[SubtitleStream]) -> list[str]:
    """Return a sentence if subtitles were dropped."""
    lost = len(media.subtitles) - len(kept)
    if not lost:
        return []
    images = sum(not stream.text for stream in media.subtitles)
    noun = "image-based subtitle track" if images == lost else "subtitle track"
    return [f"{counted(lost, noun)} left out."]


def x264(crf: int = 21, **rest: Any) -> dict[str, Any]:
    """Return options for H.264 that plays everywhere, at a constant quality `crf`."""
    return {
        "c:v": "libx264",
        "preset": "medium",
        "crf": crf,
        "profile:v": "high",
        "pix_fmt": "yuv420p",
        **rest,
    }


def encoding_memory(size: Size, *others: Size) -> int:
    """Return an estimate of the memory of an encode at `size`, in bytes: lookahead, decoded frames.

    `others` are the frame sizes before the encoder, such as the source's.
    """
    return (160 << 20) + 120 * size[0] * size[1] + sum(50 * w * h for w, h in others)
