"""The probe's findings about a file, as plain data types filled in by `vidproc.ffmpeg.probe`."""

from __future__ import annotations

from typing import Any

import msgspec

_WEBM_CODECS = frozenset({"vp8", "vp9", "av1", "vorbis", "opus", "webvtt"})


class MasteringDisplay(msgspec.Struct, kw_only=True, frozen=True):
    """The display on which an HDR film was graded (SMPTE ST 2086): chromaticities as (x, y), and
    the luminances in cd/m2."""

    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]
    white: tuple[float, float]
    least: float
    most: float


class VideoStream(msgspec.Struct, kw_only=True, frozen=True):
    """The video stream. `width` and `height` are in pixels, before rotation and SAR.

    `crop` are the pixels (left, top, right, bottom) that the decoder outputs but the container
    crops (MP4's clean aperture, Matroska's PixelCrop). `rotation` is how a player rotates the
    video, clockwise: 0, 90, 180 or 270. `dolby_vision_only` means that only Dolby Vision's own
    colours are available (profile 5). `content_light` are the light levels of the brightest pixel
    and the brightest frame (MaxCLL, MaxFALL), in cd/m2. `dynamic_metadata` names what HDR metadata
    of single frames there is: ``HDR10+``, ``Dolby Vision``. `frame_rate` is the mean in frames
    per second; between two frames are at most `longest_interval` seconds, if that is known. Times
    are in seconds, `start_time` relative to the container's start.
    """

    index: int
    codec: str
    width: int
    height: int
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    sample_aspect_ratio: tuple[int, int] = (1, 1)
    rotation: int = 0
    frame_rate: float | None = None
    constant_rate: bool | None = None
    longest_interval: float | None = None
    pixel_format: str | None = None
    bit_depth: int = 8
    color_primaries: str | None = None
    color_transfer: str | None = None
    color_matrix: str | None = None
    full_range: bool = False
    mastering_display: MasteringDisplay | None = None
    content_light: tuple[int, int] | None = None
    dynamic_metadata: tuple[str, ...] = ()
    dolby_vision_only: bool = False
    interlaced: bool = False
    frames: int | None = None
    duration: float | None = None
    start_time: float = 0.0
    bit_rate: int | None = None
    language: str | None = None

    @property
    def displayed_size(self) -> tuple[int, int]:
        """(width, height) in square pixels as a player shows it, after SAR and rotation."""
        num, den = self.sample_aspect_ratio
        width, height = max(1, round(self.width * num / den)), self.height
        return (height, width) if self.rotation in (90, 270) else (width, height)

    @property
    def displayed_crop(self) -> tuple[int, int, int, int]:
        """`crop` of the upright video."""
        left, top, right, bottom = self.crop
        for _ in range(self.rotation // 90):
            left, top, right, bottom = bottom, left, top, right
        return left, top, right, bottom

    @property
    def hdr(self) -> bool:
        """Whether the transfer function is PQ or HLG."""
        return self.color_transfer in ("smpte2084", "arib-std-b67")


class AudioStream(msgspec.Struct, kw_only=True, frozen=True):
    """One audio track. `bit_rate` in bits per second; times in seconds as in `VideoStream`.

    `roles` are what it is for, in FFmpeg's words: ``comment``, ``visual_impaired``...
    """

    index: int
    codec: str
    channels: int
    layout: str | None = None
    sample_rate: int = 0
    bit_rate: int | None = None
    language: str | None = None
    title: str | None = None
    default: bool = False
    roles: tuple[str, ...] = ()
    duration: float | None = None
    start_time: float = 0.0


class SubtitleStream(msgspec.Struct, kw_only=True, frozen=True):
    """One subtitle track; `text` is false for image-based ones (DVD, Blu-ray, DVB).

    `roles` as in `AudioStream`.
    """

    index: int
    codec: str
    text: bool
    language: str | None = None
    title: str | None = None
    default: bool = False
    forced: bool = False
    roles: tuple[str, ...] = ()


class Cover(msgspec.Struct, kw_only=True, frozen=True):
    """Cover art."""

    index: int
    codec: str
    width: int
    height: int


UNTIMED = frozenset(
    {"h264", "hevc", "vvc", "m4v", "mpegvideo", "obu", "h263", "h261", "vc1", "mjpeg", "dirac"}
    | {"cavsvideo"}
)
"""Demuxers of bare video streams, whose packets have no time stamps; FFmpeg cannot seek in them."""


class MediaInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The properties of a file. `duration` and `start_time` in seconds, `size` in bytes.

    `video` is the chosen video stream, the default one or else the first; neither cover art nor
    a single image beside a film is one. `data_streams` counts time
    codes, motion metadata, attachments and the like. `duration` is the length of the packets, if
    known; `claimed_duration` is what the header says; `ends_early` means that the packets are
    clearly shorter; `measured` means that all packets were read and their times show the length
    (times in MPEG streams may restart in the middle); `restarts` means that they do, as in files
    that were joined, so that FFmpeg cannot seek. `unreadable_video` means that there is a
    video stream but none of its frames could be decoded (`video` is None then).
    """

    container: str
    size: int
    duration: float | None = None
    claimed_duration: float | None = None
    ends_early: bool = False
    measured: bool = False
    restarts: bool = False
    start_time: float = 0.0
    bit_rate: int | None = None
    video: VideoStream | None = None
    unreadable_video: bool = False
    other_videos: int = 0
    audio: tuple[AudioStream, ...] = ()
    subtitles: tuple[SubtitleStream, ...] = ()
    covers: tuple[Cover, ...] = ()
    data_streams: int = 0
    chapters: int = 0
    tags: dict[str, str] = {}

    def main_audio(self) -> AudioStream | None:
        """Return the track that a player would choose: the default one, else the first."""
        for stream in self.audio:
            if stream.default:
                return stream
        return self.audio[0] if self.audio else None

    @property
    def container_name(self) -> str:
        """The container in one word; `container` lists everything that its demuxer reads."""
        names = self.container.split(",")
        if "webm" in names:
            streams = [self.video, *self.audio, *self.subtitles]
            codecs = {stream.codec for stream in streams if stream is not None}
            return "webm" if codecs <= _WEBM_CODECS else "matroska"
        if "mp4" in names:
            # MP4 does not support ProRes; all other codecs in MOV files are possible in MP4 as
            # well.
            return "mov" if self.video is not None and self.video.codec == "prores" else "mp4"
        return names[0]

    def summary(self) -> dict[str, Any]:
        """Return the properties that clients see: container, codecs, size, frame size and
        duration."""
        fields: dict[str, Any] = {"container": self.container_name, "bytes": self.size}
        if self.duration is not None:
            fields["duration"] = round(self.duration, 3)
        if self.video is not None:
            fields["video_codec"] = self.video.codec
            fields["width"], fields["height"] = self.video.displayed_size
            if self.video.hdr:
                fields["hdr"] = "pq" if self.video.color_transfer == "smpte2084" else "hlg"
            if self.video.frame_rate is not None:
                fields["frame_rate"] = round(self.video.frame_rate, 3)
        audio = self.main_audio()
        if audio is not None:
            fields["audio_codec"] = audio.codec
            fields["audio_channels"] = audio.channels
        return fields
