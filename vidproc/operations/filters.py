"""Shared pieces of FFmpeg graphs: reading the source safely, a clean picture, sound, delivery.

Everything here is pure: it takes what the probe found and returns ffmpeg-python nodes, options
and sentences. A picture that leaves `picture` or `fit_picture` is upright, progressive, SDR, in
limited range and has square pixels, so that the operations only think about its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ffmpeg

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg.capabilities import Capabilities
from vidproc.ffmpeg.command import SOURCE, THREADS, input_file, output_file
from vidproc.ffmpeg.media import AudioStream, MediaInfo, SubtitleStream, VideoStream
from vidproc.ffmpeg.probe import (
    ANALYZE_DURATION,
    FORMATS,
    MAX_PIXELS,
    MAX_STREAMS,
    PROBE_SIZE,
)
from vidproc.operations.parameters import Fit

Size = tuple[int, int]
Container = Literal["mp4", "webm"]

MAX_SIDE = 8192
"""Pixels: the longest side of a picture that we make."""

NO_SEEK = 0.02
"""Seconds: a start nearer to the container's is taken for it; encoders' delays look like one."""

KEPT_TAGS = ("title", "artist", "album_artist", "album", "composer", "genre", "track")
"""Tags that say what a film is. All others may say where, when or with what it was taken."""

REFERENCE_WHITE = 203
"""cd/m2: the HDR level that becomes SDR white or nearly so (ITU-R BT.2408, 3.2)."""

_UNINDEXED = frozenset({"mpegts", "mpeg"})
"""Containers in which FFmpeg seeks to any picture and shows none before the next key picture."""
_LONGEST_GROUP = 10.0
"""Seconds from one key picture to the next at most; encoders seldom make them longer."""

_COPYABLE: dict[Container, frozenset[str]] = {
    # What every player takes from this container, which is less than it can hold.
    "mp4": frozenset({"aac", "mp3"}),
    "webm": frozenset({"opus", "vorbis"}),
}
_LAYOUTS: dict[str, str] = {
    # What the encoders write without layouts that players do not know (5.1(side), PCE).
    "aac": "mono|stereo|5.1",
    "libopus": "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1",
}
_RGB = ("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "x2rgb", "x2bgr", "pal8", "bayer")
_SNAPPED_RATE = 23  # pictures/s from which half a picture is less than 22 ms
_SCALER = "lanczos+accurate_rnd+full_chroma_int"
_RGB_SCALER = "lanczos"  # colours at full resolution make a GIF of drawn edges 7 % larger


# Reading the source


def source(
    media: MediaInfo,
    *,
    name: str = SOURCE,
    start: float | None = None,
    duration: float | None = None,
) -> Any:
    """Return the input node of the task's file, or of another file `name` of the attempt.

    `start` and `duration` are seconds; 0 is the first picture shown, which may come later than
    the container's start. Both None reads everything and keeps the streams' offsets.
    """
    options: dict[str, Any] = {**SAFE_INPUT, "threads": THREADS}
    lead = 0.0
    if start is not None or duration is not None:
        offset = media.video.start_time if media.video is not None else 0.0
        at = (start or 0.0) + max(0.0, offset)
        if at > NO_SEEK:
            if media.container in _UNINDEXED:
                lead = _LONGEST_GROUP if at > _LONGEST_GROUP + NO_SEEK else at
            if at > lead:
                options["ss"] = seconds(at - lead)
        if duration is not None:
            options["t"] = seconds(duration + lead)
    node = ffmpeg.input(input_file(name), **options)
    return _Later(node, media, lead) if lead else node


@dataclass(frozen=True, slots=True)
class _Later:
    """An input node whose picture and sound begin `lead` seconds into what is read."""

    node: Any
    media: MediaInfo
    lead: float

    def __getitem__(self, index: str) -> Any:
        stream = self.node[index]
        if any(subtitle.index == int(index) for subtitle in self.media.subtitles):
            return stream  # there is no text in these containers that could be kept
        kind = "a" if any(track.index == int(index) for track in self.media.audio) else ""
        stream = stream.filter(f"{kind}trim", start=seconds(self.lead))
        return stream.filter(f"{kind}setpts", f"PTS-{seconds(self.lead)}/TB")


SAFE_INPUT: dict[str, Any] = {
    "protocol_whitelist": "file",
    "format_whitelist": FORMATS,
    "max_streams": MAX_STREAMS,
    "max_pixels": MAX_PIXELS,
    "probesize": PROBE_SIZE,
    "analyzeduration": ANALYZE_DURATION,
}
"""Options of every input that came from outside."""


def seconds(value: float) -> str:
    """Return seconds as FFmpeg reads them, to the microsecond."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


# Sizes


def even(value: float) -> int:
    """Return the even number nearest to `value`, the lower of two, at least 2."""
    return max(2, 2 * math.ceil(value / 2 - 0.5))


def scaled(size: Size, factor: float) -> Size:
    """Return `size` times `factor` in even numbers."""
    return even(size[0] * factor), even(size[1] * factor)


def limited(size: Size, longest: int = MAX_SIDE) -> Size:
    """Return `size`, made smaller in its own shape when a side is longer than `longest`."""
    factor = min(1.0, longest / max(size))
    return size if factor == 1.0 else scaled(size, factor)


# The picture


def require_video(media: MediaInfo) -> VideoStream:
    """Return the film's picture; raises `ServiceError` 415 when it has none that can be read."""
    if media.video is None:
        if media.unreadable_video:
            raise ServiceError(
                ErrorCode.UNSUPPORTED_MEDIA,
                "The video is too damaged, or of an unknown kind: no picture could be decoded.",
                "Check that it plays on your machine and was copied to its end, then send it "
                "again; extract_audio can still take its sound.",
            )
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The file has no video: it holds only sound.",
            "Send a file with a video stream, or use extract_audio for its sound.",
        )
    if media.video.dolby_vision_only:
        raise ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The picture is Dolby Vision without a common layer (profile 5): its colours can't be "
            "read here.",
            "Export it as HDR10, HLG or standard range and send that; extract_audio can still take "
            "its sound.",
        )
    return media.video


def picture(
    node: Any,
    media: MediaInfo,
    capabilities: Capabilities,
    size: Size | None = None,
    *,
    pixel_format: str = "yuv420p",
    sample: Callable[[Any], Any] | None = None,
) -> Any:
    """Return the film's picture, cleaned, at `size` (displayed pixels; default: the source's).

    FFmpeg turns it upright itself. Sizes must be even unless `pixel_format` is RGB or 4:4:4.
    `sample` chooses pictures (a frame rate, a part) where that is cheapest: before any scaling.
    """
    video = require_video(media)
    width, height = size or scaled(video.displayed_size, 1.0)
    stream = node[str(video.index)]
    if video.interlaced:
        stream = stream.filter("bwdif", mode="send_frame", deint="interlaced")
    if any(video.crop):
        left, top, right, bottom = video.displayed_crop
        stream = stream.filter(
            "crop", f"iw-{left + right}", f"ih-{top + bottom}", left, top, exact=1
        )
    if sample is not None:
        stream = sample(stream)
    rgb = is_rgb(video.pixel_format)
    converts = "zscale" in capabilities.filters and "tonemap" in capabilities.filters
    if (video.hdr or wide_gamut(video)) and converts:
        stream = stream.filter(
            "scale",
            width,
            height,
            flags=_SCALER,
            **({"out_color_matrix": "bt2020", "out_range": "tv"} if rgb else {}),
        )
        stream = _to_sdr(stream.filter("format", "yuv444p10le"), video, rgb)
    else:
        if not rgb and video.color_matrix is None:
            # Players guess an untagged matrix by the size, and the size may change here.
            stream = stream.filter("setparams", colorspace=guessed_matrix(video))
        options: dict[str, Any] = {"out_range": "tv"}
        if video.full_range and not rgb:
            options["in_range"] = "pc"
        if rgb:
            options["out_color_matrix"] = "bt709"
        if is_rgb(pixel_format):
            options = {k: v for k, v in options.items() if k == "in_range"}
        if _one_off(video, (width, height)):
            stream = stream.filter("crop", width, height, 0, 0, exact=1)
        flags = _RGB_SCALER if is_rgb(pixel_format) else _SCALER
        stream = stream.filter("scale", width, height, flags=flags, **options)
    return stream.filter("format", pixel_format).filter("setsar", 1)


def _one_off(video: VideoStream, size: Size) -> bool:
    """Whether `size` only lacks the source's odd column or row: cutting it keeps the rest sharp."""
    if video.sample_aspect_ratio != (1, 1):
        return False
    lacking = [have - want for have, want in zip(video.displayed_size, size, strict=True)]
    return lacking != [0, 0] and all(0 <= lack <= 1 for lack in lacking)


def _to_sdr(stream: Any, video: VideoStream, rgb: bool) -> Any:
    """Map HDR or wide-gamut pictures to BT.709."""
    given = {
        "tin": video.color_transfer or "bt709",
        "pin": video.color_primaries or "bt2020",
        "min": "bt2020nc" if rgb or video.color_matrix in (None, "gbr") else video.color_matrix,
        "rin": "full" if video.full_range and not rgb else "limited",
    }
    if given["tin"] in ("smpte428", "bt1361e"):  # zscale knows neither
        given["tin"] = "bt709"
    if given["min"] == "smpte2085":
        given["min"] = "bt2020nc"
    target = {"p": "bt709", "t": "bt709", "m": "bt709", "r": "limited"}
    if not video.hdr:
        return stream.filter("zscale", **given, **target)
    # Mobius leaves what is darker than half of the reference white as it is and rolls off the
    # lights up to 1,000 cd/m2; reference white becomes 90 % signal.
    stream = stream.filter("zscale", **given, t="linear", npl=REFERENCE_WHITE)
    stream = stream.filter("format", "gbrpf32le").filter("zscale", p="bt709")
    stream = stream.filter("tonemap", "mobius", param=0.5, peak=5, desat=0)
    return stream.filter("zscale", **target)


def is_rgb(pixel_format: str | None) -> bool:
    """Whether a pixel format holds red, green and blue, not luma and chroma."""
    return pixel_format is not None and pixel_format.startswith(_RGB)


def wide_gamut(video: VideoStream) -> bool:
    """Whether the colours are of BT.2020 or P3 without HDR."""
    return not video.hdr and video.color_primaries in ("bt2020", "smpte431", "smpte432")


def guessed_matrix(video: VideoStream) -> str:
    """Return the colour matrix that players assume for an untagged picture of this size."""
    if video.width >= 1280 or video.height > 576:
        return "bt709"
    return "bt470bg" if video.height == 576 else "smpte170m"


def fit_picture(
    node: Any, media: MediaInfo, capabilities: Capabilities, target: Size, fit: Fit
) -> Any:
    """Return the clean picture in a frame of exactly `target` pixels (even numbers).

    `pad` keeps all of it between black bars, `crop` fills the frame and cuts what sticks out,
    `stretch` changes its shape.
    """
    shown = require_video(media).displayed_size
    if fit == "pad":
        inner = inside(shown, target)
        stream = picture(node, media, capabilities, inner)
        if inner == target:
            return stream
        x, y = ((outer - part) // 4 * 2 for outer, part in zip(target, inner, strict=True))
        return stream.filter("pad", *target, x, y, color="black")
    if fit == "crop":
        outer = around(shown, target)
        if max(outer) > 2 * MAX_SIDE:
            raise ServiceError(
                ErrorCode.INVALID_PARAMETER,
                f"A picture of {shown[0]}x{shown[1]} can't be cropped to {target[0]}x{target[1]}: "
                "too little of it would be left.",
                "Choose a shape nearer to the source's, or fit pad. Example: --fit pad",
            )
        stream = picture(node, media, capabilities, outer)
        if outer == target:
            return stream
        x, y = ((whole - part) // 4 * 2 for whole, part in zip(outer, target, strict=True))
        return stream.filter("crop", *target, x, y)
    return picture(node, media, capabilities, target)


def inside(shown: Size, target: Size) -> Size:
    """Return the largest size in `shown`'s shape that fits into `target`, in even numbers."""
    factor = min(target[0] / shown[0], target[1] / shown[1])
    fitted = scaled(shown, factor)
    # A bar of one or two pixels is only a rounding error.
    return tuple(  # type: ignore[return-value]
        whole if abs(whole - part) <= 2 else min(whole, part)
        for whole, part in zip(target, fitted, strict=True)
    )


def around(shown: Size, target: Size) -> Size:
    """Return the smallest size in `shown`'s shape that covers `target`, in even numbers."""
    factor = max(target[0] / shown[0], target[1] / shown[1])
    fitted = scaled(shown, factor)
    return tuple(  # type: ignore[return-value]
        whole if part <= whole + 2 else part for whole, part in zip(target, fitted, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Clip:
    """A part of the film that exists: `start` and `length` in seconds, 0 the first picture."""

    start: float
    length: float
    warnings: tuple[str, ...] = ()


def clip(media: MediaInfo, start: float, length: float, *, sound: bool) -> Clip:
    """Return the part of the film that was asked for, cut at the film's end.

    The end is that of the picture, or with `sound` that of the longest stream. Raises
    `ServiceError` 422 when no picture is shown at `start` or later.
    """
    video = require_video(media)
    film = media.duration - video.start_time if media.duration is not None else None
    pictures = video.duration if video.duration is not None else film
    if pictures is None:
        return Clip(start, length)
    last = pictures - 0.999 / video.frame_rate if video.frame_rate else pictures
    if start > max(0.0, last):
        raise ServiceError(
            ErrorCode.INVALID_PARAMETER,
            f"start_time is {seconds(start)} s, but the video is only {pictures:.2f} s long.",
            f"Choose a start_time below {max(0.01, last):.2f}. Example: --start-time 0",
        )
    end = max(pictures, film or 0.0) if sound else pictures
    if start + length <= end:
        return Clip(start, length)
    short = start + length - end
    warning = (
        f"The part asked for runs past the end of the video ({end:.2f} s): "
        f"it was cut to {end - start:.2f} s."
    )
    return Clip(start, end - start, (warning,) if short > 0.1 else ())


def film_duration(media: MediaInfo, sound: Sound | None) -> float | None:
    """Return the seconds of a film of the picture and the chosen track, None when unknown."""
    video = media.video
    if video is None or video.duration is None or (sound and sound.track.duration is None):
        return media.duration
    ends = [video.start_time + video.duration]
    if sound is not None and sound.track.duration is not None:
        ends.append(sound.track.start_time + sound.track.duration)
    return max(ends)


def tolerance(media: MediaInfo) -> float:
    """Return by how many seconds a film's length may change for honest reasons."""
    rate = media.video.frame_rate if media.video is not None else None
    allowed = max(0.5, 2 / rate if rate else 0.0)
    if media.ends_early:
        allowed = max(allowed, 2.0, 0.1 * (media.duration or 0.0))
    return allowed


def picture_warnings(media: MediaInfo, capabilities: Capabilities) -> list[str]:
    """Return a sentence for each thing that `picture` changes or leaves out."""
    video = require_video(media)
    sentences = []
    converts = "zscale" in capabilities.filters and "tonemap" in capabilities.filters
    if video.hdr:
        name = "PQ" if video.color_transfer == "smpte2084" else "HLG"
        sentences.append(
            f"The HDR picture ({name}) was mapped to standard dynamic range."
            if converts
            else f"The HDR picture ({name}) looks washed out: this server's FFmpeg can't map it."
        )
    elif wide_gamut(video) and converts:
        sentences.append("The wide colour gamut was mapped to BT.709.")
    if video.interlaced:
        sentences.append("The interlaced picture was made progressive.")
    if media.other_videos:
        sentences.append(
            f"Only the first video stream was used; {counted(media.other_videos, 'other')} "
            "left out."
        )
    sentences.extend(ending_warnings(media))
    return sentences


def ending_warnings(media: MediaInfo) -> list[str]:
    """Return a sentence when the file ends before its header says."""
    if not media.ends_early:
        return []
    if media.duration is None or media.claimed_duration is None:
        return ["The source is damaged or ends early; the result holds what could be read."]
    return [
        f"The source ends early: {media.duration:.1f} of the {media.claimed_duration:.1f} "
        "seconds it claims could be read."
    ]


def upscale_warning(shown: Size, inner: Size) -> list[str]:
    """Return a sentence when a picture of `shown` pixels is enlarged to `inner`."""
    if inner[0] <= shown[0] + 2 and inner[1] <= shown[1] + 2:
        return []
    return [
        f"The picture was enlarged from {shown[0]}x{shown[1]} to {inner[0]}x{inner[1]}, "
        "which adds no detail."
    ]


def counted(number: int, noun: str) -> str:
    """Return ``1 other was`` or ``2 others were``."""
    return f"{number} {noun} was" if number == 1 else f"{number} {noun}s were"


# The sound


@dataclass(frozen=True, slots=True)
class Sound:
    """The chosen audio track and what becomes of it.

    `encoder` is ``copy`` or an encoder's name; `bit_rate` in bits per second, None when copied.
    """

    track: AudioStream
    encoder: str
    channels: int
    bit_rate: int | None = None
    sample_rate: int | None = None

    @property
    def copied(self) -> bool:
        """Whether the packets are taken over as they are."""
        return self.encoder == "copy"

    def stream(self, node: Any) -> Any:
        """Return the graph's audio stream, taken from the input `node`."""
        stream = node[str(self.track.index)]
        if self.copied:
            return stream
        # Silence where time stamps jump: encoders count samples and would run ahead of the picture.
        stream = stream.filter("aresample", **{"async": 1, "min_hard_comp": 0.04})
        return stream.filter("aformat", channel_layouts=_LAYOUTS[self.encoder])

    def options(self) -> dict[str, Any]:
        """Return the output options."""
        options: dict[str, Any] = {"c:a": self.encoder}
        if self.bit_rate is not None:
            options["b:a"] = self.bit_rate
        if self.sample_rate is not None:
            options["ar"] = self.sample_rate
        return options


def choose_sound(
    media: MediaInfo,
    container: Container,
    *,
    cut: bool = False,
    track: AudioStream | None = None,
    bit_rate: int | None = None,
) -> Sound | None:
    """Return the track that belongs into `container` and how, None for a silent film.

    `track` defaults to the one that a player would choose. It is copied when the container
    holds it and no exact `cut` or `bit_rate` (bits per second) needs it encoded.
    """
    track = track or media.main_audio()
    if track is None:
        return None
    if not cut and bit_rate is None and can_copy(track, container):
        return Sound(track, "copy", track.channels)
    if container == "mp4":
        channels = 6 if track.channels >= 5 else min(2, track.channels or 2)
        rate = 48000 if track.sample_rate > 48000 else None
        return Sound(track, "aac", channels, bit_rate or aac_rate(channels), rate)
    channels = min(8, track.channels or 2)
    return Sound(track, "libopus", channels, bit_rate or opus_rate(channels))


def can_copy(track: AudioStream, container: Container) -> bool:
    """Whether players take the track from `container` as it is."""
    if track.codec not in _COPYABLE[container] or not track.channels:
        return False
    # MPEG-2 and 2.5 layer 3 in MP4 stay silent in several players.
    return track.codec != "mp3" or track.sample_rate >= 32000


def aac_rate(channels: int) -> int:
    """Return a transparent bit rate of FFmpeg's AAC encoder, in bits per second."""
    return {1: 96_000, 2: 160_000}.get(channels, 72_000 * max(1, channels - 1))


def opus_rate(channels: int) -> int:
    """Return a transparent bit rate of Opus, in bits per second."""
    return {1: 64_000, 2: 112_000}.get(channels, 48_000 * channels)


def sound_warnings(media: MediaInfo, sound: Sound | None) -> list[str]:
    """Return a sentence for each thing that was given up of the sound."""
    sentences = []
    if sound is not None and len(media.audio) > 1:
        language = f" ({sound.track.language})" if sound.track.language else ""
        sentences.append(
            f"Audio track {track_number(media, sound.track)}{language} was kept; "
            f"{counted(len(media.audio) - 1, 'other track')} left out."
        )
    if sound is not None and not sound.copied and sound.track.channels > sound.channels:
        sentences.append(
            f"The sound was mixed down from {sound.track.channels} to {sound.channels} channels."
        )
    return sentences


def track_number(media: MediaInfo, track: AudioStream) -> int:
    """Return the number of an audio track as people count: from 1, among the audio tracks."""
    return 1 + [stream.index for stream in media.audio].index(track.index)


# Delivery


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes into the finished file besides the picture.

    `video` holds the encoder's output options. `whole` says that nothing is cut off in time, so
    that chapters hold.
    """

    file: str
    container: Container
    video: dict[str, Any]
    sound: Sound | None = None
    subtitles: Sequence[SubtitleStream] = ()
    whole: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def deliver(node: Any, media: MediaInfo, stream: Any, delivery: Delivery) -> Any:
    """Return the output node: picture, sound and subtitles into a file without private tags."""
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
    if delivery.sound is not None:
        streams.append(delivery.sound.stream(node))
        options.update(delivery.sound.options())
        if delivery.sound.track.language:
            options["metadata:s:a:0"] = f"language={delivery.sound.track.language}"
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
    """Return options that drop every tag but the harmless ones of `KEPT_TAGS`."""
    options: dict[str, Any] = {"map_metadata:g": -1, "map_metadata:s": -1}
    kept = [(name, media.tags[name]) for name in KEPT_TAGS if media.tags.get(name)]
    for number, (name, value) in enumerate(kept):
        options[f"metadata:g:{number}"] = f"{name}={value}"
    return options


def rate_options(media: MediaInfo, container: Container = "mp4") -> dict[str, Any]:
    """Return options that keep the pictures' own times.

    FFmpeg's usual time base is one picture: right for a constant rate, where it takes away the
    rounding of a container's milliseconds, but it would move the pictures of a variable rate, or
    of a slow one against the sound. WebM counts milliseconds anyway.
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
    """Return a sentence when subtitles were left out."""
    lost = len(media.subtitles) - len(kept)
    if not lost:
        return []
    pictures = sum(not stream.text for stream in media.subtitles)
    why = ", for they are pictures, not text" if pictures == lost else ""
    return [f"{counted(lost, 'subtitle track').capitalize()} left out{why}."]


def x264(crf: int = 21, **rest: Any) -> dict[str, Any]:
    """Return the options of H.264 that plays everywhere, at a constant quality `crf`."""
    return {
        "c:v": "libx264",
        "preset": "medium",
        "crf": crf,
        "profile:v": "high",
        "pix_fmt": "yuv420p",
        **rest,
    }


def encoding_memory(size: Size, *others: Size) -> int:
    """Return an estimate of the bytes an encode at `size` needs: look-ahead and decoded frames.

    `others` are the sizes of the pictures before it, such as the source's.
    """
    return (160 << 20) + 120 * size[0] * size[1] + sum(50 * w * h for w, h in others)
