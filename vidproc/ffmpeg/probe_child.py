"""Probes a media file and prints its findings as one JSON object.

`vidproc.ffmpeg.launcher` runs it as a script with the arguments PATH OPTIONS in a restricted child
process; OPTIONS is the JSON object of `vidproc.ffmpeg.probe.probe_command`. It imports nothing of
vidproc, and `main` can import nothing of the standard library that is not imported here. The status
is 0 if the file could be judged, even if it is refused (``{"error": ...}``); anything else is a
crash. The reader trusts nothing that is printed here.
"""

import itertools
import json
import math
import os
import re
import struct
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, Any

import av
import av.error

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

# By number in ISO/IEC 23091-2 (H.273), with FFmpeg's names; 2 is "unspecified".
_PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film",
    9: "bt2020", 10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
_TRANSFERS = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "linear",
    9: "log100", 10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1",
    14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
_MATRICES = {
    0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco",
    9: "bt2020nc", 10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc",
    13: "chroma-derived-c", 14: "ictcp",
}  # fmt: skip
_FULL_RANGE = 2
# The default from PyAV 19 on.
_METADATA: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)
_ATTACHED_PICTURE = 0x400 | 0x800  # attached_pic, timed_thumbnails
_DEFAULT, _FORCED = 0x1, 0x40
_ROLES = {
    0x2: "dub", 0x4: "original", 0x8: "comment", 0x80: "hearing_impaired",
    0x100: "visual_impaired", 0x10000: "captions", 0x20000: "descriptions",
}  # fmt: skip

_FRAMES_WANTED = 4
"""Frames that are decoded to detect interlacing."""
_MOST_ERRORS = 200
"""Undecodable packets after which no frame is expected."""
_TIMES_KEPT = 20_000
_TAGS_KEPT = 200
_TEXT = 300
"""Characters of a text that are kept; the reader keeps fewer."""
_MAY_RESTART = 0x200  # AVFMT_TS_DISCONT
_JUMP = 10.0
"""Seconds by which FFmpeg's command lets time stamps jump (-dts_delta_threshold)."""
_LAST_PACKETS = 32
"""Packets at the end of our own output whose frames are all decoded."""


_GENERIC_HANDLER = re.compile(
    r"handler|core ?media|iso ?media|gpac|lavf|mainconcept|produced by|aac|avc|pcm|audio|sound"
    r"|video|meta|vide|soun|apple|go ?pro|dji|ambarella|^[^A-Za-z0-9]*$",
    re.IGNORECASE,
)


class Refused(Exception):
    """The file cannot be used: a kind that the reader knows, and a text for logs."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Tally:
    """Statistics of a stream's packets, whose time stamps are in units of `base`. Times in
    seconds."""

    def __init__(self, base: Fraction | None) -> None:
        # Two integers: a Fraction would take longer than all the rest of the packets' reading.
        self.unit = None if base is None else (base.numerator, base.denominator)
        self.packets = 0
        self.bytes = 0
        self.first: float | None = None
        self.last: float | None = None
        self.end: float | None = None
        self.last_key: int | None = None
        self.since_key = 0
        self.times: list[int] = []

    def add(self, packet: Any, shift: float) -> None:
        """Count a packet whose times are to be shifted by `shift` seconds."""
        self.packets += 1
        self.since_key += 1
        self.bytes += packet.size
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or self.unit is None:
            return
        ticks, per_second = self.unit
        moment = stamp * ticks / per_second + shift
        length = (packet.duration or 0) * ticks / per_second
        if self.first is None or moment < self.first:
            self.first = moment
        if self.last is None or moment > self.last:
            self.last = moment
        if self.end is None or moment + length > self.end:
            self.end = moment + length
        if packet.is_keyframe:
            self.last_key = stamp
            self.since_key = 1
        if len(self.times) < _TIMES_KEPT:
            self.times.append(stamp + round(shift * per_second / ticks) if shift else stamp)

    def facts(self) -> dict[str, Any]:
        """Return the statistics."""
        return {
            "packets": self.packets,
            "bytes": self.bytes,
            "first": self.first,
            "last": self.last,
            "end": self.end,
        }


class Restarts:
    """Follows time stamps that jump in a container where they may, such as joined MPEG-TS files.

    FFmpeg's command removes such jumps (ts_discontinuity_detect in its ffmpeg_demux.c), so its
    results are as long as the packets are. All times are in seconds.
    """

    def __init__(self, container: Any) -> None:
        self._may = bool(int(container.format.flags) & _MAY_RESTART)
        self._last: dict[int, float] = {}
        self._next: dict[int, float] = {}
        self._latest: float | None = None
        self.shift = 0.0
        """What to add to the times of the packet that was seen last."""
        self.any = False

    def see(self, packet: Any) -> None:
        """Note the next packet of the file."""
        if not self._may or packet.dts is None or packet.stream.type not in ("video", "audio"):
            return
        index, base = packet.stream_index, packet.time_base
        moment = packet.dts * base.numerator / base.denominator + self.shift
        due = self._next.get(index)
        if due is not None:
            jumps = abs(moment - due) > _JUMP or moment + 0.1 < self._last[index]
        else:
            due = self._latest
            jumps = due is not None and abs(moment - due) > _JUMP
        if jumps and due is not None:
            self.any = True
            self.shift += due - moment
            moment = due
        length = (packet.duration or 0) * base.numerator / base.denominator
        self._last[index], self._next[index] = moment, moment + length
        self._latest = moment


def probe(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the file's properties; raises `Refused`."""
    deadline = time.monotonic() + options["seconds"]
    container = _open(path, options)
    with container:
        streams = list(container.streams)
        if len(streams) > options["max_streams"]:
            raise Refused("too_many_streams", str(len(streams)))
        videos = [s for s in streams if s.type == "video" and not _is_cover(s)]
        # A single image beside a film is not the film: an animated AVIF begins with one.
        stills = {s.index for s in videos if s.frames == 1}
        if len(stills) < len(videos):
            videos = [s for s in videos if s.index not in stills]
        else:
            stills = set()
        video = _main_video(videos)
        for stream in videos:
            if _pixels(stream) > options["max_pixels"]:
                raise Refused("too_large", f"{stream.width}x{stream.height}")
        found = {
            "container": container.format.name,
            "duration": _seconds(container.duration, av.time_base),
            "start": _seconds(container.start_time, av.time_base),
            "bit_rate": container.bit_rate,
            "chapters": len(container.chapters()),
            "tags": {
                key[:_TEXT]: text[:_TEXT]
                for key, text in itertools.islice(container.metadata.items(), _TAGS_KEPT)
            },
            "streams": [
                _stream_facts(stream) | {"still": stream.index in stills} for stream in streams
            ],
            "video": video.index if video is not None else None,
        }
        restarts = Restarts(container)
        frames, tallies, complete = _read(container, video, streams, options, deadline, restarts)
        found["complete"] = complete
        found["restarts"] = restarts.any
        for stream, facts in zip(streams, found["streams"], strict=True):
            facts.update(tallies[stream.index].facts())
        if video is not None:
            tally = tallies[video.index]
            facts = found["streams"][video.index]
            if video.index == min(s.index for s in streams if s.type == "video"):
                facts["crop"] = _container_crop(path, container.format.name)
            facts.update(_timing(tally.times, video.time_base))
            if frames:
                facts["frame"] = _frame_facts(frames)
            if not complete:
                facts["indexed_end"] = _indexed_end(video, container.size)
        if options["verify"]:
            _verify(path, options, video, frames, tallies, streams, deadline)
        return found


def _open(path: str, options: dict[str, Any]) -> Any:
    try:
        container = av.open(
            "file:" + path,
            options={
                "protocol_whitelist": "file",
                "format_whitelist": options["formats"],
                "max_streams": str(options["max_streams"]),
                "max_pixels": str(options["max_pixels"]),
                "probesize": str(options["probesize"]),
                "analyzeduration": str(options["analyzeduration"]),
                "max_probe_packets": "2500",
            },
            **_METADATA,
            timeout=(options["seconds"], options["seconds"]),
        )
    except av.error.ExitError as error:
        raise Refused("timeout", str(error)) from None
    except (av.error.FFmpegError, ValueError, MemoryError, OverflowError) as error:
        text = f"{type(error).__name__}: {getattr(error, 'strerror', error)}"
        raise Refused("unreadable", text) from None
    return container


def _is_cover(stream: Any) -> bool:
    return bool(int(stream.disposition) & _ATTACHED_PICTURE)


def _main_video(videos: list[Any]) -> Any:
    """Return the stream that a player would show: the default one, else the first."""
    marked = (s for s in videos if int(s.disposition) & _DEFAULT and s.codec_context is not None)
    return next(marked, videos[0] if videos else None)


def _pixels(stream: Any) -> int:
    try:
        return (stream.width or 0) * (stream.height or 0)
    except AttributeError:  # no decoder, so no codec context
        return 0


def _seconds(value: int | None, unit: int) -> float | None:
    return None if value is None else value / unit


def _ratio(value: Any) -> list[int] | None:
    try:
        return [value.numerator, value.denominator]
    except AttributeError:
        return None


def _stream_facts(stream: Any) -> dict[str, Any]:
    disposition = int(stream.disposition)
    base = stream.time_base
    context = stream.codec_context
    facts = {
        "index": stream.index,
        "type": stream.type,
        "codec": context.name if context is not None else None,
        "default": bool(disposition & _DEFAULT),
        "forced": bool(disposition & _FORCED),
        "roles": [name for flag, name in _ROLES.items() if disposition & flag],
        "cover": stream.type == "video" and _is_cover(stream),
        "language": stream.language,
        "title": _title(stream.metadata)[:_TEXT] or None,
        "start": float(stream.start_time * base) if stream.start_time is not None else None,
        "duration": float(stream.duration * base) if stream.duration is not None else None,
        "frames": stream.frames,
        "readable": context is not None,
    }
    if context is None:
        return facts
    if stream.type in ("video", "audio"):
        facts["codec"] = context.codec.canonical_name
        facts["bit_rate"] = context.bit_rate
    if stream.type == "video":
        facts.update(
            tag=_tag(context),
            width=context.width,
            height=context.height,
            sar=_ratio(stream.sample_aspect_ratio),
            average_rate=_ratio(stream.average_rate),
            guessed_rate=_ratio(stream.guessed_rate),
            pixel_format=context.pix_fmt,
            depth=_depth(context.format),
            primaries=_PRIMARIES.get(int(context.color_primaries)),
            transfer=_TRANSFERS.get(int(context.color_trc)),
            matrix=_MATRICES.get(int(context.colorspace)),
            full_range=int(context.color_range) == _FULL_RANGE,
            field_order=int(getattr(context, "field_order", 0) or 0),
        )
    elif stream.type == "audio":
        facts.update(
            channels=context.channels,
            layout=context.layout.name if context.layout is not None else None,
            sample_rate=context.sample_rate,
        )
    return facts


def _title(tags: Any) -> str:
    """Return a track's title. MP4 has it as its name or, where a muxer gave it one, its handler's;
    most of those only name the muxer or the device."""
    title = tags.get("title") or tags.get("name")
    if title:
        return str(title)
    handler = str(tags.get("handler_name") or "")
    return "" if _GENERIC_HANDLER.search(handler) else handler


def _tag(context: Any) -> str | None:
    try:
        return str(context.codec_tag)
    except ValueError:  # no ASCII
        return None


def _depth(pixel_format: Any) -> int | None:
    try:
        return int(max(component.bits for component in pixel_format.components))
    except (AttributeError, ValueError):
        return None


def _read(
    container: Any,
    video: Any,
    streams: list[Any],
    options: dict[str, Any],
    deadline: float,
    restarts: Restarts,
) -> tuple[list[Any], dict[int, Tally], bool]:
    """Read packets: all of a small file, otherwise as many as necessary.

    Returns the first frames, a `Tally` for each stream, and whether the end was reached.
    """
    tallies = {stream.index: Tally(stream.time_base) for stream in streams}
    frames: list[Any] = []
    whole = options["verify"] or container.size <= options["whole_bytes"]
    wanted = _FRAMES_WANTED if video is not None and video.codec_context is not None else 0
    if wanted:
        video.codec_context.options = {
            "max_pixels": str(options["max_pixels"]),
            "skip_loop_filter": "all",  # no one looks at what the frames show
        }
        video.codec_context.thread_count = 1
    seen = errors = 0
    try:
        for packet in container.demux():
            index = packet.stream_index
            flush = packet.size == 0 and packet.pts is None and packet.dts is None
            # Streams may appear late in MPEG-TS.
            if flush or index not in tallies:
                continue
            if not packet.is_discard:
                restarts.see(packet)
                tallies[index].add(packet, restarts.shift)
            seen += packet.size
            # A trimmed video may begin with packets that are not shown, the keyframe among them.
            if wanted and index == video.index:
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    decoded = []
                    errors += 1
                frames += decoded
                wanted = max(0, wanted - len(decoded)) if errors <= _MOST_ERRORS else 0
            settled = wanted == 0 and (video is None or tallies[video.index].packets > 300)
            late = time.monotonic() > deadline
            if late or (not whole and (settled or seen > options["probe_bytes"])):
                return frames, tallies, False
    except av.error.FFmpegError:
        pass  # damaged from here on: use what has been counted so far
    if wanted:
        try:
            frames.extend(video.codec_context.decode(None))
        except av.error.FFmpegError:
            pass
    return frames, tallies, True


_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "hdr10_plus",
    "DOVI_METADATA": "dolby_vision",
    "DOVI_RPU_BUFFER": "dolby_vision",
}


def _hdr_facts(frame: Any) -> dict[str, Any]:
    """Return the HDR metadata of a frame: AVMasteringDisplayMetadata as red, green, blue, white and
    luminances; AVContentLightMetadata; and which kinds of dynamic metadata there are."""
    facts: dict[str, Any] = {"dynamic": {}}
    for side_data in frame.side_data:
        kind = side_data.type.name
        if kind in _DYNAMIC:
            facts["dynamic"][_DYNAMIC[kind]] = True
        elif kind == "MASTERING_DISPLAY_METADATA":
            numbers = struct.unpack_from("22i", bytes(side_data))
            if all(numbers[20:]) and all(numbers[1:20:2]):
                facts["mastering"] = [numbers[i] / numbers[i + 1] for i in range(0, 20, 2)]
        elif kind == "CONTENT_LIGHT_LEVEL":
            facts["light"] = list(struct.unpack_from("2I", bytes(side_data)))
    return facts


def _frame_facts(frames: list[Any]) -> dict[str, Any]:
    frame = frames[0]
    try:
        hdr = _hdr_facts(frame)
    except (ValueError, struct.error):  # a kind that PyAV does not know
        hdr = {}
    try:
        rotation = int(frame.rotation)
    except (ValueError, OverflowError):
        rotation = 0
    return {
        **hdr,
        "width": frame.width,
        "height": frame.height,
        "rotation": rotation,
        "pixel_format": frame.format.name,
        "depth": _depth(frame.format),
        "primaries": _PRIMARIES.get(int(frame.color_primaries)),
        "transfer": _TRANSFERS.get(int(frame.color_trc)),
        "matrix": _MATRICES.get(int(frame.colorspace)),
        "full_range": int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj"),
        "interlaced": sum(bool(f.interlaced_frame) for f in frames) * 2 > len(frames),
    }


def _timing(stamps: list[int], base: Fraction | None) -> dict[str, float]:
    """Return the mean interval of the frames in seconds and the largest deviation from it."""
    ordered = sorted(set(stamps))
    if len(ordered) < 3 or base is None:
        return {}
    mean = (ordered[-1] - ordered[0]) / (len(ordered) - 1)
    off = max(abs(after - before - mean) for before, after in itertools.pairwise(ordered))
    return {"interval": float(mean * base), "jitter": float(off * base), "tick": float(base)}


# What PyAV does not provide: the container's cropping. Only headers are read.

_MOST_BOXES = 20_000
_VISUAL_ENTRY = 86
_SEGMENT, _TRACKS, _TRACK, _TRACK_TYPE, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0
_PIXEL_CROP = (0x54CC, 0x54BB, 0x54DD, 0x54AA)  # left, top, right, bottom


def _container_crop(path: str, demuxer: str) -> list[int] | None:
    """Return (left, top, right, bottom) in pixels, None if not specified or not understood."""
    try:
        with open(path, "rb") as file:
            if demuxer.startswith("mov,"):
                return _clean_aperture(file)
            if demuxer.startswith("matroska,"):
                return _pixel_crop(file)
    except (OSError, ValueError, LookupError, ArithmeticError, StopIteration, struct.error):
        pass
    return None


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start of the content, end) of ISO 14496-12 boxes."""
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            content += 8
        stop = start + size if size else end
        if stop < content or stop > end:
            return
        yield kind, content, stop
        start = stop


def _inside(file: IO[bytes], kind: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the start and end of the contents of the first such box; raises `ValueError`."""
    for found, content, stop in _boxes(file, start, end):
        if found == kind:
            return content, stop
    raise ValueError(kind)


def _clean_aperture(file: IO[bytes]) -> list[int] | None:
    """Read the clap box of the first video track (ISO 14496-12, 12.1.4)."""
    movie = _inside(file, b"moov", 0, file.seek(0, 2))
    for kind, *track in _boxes(file, *movie):
        if kind != b"trak":
            continue
        media = _inside(file, b"mdia", *track)
        handler, _ = _inside(file, b"hdlr", *media)
        file.seek(handler + 8)
        if file.read(4) != b"vide":
            continue
        table = _inside(file, b"stbl", *_inside(file, b"minf", *media))
        start, end = _inside(file, b"stsd", *table)
        _, entry, stop = next(_boxes(file, start + 8, end))
        file.seek(entry + 24)
        width, height = struct.unpack(">HH", file.read(4))
        clap, _ = _inside(file, b"clap", entry - 8 + _VISUAL_ENTRY, stop)
        file.seek(clap)
        n = struct.unpack(">IIIIiIiI", file.read(32))
        wide, high, across, down = (n[i] / n[i + 1] for i in (0, 2, 4, 6))
        left = round((width - wide) / 2 + across)
        top = round((height - high) / 2 + down)
        sides = [left, top, width - left - round(wide), height - top - round(high)]
        return sides if min(sides) >= 0 else None
    return None


def _elements(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (id, start of the content, end) of EBML elements (RFC 8794)."""
    for _ in range(_MOST_BOXES):
        if start >= end:
            return
        file.seek(start)
        head = file.read(12)
        length = 9 - head[0].bit_length()
        kind = int.from_bytes(head[:length], "big")
        width = 9 - head[length].bit_length()
        size = int.from_bytes(head[length : length + width], "big") & ((1 << 7 * width) - 1)
        content = start + length + width
        if content > end:
            return
        stop = end if size == (1 << 7 * width) - 1 else min(end, content + size)
        yield kind, content, stop
        start = stop


def _pixel_crop(file: IO[bytes]) -> list[int] | None:
    """Read the PixelCrop elements of the first video track (RFC 9559)."""
    for kind, *segment in _elements(file, 0, file.seek(0, 2)):
        if kind != _SEGMENT:
            continue
        for part, *content in _elements(file, *segment):
            if part != _TRACKS:
                continue  # clusters too: the tracks may come after them
            for entry, *track in _elements(file, *content):
                if entry != _TRACK:
                    continue
                fields = {found: place for found, *place in _elements(file, *track)}
                if _TRACK_TYPE in fields and _unsigned(file, fields[_TRACK_TYPE]) == 1:
                    video = dict.fromkeys(_PIXEL_CROP, 0)
                    for found, *place in _elements(file, *fields[_VIDEO]):
                        if found in video:
                            video[found] = _unsigned(file, place)
                    return [video[found] for found in _PIXEL_CROP]
            return None
    return None


def _unsigned(file: IO[bytes], place: list[int]) -> int:
    start, end = place
    file.seek(start)
    return int.from_bytes(file.read(max(0, min(8, end - start))), "big")


def _indexed_end(stream: Any, size: int) -> float | None:
    """Return the end time, in seconds, of the index entries inside the file; None without an
    index."""
    entries = stream.index_entries
    low, high = 0, len(entries)
    if high < 2 or stream.time_base is None:
        return None
    while low < high:  # the first entry beyond the end of the file
        middle = (low + high) // 2
        entry = entries[middle]
        if entry.pos + entry.size > size:
            high = middle
        else:
            low = middle + 1
    if low == 0 or low == len(entries):
        return None
    return float(entries[low].timestamp * stream.time_base)


def _verify(
    path: str,
    options: dict[str, Any],
    video: Any,
    frames: list[Any],
    tallies: dict[int, Tally],
    streams: list[Any],
    deadline: float,
) -> None:
    """Raise `Refused` unless the first and last frames and the first audio can be decoded."""
    if video is not None:
        if not frames:
            raise Refused("unsound", "no frame could be decoded")
        tally = tallies[video.index]
        last = None
        if tally.last_key is not None and tally.packets > 50:
            last = _last_frame(path, options, video.index, tally, deadline, tally.last_key)
        if last is None:
            # Short, or a demuxer that seeks by decoding time and landed after the keyframe.
            last = _last_frame(path, options, video.index, tally, deadline, None)
        if last is None or (tally.last is not None and last < tally.last - 0.1):
            raise Refused("unsound", "the last frames cannot be decoded")
    for stream in streams:
        if stream.type != "audio" or tallies[stream.index].packets == 0:
            continue
        with _open(path, options) as container:
            try:
                next(iter(container.decode(container.streams[stream.index])))
            except (av.error.FFmpegError, StopIteration) as error:
                raise Refused("unsound", f"the audio cannot be decoded: {error}") from None


def _last_frame(
    path: str, options: dict[str, Any], index: int, tally: Tally, deadline: float, key: int | None
) -> float | None:
    """Decode from the keyframe at `key`, or everything; return the time of the last frame in
    seconds.

    None if there was none, infinity if it takes too long. Raises `Refused`.
    """
    last = None
    with _open(path, options) as container:
        stream = container.streams[index]
        try:
            if key is not None:
                container.seek(key, stream=stream)
            skip = 0 if key is None else tally.since_key - _LAST_PACKETS
            for frame in _decode(container, stream, key if skip > 0 else None, skip):
                if frame.is_corrupt:
                    raise Refused("unsound", "a frame is corrupt")
                last = frame.time if frame.time is not None else last
                if time.monotonic() > deadline:
                    return math.inf
        except av.error.FFmpegError as error:
            raise Refused("unsound", f"a frame cannot be decoded: {error}") from None
    return last


def _decode(container: Any, stream: Any, key: int | None, skip: int) -> Iterator[Any]:
    """Decode to the end as cheaply as possible.

    Of the `skip` packets from the one at `key` on, frames that no other frame references are
    skipped, and no frame is deblocked. This halves the time, which every task has to wait for.
    """
    context = stream.codec_context
    context.thread_type = "FRAME"
    context.thread_count = min(4, os.cpu_count() or 1)
    context.options = {"skip_loop_filter": "all"}
    if key is not None:
        context.skip_frame = "NONREF"
    for packet in container.demux(stream):
        if packet.pts == key or skip <= 0:
            key = None
        if key is None:
            skip -= 1
        if skip < 0:
            context.skip_frame = "DEFAULT"
        yield from packet.decode()


def main() -> None:
    """Probe the file given on the command line."""
    path, options = sys.argv[1], json.loads(sys.argv[2])
    if resource is not None:
        seconds = int(options["seconds"]) * 2 + 10
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        if hard == resource.RLIM_INFINITY or hard > seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    av.logging.set_level(None)
    try:
        found = probe(path, options)
    except Refused as refusal:
        found = {"error": refusal.kind, "message": str(refusal)[:300]}
    except MemoryError:
        found = {"error": "too_large", "message": "out of memory"}
    sys.stdout.write(json.dumps(found, allow_nan=True))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
