"""Probing files: the command, and reading its answer.

`vidproc.ffmpeg.probe_child` does the probing in a restricted process, because it runs demuxers and
decoders on untrusted bytes. `parse_probe` trusts nothing that it returns.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from vidproc.errors import ErrorCode, ServiceError
from vidproc.ffmpeg import probe_values as values
from vidproc.ffmpeg.command import SOURCE, Command, input_file
from vidproc.ffmpeg.media import (
    UNTIMED,
    AudioStream,
    Cover,
    MediaInfo,
    SubtitleStream,
    VideoStream,
)
from vidproc.units import format_size
from vidproc.untrusted_json import decode_json

PROBE_CHILD = str(Path(__file__).with_name("probe_child.py"))
"""The script that a Command with ``program="probe"`` runs."""
PROBE_PACKAGE = "av"
"""The package that the script imports besides the standard library."""

FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,asf_o,ogg,mxf,dv,rm,wtv,gxf,nut,nsv,"
    "ivf,m4v,h264,hevc,vvc,av1,obu,h263,h261,vc1,vc1test,mjpeg,dirac,cavsvideo,yuv4mpegpipe,swf,"
    "ty,pva,gif,apng,webp_anim,"
    "wav,w64,mp3,flac,aac,ac3,eac3,ac4,amr,amrnb,amrwb,caf,aiff,au,ape,wv,tta,tak,dts,dtshd,"
    "truehd,mlp,mpc,mpc8,oma,dsf,loas,voc"
)
"""Demuxers for files from clients. None of them opens a second file or an address: no playlists
(hls, dash, concat), no image sequences, no subtitle or text formats, no devices."""

MAX_PIXELS = 8192 * 8192
"""The most pixels of an accepted frame."""
MAX_STREAMS = 64
"""The most streams of an accepted file."""
PROBE_SIZE = 20_000_000
"""Bytes that FFmpeg may read to find the streams."""
ANALYZE_DURATION = 20_000_000
"""Microseconds of the video that FFmpeg may read to find the streams."""
_WHOLE_BYTES = 256 << 20
"""Smaller files are read to the end: finding the true length takes milliseconds."""
_PROBE_BYTES = 64 << 20
_CAPTURE = 256 << 10
"""The longest answer in bytes; 64 streams with long titles take about 100 kB. Decoding it
blocks the server, from whichever thread: 10 ms at worst."""
_MOST_OBJECTS = 4096
"""The most objects and lists of an answer; 64 streams have about 400."""

_TEXT_SUBTITLES = frozenset(
    """subrip srt ass ssa webvtt mov_text text microdvd subviewer subviewer1 sami realtext jacosub
    mpl2 stl vplayer pjs ttml""".split()  # noqa: SIM905 - a list of names reads better
)
_DOLBY_VISION = frozenset({"dvh1", "dvhe", "dva1", "dvav", "dav1"})


_DYNAMIC = {"hdr10_plus": "HDR10+", "dolby_vision": "Dolby Vision"}


class ProbeError(Exception):
    """The probe's answer is invalid: a bug, or a crash on a hostile file."""


def probe_command(name: str = SOURCE, verify: bool = False) -> Command:
    """Return the command that probes the file `name`.

    With `verify` it is one of our own outputs: it is read to the end, and its first and last frames
    and its audio must decode, otherwise `parse_probe` raises `ProbeError`.
    """
    options = {
        "formats": FORMATS,
        "max_pixels": MAX_PIXELS,
        "max_streams": MAX_STREAMS,
        "probesize": PROBE_SIZE,
        "analyzeduration": ANALYZE_DURATION,
        "whole_bytes": _WHOLE_BYTES,
        "probe_bytes": _PROBE_BYTES,
        "seconds": 120 if verify else 20,
        "verify": verify,
    }
    return Command(
        program="probe",
        arguments=(input_file(name), msgspec.json.encode(options).decode()),
        stage="verifying" if verify else "probing",
        weight=0.0,
        cpus=1.0,
        memory=512 << 20,
        capture=_CAPTURE,
        near=True,
    )


def parse_probe(stdout: bytes, size: int) -> MediaInfo:
    """Return the probe's findings about a file of `size` bytes.

    Raises `ServiceError` 415 if the file is not a video or too damaged, 413 if it is beyond our
    limits, and `ProbeError` if the answer makes no sense or our own output is broken.
    """
    if stdout.count(b"[") + stdout.count(b"{") > _MOST_OBJECTS:
        raise ProbeError("the probe's answer is too large")  # decoding it would take long
    try:
        found = decode_json(stdout)
    except msgspec.DecodeError as error:
        raise ProbeError(f"the probe's answer is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ProbeError("the probe's answer is not an object")
    if "error" in found:
        raise _refusal(str(found["error"]), values.clean_text(found.get("message")) or "", size)
    try:
        return _media(found, size)
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
        raise ProbeError(f"the probe's answer makes no sense: {error!r}") from None


def _refusal(kind: str, message: str, size: int) -> Exception:
    if kind == "too_large":
        return ServiceError(
            ErrorCode.TOO_LARGE,
            "The video frame is larger than this server accepts"
            + (f" ({message})." if re.fullmatch(r"\d+x\d+", message) else "."),
            f"Send a video of at most {MAX_PIXELS // 1_000_000} megapixels. Example: 3840x2160",
        )
    if kind == "too_many_streams":
        return ServiceError(
            ErrorCode.TOO_LARGE,
            f"The file has more than {MAX_STREAMS} streams.",
            "Send a file with only the video and audio tracks that you need.",
        )
    if kind == "unsound":
        return ProbeError(f"the output is broken: {message}")
    if kind == "timeout":
        return ServiceError(
            ErrorCode.UNSUPPORTED_MEDIA,
            "The file is too damaged or too unusual to be probed in reasonable time.",
            "Check that it plays on your machine; if so, save it as MP4 or MKV and send that.",
        )
    if kind == "unreadable":
        return not_a_video(size)
    return ProbeError(f"the probe refused: {kind[:40]}")


def not_a_video(size: int) -> ServiceError:
    """Return the error for a file that no demuxer recognises."""
    what = "is empty" if size == 0 else f"({format_size(size)}) is not a video, or is damaged"
    return ServiceError(
        ErrorCode.UNSUPPORTED_MEDIA,
        f"The file {what}: no known video or audio format was found.",
        "Check that it plays on your machine and was copied completely, then send it again. "
        "Example: MP4, MOV, MKV, WebM, AVI or MPEG-TS",
    )


# Reading the answer


def _media(found: dict[str, Any], size: int) -> MediaInfo:
    streams = [stream for stream in found["streams"][:MAX_STREAMS] if isinstance(stream, dict)]
    origin = _origin(found, streams)
    main = found.get("video")
    video = next((s for s in streams if s.get("index") == main and main is not None), None)
    videos = [
        s for s in streams if s["type"] == "video" and not s.get("cover") and not s.get("still")
    ]
    covers = [s for s in streams if s["type"] == "video" and s.get("cover")]
    audios = [s for s in streams if s["type"] == "audio" and _playable_audio(s)]
    complete = found.get("complete") is True
    readable = video is not None and isinstance(video.get("frame"), dict)
    if not audios and not readable:
        raise not_a_video(size) if video is None and not covers else _nothing_playable(video)
    claimed = values.duration(found.get("duration"))
    container = values.clean_name(found["container"]) or "unknown"
    if claimed is not None and container.startswith("matroska") and 0 < origin < claimed:
        claimed -= origin  # FFmpeg writes when the last packet ends, wherever the first begins
    real, ends_early = _real_duration(
        [*videos, *audios], origin, claimed, complete, video if readable else None
    )
    restarts = found.get("restarts") is True
    if container in UNTIMED or restarts:
        ends_early = False  # nothing says when it ends
    duration = claimed
    wrong = restarts or ends_early or claimed is None or abs((real or claimed) - claimed) > 0.25
    if real is not None and wrong:
        duration = real
    return MediaInfo(
        container=container,
        size=size,
        duration=duration,
        claimed_duration=claimed,
        ends_early=ends_early,
        measured=complete and real is not None and not (restarts or _may_start_again(container)),
        restarts=restarts,
        start_time=origin,
        bit_rate=values.bit_rate(found.get("bit_rate")),
        video=_video(video, origin, complete) if readable and video is not None else None,
        unreadable_video=video is not None and not readable,
        other_videos=max(0, len(videos) - 1),
        audio=tuple(_audio(s, origin, complete) for s in audios),
        subtitles=tuple(_subtitle(s) for s in streams if s["type"] == "subtitle"),
        covers=tuple(cover for s in covers if (cover := _cover(s)) is not None),
        data_streams=sum(s["type"] not in ("video", "audio", "subtitle") for s in streams),
        chapters=int(values.number(found.get("chapters"), 0, 1e6) or 0),
        tags=values.clean_tags(found.get("tags")),
    )


def _origin(found: dict[str, Any], streams: list[dict[str, Any]]) -> float:
    """Return when the container starts, in seconds of its own time stamps."""
    origin = values.number(found.get("start"), -1e6, 1e9)
    if origin is not None:
        return origin
    starts = [values.number(stream.get("first"), -1e6, 1e9) for stream in streams]
    return min((start for start in starts if start is not None), default=0.0)


def _nothing_playable(video: dict[str, Any] | None) -> ServiceError:
    return ServiceError(
        ErrorCode.UNSUPPORTED_MEDIA,
        "The file is too damaged: no video or audio could be decoded."
        if video is not None
        else "The file has no video and no audio.",
        "Check that it plays on your machine and was copied completely, then send it again.",
    )


def _subtitle(found: dict[str, Any]) -> SubtitleStream:
    return SubtitleStream(
        index=values.stream_index(found),
        codec=values.clean_name(found.get("codec")) or "unknown",
        text=found.get("codec") in _TEXT_SUBTITLES,
        language=values.clean_language(found.get("language")),
        default=found.get("default") is True,
        forced=found.get("forced") is True,
        title=values.clean_text(found.get("title")),
        roles=values.roles(found.get("roles")),
    )


def _cover(found: dict[str, Any]) -> Cover | None:
    """Return the cover art that a stream holds, None if its dimensions make no sense."""
    width, height = values.side(found.get("width")), values.side(found.get("height"))
    if not width or not height:
        return None
    codec = values.clean_name(found.get("codec")) or "unknown"
    return Cover(index=values.stream_index(found), codec=codec, width=width, height=height)


def _may_start_again(container: str) -> bool:
    """Return whether time stamps may jump in such a container; FFmpeg corrects that."""
    return container.split(",")[0] in ("mpegts", "mpeg")


def _real_duration(
    streams: list[dict[str, Any]],
    origin: float,
    claimed: float | None,
    complete: bool,
    video: dict[str, Any] | None,
) -> tuple[float | None, bool]:
    """Return the total length of the packets in seconds, None if unknown, and whether they end
    early."""
    if complete:
        ends = [_end(stream) for stream in streams]
        known = [end - origin for end in ends if end is not None]
        real = values.duration(max(known)) if known else None
    else:
        indexed = values.number(video.get("indexed_end"), 0, 1e9) if video is not None else None
        real = values.duration(indexed - origin) if indexed is not None else None
        return real, real is not None
    if real is None or claimed is None:
        return real, claimed is None and known == []
    return real, real < claimed - max(0.5, 0.02 * claimed)


def _end(stream: dict[str, Any]) -> float | None:
    """Return when a stream's last packet ends; ignores a last frame that claims to last for
    days."""
    last = values.number(stream.get("last"), -1e6, 1e9)
    end = values.number(stream.get("end"), -1e6, 1e12)
    if last is None or end is None:
        return None
    interval = values.number(stream.get("interval"), 0.0, 1e6) or 0.04
    if end == last:
        return last + interval if stream["type"] == "video" else last
    return end if end - last <= 86400 else last + interval


def _video(found: dict[str, Any], origin: float, complete: bool) -> VideoStream:
    frame = found["frame"]
    width = values.side(frame.get("width")) or values.side(found.get("width"))
    height = values.side(frame.get("height")) or values.side(found.get("height"))
    if width is None or height is None or width * height > MAX_PIXELS:
        raise _refusal("too_large", "", 0)
    first = values.number(found.get("first"), -1e6, 1e9)
    start = values.number(found.get("start"), -1e6, 1e9)
    start = start if start is not None else first
    end = _end(found) if complete else None
    duration = values.duration(found.get("duration"))
    if end is not None and start is not None and end > start:
        duration = values.duration(end - start)
    packets = int(values.number(found.get("packets"), 0, 1e12) or 0)
    frames = packets if complete else int(values.number(found.get("frames"), 0, 1e12) or 0)
    rate, constant = _frame_rate(found)
    bit_rate = values.bit_rate(found.get("bit_rate"))
    if complete and duration:
        bit_rate = (
            values.bit_rate(8 * (values.number(found.get("bytes"), 0, 1e15) or 0) / duration)
            or bit_rate
        )
    crop = _crop(found.get("crop"), width, height)
    return VideoStream(
        index=values.stream_index(found),
        codec=values.clean_name(found.get("codec")) or "unknown",
        width=width - crop[0] - crop[2],
        height=height - crop[1] - crop[3],
        crop=crop,
        sample_aspect_ratio=values.sample_aspect_ratio(found.get("sar")),
        rotation=values.rotation(frame.get("rotation")),
        frame_rate=rate,
        constant_rate=constant,
        longest_interval=_longest_interval(found),
        pixel_format=values.clean_name(frame.get("pixel_format") or found.get("pixel_format")),
        bit_depth=int(values.number(frame.get("depth") or found.get("depth"), 1, 32) or 8),
        color_primaries=_tag(frame, found, "primaries"),
        color_transfer=_tag(frame, found, "transfer"),
        color_matrix=_tag(frame, found, "matrix"),
        full_range=frame.get("full_range") is True or found.get("full_range") is True,
        mastering_display=values.mastering_display(frame.get("mastering")),
        content_light=values.content_light(frame.get("light")),
        dynamic_metadata=tuple(
            name for key, name in _DYNAMIC.items() if frame.get("dynamic", {}).get(key) is True
        ),
        dolby_vision_only=_is_dolby_vision_only(found, frame),
        interlaced=frame.get("interlaced") is True,
        frames=frames or None,
        duration=duration,
        start_time=max(0.0, start - origin) if start is not None else 0.0,
        bit_rate=bit_rate,
        language=values.clean_language(found.get("language")),
    )


def _is_dolby_vision_only(found: dict[str, Any], frame: dict[str, Any]) -> bool:
    """Return whether the base layer has Dolby Vision's own colours (profile 5): it says nothing of
    them, or that they are ICtCp, or full range, which no compatible one is."""
    if found.get("tag") not in _DOLBY_VISION and not frame.get("dynamic", {}).get("dolby_vision"):
        return False
    alien = frame.get("full_range") is True or _tag(frame, found, "matrix") == "ictcp"
    return alien or _tag(frame, found, "transfer") is None


def _crop(value: object, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the container's cropping, unless it would leave almost nothing."""
    if not isinstance(value, list) or len(value) != 4:
        return 0, 0, 0, 0
    left, top, right, bottom = (int(values.number(side, 0, values.MAX_SIDE) or 0) for side in value)
    if left + right > width - 16 or top + bottom > height - 16:
        return 0, 0, 0, 0
    return left, top, right, bottom


def _audio(found: dict[str, Any], origin: float, complete: bool) -> AudioStream:
    start = values.number(found.get("start"), -1e6, 1e9)
    end = _end(found) if complete else None
    duration = values.duration(found.get("duration"))
    if end is not None and start is not None and end > start:
        duration = values.duration(end - start)
    return AudioStream(
        index=values.stream_index(found),
        codec=values.clean_name(found.get("codec")) or "unknown",
        channels=int(values.number(found.get("channels"), 0, 255) or 0),
        layout=values.clean_text(found.get("layout"), 40),
        sample_rate=int(values.number(found.get("sample_rate"), 0, 10_000_000) or 0),
        bit_rate=values.bit_rate(found.get("bit_rate")),
        language=values.clean_language(found.get("language")),
        title=values.clean_text(found.get("title")),
        default=found.get("default") is True,
        roles=values.roles(found.get("roles")),
        duration=duration,
        start_time=max(0.0, start - origin) if start is not None else 0.0,
    )


def _playable_audio(found: dict[str, Any]) -> bool:
    """Whether there is a decoder, and more than a header."""
    return (
        found.get("readable") is True
        and bool(values.number(found.get("channels"), 1, 255))
        and bool(values.number(found.get("sample_rate"), 1, 10_000_000))
    )


def _frame_rate(found: dict[str, Any]) -> tuple[float | None, bool | None]:
    """Return the mean frame rate, and whether it is constant."""
    guessed = values.frame_rate(found.get("guessed_rate"))
    average = values.frame_rate(found.get("average_rate"))
    interval = values.number(found.get("interval"), 0.001, 1e6)
    if interval is None:
        return average or guessed, None
    jitter = values.number(found.get("jitter"), 0, 1e9)
    tick = values.number(found.get("tick"), 0, 10) or 0.0
    mean = values.number(1 / interval, 0.000001, 1000)
    if jitter is None or mean is None:
        return mean, None
    # Time stamps are whole ticks, so a constant rate deviates by less than one.
    constant = jitter <= 1.01 * tick + 0.0001 and tick < interval
    if constant and guessed is not None and abs(guessed / mean - 1) < 0.002:
        return guessed, True
    return mean, constant and guessed is not None and abs(guessed / mean - 1) < 0.01


def _longest_interval(found: dict[str, Any]) -> float | None:
    """Return how many seconds are at most between two frames, None if that is unknown."""
    interval = values.number(found.get("interval"), 0, 1e6)
    jitter = values.number(found.get("jitter"), 0, 1e9)
    return None if interval is None or jitter is None else interval + jitter


def _tag(frame: dict[str, Any], found: dict[str, Any], key: str) -> str | None:
    return values.clean_name(frame.get(key) or found.get(key))
