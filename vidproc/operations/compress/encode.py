"""How the compressor encodes: encoders, presets, audio, and the commands made of them.

Nothing here decides how good or how small a file becomes: `one_crf`, `by_shot` and `target_size`
do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import ffmpeg

from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import THREADS, Command, ffmpeg_command, output_file
from vidproc.ffmpeg.media import AudioStream, MediaInfo, VideoStream
from vidproc.operations.audio import ChosenAudio, aac_rate, choose_audio
from vidproc.operations.base import require_encoder
from vidproc.operations.compress.hdr import hdr_curve, hdr_parameters
from vidproc.operations.compress.scoring import KEY_INTERVAL, Samples, sampled_frames
from vidproc.operations.compress.search import Curve
from vidproc.operations.delivery import (
    Delivery,
    deliver,
    encoding_memory,
    rate_options,
    svt_rate,
)
from vidproc.operations.frames import Pixels, normalised
from vidproc.operations.reading import source
from vidproc.operations.sizes import Size
from vidproc.operations.tracks import Tracks, clean_metadata, copied_labels

Codec = Literal["h264", "hevc", "av1"]
ENCODERS: dict[Codec, str] = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
Preset = Literal["fast", "balanced", "small"]
Options = dict[str, object]


@dataclass(frozen=True, slots=True)
class VideoEncoder:
    """A video encoder with its settings but for the rate.

    `scoring_cost` is the approximate time of scoring relative to that of encoding.
    `passes` says how the encoder is told of its passes: FFmpeg's own way, by parameters, or
    not at all. `joinable` are the options of segments that can be joined without loss, None
    where the headers of two segments differ. `zones` says that it can change its CRF on the way.
    """

    codec: Codec
    encoder: str
    options: Mapping[str, object]
    curve: Curve
    scoring_cost: float
    memory_factor: float
    passes: Literal["ffmpeg", "x265", "none"]
    pixels: Pixels = Pixels()  # noqa: RUF009 - it is immutable
    joinable: Mapping[str, object] | None = None
    zones: bool = False

    def rounded(self, crf: float) -> float:
        """Return the nearest CRF that the encoder knows."""
        low, high = self.curve.crf_range
        step = self.curve.step
        return min(max(round(round(crf / step) * step, 3), low), high)

    def rate(self, crf: float) -> Options:
        """Return the options that set a CRF."""
        whole = int(crf)
        if crf == whole or self.encoder != "libsvtav1":
            return {"crf": whole if crf == whole else round(crf, 2)}
        # FFmpeg's own option is an integer; SVT-AV1 knows quarters, and before 4 ignores them.
        return {"crf": whole, "svtav1-params": f"crf={crf:g}"}

    def zone_options(self, zones: Sequence[tuple[int, float]], *, follows: bool) -> Options:
        """Return the options that change the CRF from each of these frames on, by a difference to
        the one that is set. `follows` says that the video has something before the first frame.

        x264 knows zones by their bits: a CRF of 6 less takes twice as many. It gives keyframes a
        lower quantizer than others, by `ipratio`, but not the first one of an encode.
        """
        if not self.zones or not zones or not (follows or any(more for _, more in zones)):
            return {}
        ends = [first - 1 for first, _ in zones[1:]] + [_LAST_FRAME]
        bits = [(f"{first},{end}", more) for (first, more), end in zip(zones, ends, strict=True)]
        words = [f"{frames},b={2 ** (-more / 6):.4f}" for frames, more in bits]
        if follows:  # of zones that overlap, the last one counts
            words.append(f"0,0,b={_KEYFRAME_BITS * 2 ** (-zones[0][1] / 6):.4f}")
        return {"x264-params": "zones=" + "/".join(words)}

    def output_options(self, rate: Options) -> Options:
        """Return all options of the video in an output, `rate` among them."""
        return {
            "c:v": self.encoder,
            **joined_parameters(self.options, rate),
            "pix_fmt": self.pixels.format,
        }


_LAST_FRAME = 99_999_999
_KEYFRAME_BITS = 1.4
"""x264's `ipratio`. Without it, segments of a video of 43 s at one CRF took 1.2 % more bytes."""


def joined_parameters(*options: Mapping[str, object]) -> Options:
    """Return all the options; the words of an encoder's own parameters (``x265-params``) that
    stand in several are put together."""
    joined: Options = {}
    for each in options:
        for name, value in each.items():
            both = name.endswith("-params") and name in joined
            joined[name] = f"{joined[name]}:{value}" if both else value
    return joined


# CRFs that reach a VMAF score on a typical video: medians over eight clips and the shots of six
# videos (H.264), over the clips (the others).
_TYPICAL_H264 = (
    *((70, 36.3), (75, 35.0), (80, 33.3), (85, 31.1)),
    *((90, 28.3), (92, 26.7), (95, 22.8), (97, 18.5), (99, 12.5)),
)
_TYPICAL_HEVC = (
    *((70, 37.3), (75, 35.9), (80, 34.2), (85, 32.0)),
    *((90, 28.9), (92, 27.1), (95, 23.0), (97, 18.0), (99, 12.0)),
)
_TYPICAL_AV1 = (
    *((70, 62.5), (75, 60.0), (80, 57.2), (85, 53.0)),
    *((90, 45.5), (92, 41.5), (95, 34.0), (97, 23.0), (99, 12.0)),
)


_X264: dict[Preset, tuple[Options, float]] = {
    "fast": ({"preset": "veryfast"}, 1.5),
    "balanced": ({"preset": "medium"}, 0.7),
    "small": ({"preset": "veryslow"}, 0.2),
}
_X265: dict[Preset, tuple[Options, float]] = {
    "fast": ({"preset": "superfast"}, 0.6),
    "balanced": ({"preset": "medium"}, 0.3),
    "small": ({"preset": "slow"}, 0.1),
}
_SVTAV1: dict[Preset, tuple[Options, float]] = {
    "fast": ({"preset": 9}, 1.5),
    "balanced": ({"preset": 8}, 0.8),
    "small": ({"preset": 5}, 0.2),
}


def video_encoder_for(
    codec: Codec,
    preset: Preset,
    capabilities: Capabilities,
    video: VideoStream,
    *,
    keep_hdr: bool = False,
) -> VideoEncoder:
    """Return the encoder for a codec and a preset; raises `ServiceError` 500 without one.

    H.264 is always 8-bit SDR, to play everywhere; the others keep the 10 bits of an SDR source,
    and HDR with `keep_hdr`.
    """
    hdr = keep_hdr and codec != "h264" and video.hdr
    deep = hdr or (codec != "h264" and video.bit_depth > 8 and not video.hdr)
    pixels = Pixels("yuv420p10le" if deep else "yuv420p", hdr)
    if codec == "h264":
        options, cost = _X264[preset]
        return VideoEncoder(
            codec=codec,
            encoder=require_encoder(capabilities, ENCODERS[codec]),
            options={"profile:v": "high", "g": KEY_INTERVAL, **options},
            curve=Curve((10.0, 45.0), 0.1, 0.14, -0.12, _TYPICAL_H264),
            scoring_cost=cost,
            memory_factor=1.0,
            passes="ffmpeg",
            joinable={"x264-params": "stitchable=1"},
            zones=True,
        )
    if codec == "hevc":
        options, cost = _X265[preset]
        hevc = Curve((10.0, 45.0), 0.1, 0.14, -0.12, _TYPICAL_HEVC)
        return VideoEncoder(
            codec=codec,
            encoder=require_encoder(capabilities, ENCODERS[codec]),
            options={
                "g": KEY_INTERVAL,
                **options,
                "tag:v": "hvc1",
                **(hdr_parameters("libx265", video) if hdr else {}),
            },
            curve=hdr_curve("libx265", video, hevc) if hdr else hevc,
            scoring_cost=cost,
            memory_factor=1.5,
            passes="x265",
            pixels=pixels,
            joinable={},
        )
    options, cost = _SVTAV1[preset]
    av1 = Curve((8.0, 63.0), 0.25, 0.07, -0.055, _TYPICAL_AV1)
    return VideoEncoder(
        codec=codec,
        encoder=require_encoder(capabilities, ENCODERS[codec]),
        options=joined_parameters(
            {"g": KEY_INTERVAL, **options},
            hdr_parameters("libsvtav1", video) if hdr else {},
            svt_rate(video.frame_rate),
        ),
        curve=hdr_curve("libsvtav1", video, av1) if hdr else av1,
        scoring_cost=cost,
        memory_factor=2.5,
        passes="none",
        pixels=pixels,
    )


def audio_for(media: MediaInfo, track: AudioStream) -> ChosenAudio | None:
    """Return what becomes of an audio track: copied when it is small already, else AAC.

    Audio that has fewer bits than AAC would get, but in a form that MP4 players do not take,
    gets no more than a quarter above what it had.
    """
    chosen_audio = choose_audio(media, "mp4", track=track)
    if chosen_audio is None:
        return None
    channels = 6 if track.channels >= 5 else min(2, chosen_audio.channels)
    usual, given = aac_rate(channels), track_rate(media, track)
    if chosen_audio.copied:
        if given is None or given <= 1.25 * usual:
            return chosen_audio
        return choose_audio(media, "mp4", track=track, bit_rate=usual)
    if given and given * 1.25 < usual:
        return replace(chosen_audio, bit_rate=max(int(given * 1.25), 32_000 * channels))
    return chosen_audio


def track_rate(media: MediaInfo, track: AudioStream) -> float | None:
    """Return the bits per second of a track in the source: its own word, else its part of what
    the file holds besides the video; None when neither is known."""
    video = media.video
    if track.bit_rate:
        return track.bit_rate
    if not media.duration or video is None or not video.bit_rate:
        return None
    known = sum(stream.bit_rate or 0 for stream in media.audio)
    unknown = sum(1 for stream in media.audio if not stream.bit_rate)
    rest = media.size * 8 / media.duration - video.bit_rate - known
    return rest / unknown if rest > 8000 * unknown else None


def audio_rate(media: MediaInfo, tracks: Tracks) -> float:
    """Return the approximate bit rate of the output audio, in bits per second."""
    return sum(
        audio.bit_rate or track_rate(media, audio.track) or aac_rate(audio.channels)
        for audio in tracks.audio
    )


def source_video_bytes(media: MediaInfo) -> float:
    """Return the size in bytes of the video stream in the source.

    It is the stream's own rate times its length where both are known, at most the file; else
    what is left of the file without its audio.
    """
    duration = media.duration or 0.0
    others = sum((stream.bit_rate or 0) for stream in media.audio) * duration / 8
    rest = max(media.size - others, media.size * 0.05)
    video = media.video
    if video is not None and video.bit_rate:
        return min(media.size, video.bit_rate * (video.duration or duration) / 8) or rest
    return rest


def sample_command(
    media: MediaInfo,
    capabilities: Capabilities,
    video_encoder: VideoEncoder,
    rate: Options,
    *,
    name: str,
    size: Size,
    samples: Samples,
    weight: float,
) -> Command:
    """Return the command that encodes samples of the video alone into the Matroska `name`."""
    stream = sampled_frames(media, capabilities, size, video_encoder.pixels, samples)
    options: Options = {
        **video_encoder.output_options(rate),
        "fps_mode": "vfr",
        "enc_time_base": "1:90000",
        "threads": THREADS,
        "filter_complex_threads": THREADS,
        "format": "matroska",
    }
    options.pop("tag:v", None)
    graph = ffmpeg.output(stream, output_file(name), **options)
    return ffmpeg_command(
        graph,
        stage="searching",
        duration=samples.seconds,
        weight=weight,
        memory=_memory(video_encoder, size, media) + len(samples.starts) * 24 * size[0] * size[1],
    )


def film_command(
    media: MediaInfo,
    capabilities: Capabilities,
    video_encoder: VideoEncoder,
    rate: Options,
    *,
    name: str,
    size: Size,
    tracks: Tracks,
    weight: float,
    reads: tuple[str, ...] = (),
) -> Command:
    """Return the command that encodes the whole video with its audio into the MP4 file `name`.

    `rate` holds the encoder's rate options (``crf``, or ``b:v`` and what goes with it); `reads`
    are the files of a pass log.
    """
    node = source(media)
    stream = normalised(node, media, capabilities, size, pixels=video_encoder.pixels)
    delivery = Delivery(
        file=name,
        container="mp4",
        video=video_encoder.output_options(rate),
        tracks=tracks,
    )
    return ffmpeg_command(
        deliver(node, media, stream, delivery),
        stage="encoding",
        reads=reads,
        duration=media.duration,
        weight=weight,
        memory=_memory(video_encoder, size, media),
    )


def analysis_command(
    media: MediaInfo,
    capabilities: Capabilities,
    video_encoder: VideoEncoder,
    rate: Options,
    *,
    size: Size,
    weight: float,
    writes: tuple[str, ...],
) -> Command:
    """Return the first of two passes: it writes no video, only the pass log's files `writes`."""
    stream = normalised(source(media), media, capabilities, size, pixels=video_encoder.pixels)
    options: Options = {
        **video_encoder.output_options(rate),
        **rate_options(media),  # as in the second pass: x264 compares the time bases
        "threads": THREADS,
        "filter_complex_threads": THREADS,
        "format": "null",
    }
    options.pop("tag:v", None)
    return ffmpeg_command(
        ffmpeg.output(stream, "-", **options),
        stage="analysing",
        writes=writes,
        written_as=".temp",  # by x264 and x265
        duration=media.duration,
        weight=weight,
        memory=_memory(video_encoder, size, media),
    )


def audio_command(media: MediaInfo, tracks: Tracks, *, name: str, weight: float) -> Command:
    """Return the command that writes the audio alone, as it will be delivered."""
    node = source(media)
    options: Options = {"threads": THREADS, "format": "mp4"}
    for number, audio in enumerate(tracks.audio):
        options.update(audio.options(number))
    streams = [audio.stream(node) for audio in tracks.audio]
    graph = ffmpeg.output(*streams, output_file(name), **options)
    return ffmpeg_command(
        graph, stage="analysing", duration=media.duration, weight=weight, cpus=2.0
    )


def copy_command(
    media: MediaInfo, audio: Sequence[AudioStream], *, name: str, container: str, weight: float
) -> Command:
    """Return the command that puts the source's video, `audio` and subtitles, untouched, into a
    file of their kind."""
    node = source(media)
    wanted = [*(track.index for track in audio), *(s.index for s in media.subtitles)]
    if media.video is not None:
        wanted.insert(0, media.video.index)
    options: Options = {
        "c": "copy",
        "fflags": "+bitexact",
        "format": container,
        **clean_metadata(media),
        **copied_labels(media, audio),
    }
    if container in ("mp4", "mov"):
        options["movflags"] = "+faststart"
    graph = ffmpeg.output(*(node[str(index)] for index in wanted), output_file(name), **options)
    return ffmpeg_command(graph, stage="copying", duration=media.duration, weight=weight, cpus=1.0)


def _memory(video_encoder: VideoEncoder, size: Size, media: MediaInfo) -> int:
    video = media.video
    decoded = (video.width, video.height) if video is not None else size
    return int(encoding_memory(size, decoded) * video_encoder.memory_factor)
