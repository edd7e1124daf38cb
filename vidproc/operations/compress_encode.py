"""How the compressor encodes: encoders, presets, audio, and the commands made of them.

Nothing here decides how good or how small a file shall be; `vidproc.operations.compress` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ffmpeg

from vidproc.ffmpeg.command import (
    SOURCE,
    THREADS,
    Command,
    ffmpeg_command,
    input_file,
    output_file,
)
from vidproc.ffmpeg.media import AudioStream, MediaInfo, VideoStream
from vidproc.mmp.errors import ErrorCode, ServiceError
from vidproc.operations.base import Capabilities, require_encoder

Codec = Literal["h264", "hevc", "av1"]
Preset = Literal["fast", "balanced", "small"]
Options = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Coder:
    """A video encoder with its settings but for the rate.

    `crf_range` is (best, worst) of what is ever used; `crf_step` the finest step it knows;
    `first_guess` maps VMAF scores to the CRF that gives them on a middling film (medians of
    measured runs over varied clips), from low scores to high ones.
    """

    codec: Codec
    encoder: str
    options: Mapping[str, Any]
    crf_range: tuple[float, float]
    crf_step: float
    first_guess: Sequence[tuple[float, float]]
    memory_per_pixel: int

    def start_crf(self, quality: float) -> float:
        """Return the CRF to look at first for a VMAF score, between the points of `first_guess`."""
        points = self.first_guess
        if quality <= points[0][0]:
            return points[0][1]
        for (low, crf_low), (high, crf_high) in zip(points, points[1:], strict=False):
            if quality <= high:
                return crf_low + (crf_high - crf_low) * (quality - low) / (high - low)
        return points[-1][1]


_X264: dict[Preset, Options] = {
    "fast": {"preset": "veryfast"},
    "balanced": {"preset": "medium"},
    "small": {"preset": "veryslow"},
}
_X265: dict[Preset, Options] = {
    "fast": {"preset": "superfast"},
    "balanced": {"preset": "medium"},
    "small": {"preset": "slow"},
}
_SVTAV1: dict[Preset, Options] = {
    "fast": {"preset": 10},
    "balanced": {"preset": 8},
    "small": {"preset": 5},
}


def coder_for(codec: Codec, preset: Preset, capabilities: Capabilities) -> Coder:
    """Return the encoder for a codec and a preset; raises `ServiceError` 500 without one."""
    if codec == "h264":
        return Coder(
            codec=codec,
            encoder=require_encoder(capabilities, "libx264"),
            options=_X264[preset],
            crf_range=(10.0, 45.0),
            crf_step=0.1,
            first_guess=((70, 36.0), (80, 32.5), (90, 27.5), (95, 23.5), (97, 21.0), (99, 17.0)),
            memory_per_pixel=200,
        )
    if codec == "hevc":
        return Coder(
            codec=codec,
            encoder=require_encoder(capabilities, "libx265"),
            options={**_X265[preset], "tag:v": "hvc1"},
            crf_range=(10.0, 45.0),
            crf_step=0.1,
            first_guess=((70, 37.0), (80, 33.5), (90, 28.5), (95, 24.0), (97, 21.5), (99, 17.0)),
            memory_per_pixel=300,
        )
    return Coder(
        codec=codec,
        encoder=require_encoder(capabilities, "libsvtav1"),
        options=_SVTAV1[preset],
        crf_range=(10.0, 63.0),
        crf_step=1.0,
        first_guess=((70, 60.0), (80, 55.0), (90, 44.0), (95, 33.0), (97, 26.0), (99, 16.0)),
        memory_per_pixel=500,
    )


def video_of(media: MediaInfo) -> VideoStream:
    """Return the film's picture; raises `ServiceError` 415 when there is none."""
    if media.video is None:
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The file has no video stream to compress.",
            "Send a file with a picture, or use extract_audio for its sound.",
        )
    return media.video


def duration_of(media: MediaInfo) -> float | None:
    """Return the film's length in seconds, None when nothing says it."""
    video = media.video
    return media.duration or (video.duration if video is not None else None)


def source_video_bytes(media: MediaInfo) -> float:
    """Return the bytes that the picture takes in the source: what is left of the file without
    its other streams, or the stream's own bit rate times its length when that is less."""
    duration = duration_of(media)
    if not duration:
        return float(media.size)
    others = sum((stream.bit_rate or 0) for stream in media.audio) * duration / 8
    rest = max(media.size - others, media.size * 0.05)
    video = media.video
    if video is not None and video.bit_rate:
        return min(rest, video.bit_rate * duration / 8)
    return rest


_FULL_RATE = {1: 96_000, 2: 160_000}
_COPYABLE = frozenset({"aac"})


def audio_rate(stream: AudioStream) -> int:
    """Return the bits per second for re-encoded sound: 96k mono, 160k stereo, 64k a channel
    above."""
    return _FULL_RATE.get(stream.channels, 64_000 * stream.channels)


def audio_options(stream: AudioStream | None) -> Options:
    """Return the output options for the sound: copied when it is AAC and small already."""
    if stream is None:
        return {}
    if stream.codec in _COPYABLE and (stream.bit_rate or 0) <= audio_rate(stream) * 1.2:
        return {"c:a": "copy"}
    return {"c:a": "aac", "b:a": audio_rate(stream)}


def picture_chain(stream: Any, video: VideoStream, size: tuple[int, int]) -> Any:
    """Return the picture upright, in square pixels, 8-bit 4:2:0 and of `size`."""
    width, height = size
    if (width, height) != video.displayed_size or video.sample_aspect_ratio != (1, 1):
        stream = stream.filter("scale", width, height, flags="bicubic")
    return stream.filter("setsar", "1").filter("format", "yuv420p")


def even_size(video: VideoStream) -> tuple[int, int]:
    """Return the displayed size with each side even, at least 2 pixels."""
    width, height = video.displayed_size
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def film_command(
    media: MediaInfo,
    coder: Coder,
    rate: Options,
    *,
    name: str,
    size: tuple[int, int],
    share: float,
    stage: str = "encoding",
) -> Command:
    """Return the command that encodes the whole film with its sound into the MP4 file `name`.

    `rate` holds the encoder's rate options (``crf``, or ``b:v`` and what goes with it).
    """
    video = video_of(media)
    source = ffmpeg.input(input_file(SOURCE))
    streams = [picture_chain(source[str(video.index)], video, size)]
    audio = media.main_audio()
    if audio is not None:
        streams.append(source[str(audio.index)])
    options: Options = {
        "c:v": coder.encoder,
        **coder.options,
        **rate,
        **audio_options(audio),
        "fps_mode": "vfr",
        "map_metadata": "-1",
        "movflags": "+faststart",
        "threads": THREADS,
        "f": "mp4",
    }
    graph = ffmpeg.output(*streams, output_file(name), **options)
    return ffmpeg_command(
        graph,
        stage=stage,
        duration=duration_of(media),
        share=share,
        memory=_memory(coder, size, video),
    )


def copy_command(media: MediaInfo, *, name: str, container: str, share: float) -> Command:
    """Return the command that puts the source's streams, untouched, into a file of their kind."""
    source = ffmpeg.input(input_file(SOURCE))
    video = video_of(media)
    wanted = [video.index, *(a.index for a in media.audio), *(s.index for s in media.subtitles)]
    options: Options = {"c": "copy", "fflags": "+bitexact", "f": container}
    if container in ("mp4", "mov"):
        options["movflags"] = "+faststart"
    graph = ffmpeg.output(*(source[str(i)] for i in wanted), output_file(name), **options)
    return ffmpeg_command(
        graph, stage="copying", duration=duration_of(media), share=share, cpus=1.0
    )


def _memory(coder: Coder, size: tuple[int, int], video: VideoStream) -> int:
    pixels = max(size[0] * size[1], video.width * video.height)
    return (192 << 20) + pixels * coder.memory_per_pixel
