"""Reads a video's packets and prints, as one JSON object, where it can be cut.

`vidproc.ffmpeg.launcher` runs it as a script with the arguments PATH... OPTIONS in a restricted
child process; OPTIONS is the JSON object of `vidproc.ffmpeg.survey`. It imports nothing of vidproc,
and `main` can import nothing of the standard library that is not imported here. Nothing is decoded.
The status is 0 if the file could be read, even if it cannot be cut (``{"error": ...}``).
"""

import bisect
import hashlib
import itertools
import json
import os
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import av.stream

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_MOST_PACKETS = 5_000_000
_MOST_RANGES = 64
"""Byte ranges of one segment; with more, gaps between them are filled."""
_BLOCK = 4096
_SMALL_GAP = 64 << 10
_HEAD = 64 << 10
"""Bytes after those that were read to open the file that another FFmpeg may read as well."""
_AFTER = 24
"""Packets after a segment that FFmpeg may read: its demuxer, decoder and filters have queues."""
_NEEDED_AFTER = 6
"""Packets after a segment, besides those that reordering takes, until a frame after the last one
comes out: the decoder has a few threads, and a deinterlacer waits for one more."""
_PAST_KEY = 0.15
"""Seconds by which a seek aims past its keyframe: FFmpeg may aim 3/23 s earlier than it is told
(its answer to containers that index decoding times)."""
_EARLIER = 3 / 23 + 0.005
_BACK = 0.5
"""Seconds by which a seek that lands too late is moved back."""
_MOST_DETOUR = 4
"""How often the length of the video may be decoded in vain, for lack of keyframes: decoding takes
about a tenth of an encode's time."""
_WHOLE = 0.8
"""The part of a file from which all of it is as good."""
_MOST_BOXES = 20_000


class Refused(Exception):
    """The video cannot be cut. The text is for logs."""


class Packets:
    """A video stream's packets in the order of the file. Times are in ticks of `base` from the
    container's start; `shown` are those of the frames, rising."""

    def __init__(self, base: Fraction) -> None:
        self.base = base
        self.pts = array("q")
        self.dts = array("q")
        self.position = array("q")
        self.size = array("q")
        self.keys: list[int] = []
        self.shown: list[int] = []

    def seconds(self, ticks: int) -> float:
        """Return ticks in seconds."""
        return float(ticks * self.base)

    def ticks(self, seconds: float) -> int:
        """Return seconds in ticks, rounded down."""
        return int(seconds / self.base // 1)


class Watched:
    """A file that notes which bytes are read."""

    def __init__(self, path: str) -> None:
        self.name = path
        self.read_ranges: list[tuple[int, int]] = []
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - as long as the process

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        start = self._file.tell()
        data = self._file.read(size)
        self.read_ranges.append((start, start + len(data)))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as files do."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def taken(self) -> list[tuple[int, int]]:
        """Return what was read since the last call."""
        found, self.read_ranges = self.read_ranges, []
        return found


def survey(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return where the video can be cut; raises `Refused`."""
    deadline = time.monotonic() + options["seconds"]
    with _open("file:" + path, options) as container:
        stream = _only(container, options["index"])
        packets = _read(container, stream, deadline)
    tick = Fraction(*options["tick"])
    edges = _edges(packets, options)
    windows = [
        *itertools.pairwise([*edges, None]),
        *(tuple(_nearest(packets, side) for side in window) for window in options["windows"]),
    ]
    entries = Entries(path, options, packets)
    if entries.detour(edges) > _MOST_DETOUR * (packets.shown[-1] - packets.shown[0]):
        raise Refused("too few keyframes")
    return {
        "windows": [_window(packets, first, end, tick, options, entries) for first, end in windows]
    }


def _open(source: Any, options: dict[str, Any]) -> Any:
    try:
        return av.open(
            source,
            options={
                "protocol_whitelist": "file",
                "format_whitelist": options["formats"],
                "max_streams": str(options["max_streams"]),
                "max_pixels": str(options["max_pixels"]),
                "probesize": str(options["probesize"]),
                "analyzeduration": str(options["analyzeduration"]),
                "max_probe_packets": "2500",
            },
        )
    except (av.error.FFmpegError, ValueError, MemoryError, OverflowError) as error:
        raise Refused(f"it cannot be opened: {type(error).__name__}") from None


def _only(container: Any, index: int) -> Any:
    """Return the stream `index`; the packets of all others are skipped."""
    if index >= len(container.streams):
        raise Refused("no such stream")
    for stream in container.streams:
        if stream.index != index:
            stream.discard = av.stream.Discard.all
    return container.streams[index]


def _origin(container: Any, base: Fraction) -> int:
    """Return the container's start in ticks, rounded as FFmpeg does when it subtracts it."""
    microseconds = container.start_time or 0
    return int((Fraction(microseconds, av.time_base) / base + Fraction(1, 2)) // 1)


def _read(container: Any, stream: Any, deadline: float) -> Packets:
    packets = Packets(stream.time_base)
    origin = _origin(container, packets.base)
    clean = _key_test(stream)
    shown = set()
    try:
        for packet in container.demux(stream):
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                continue
            if packet.pts is None or packet.pos is None or packet.pos < 0:
                raise Refused("a packet without a time or a place")
            if packet.is_keyframe and (clean is None or clean(bytes(packet))):
                packets.keys.append(len(packets.pts))
            packets.pts.append(packet.pts - origin)
            packets.dts.append((packet.pts if packet.dts is None else packet.dts) - origin)
            packets.position.append(packet.pos)
            packets.size.append(packet.size)
            if not packet.is_discard:
                shown.add(packet.pts - origin)
            if len(packets.pts) > _MOST_PACKETS:
                raise Refused("too many packets")
            if len(packets.pts) % 1000 == 0 and time.monotonic() > deadline:
                raise Refused("it takes too long")
    except av.error.FFmpegError as error:
        raise Refused(f"it is damaged: {type(error).__name__}") from None
    packets.shown = sorted(shown)
    if not packets.shown or not packets.keys:
        raise Refused("no frames")
    return packets


# With periodic intra refresh, frames that count as keyframes begin a refresh: a decoder that begins
# there shows damaged frames until it is over. The recovery point SEI says so (ITU-T H.264, D.1.8;
# H.265, D.2.8).

_SEI_UNITS = {"h264": (6,), "hevc": (39,)}
_RECOVERY_POINT = 6
_MOST_UNITS = 64


def _key_test(stream: Any) -> Callable[[bytes], bool] | None:
    """Return a function that tells whether a keyframe's data begin a clean frame; None if they
    always do."""
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else None
    if codec not in _SEI_UNITS:
        return None
    headers = context.extradata or b""
    width = 0  # start codes
    if headers[:1] == b"\x01" and len(headers) > (21 if codec == "hevc" else 4):
        width = (headers[21 if codec == "hevc" else 4] & 3) + 1

    def clean(data: bytes) -> bool:
        units = _sized_units(data, width) if width else data.split(b"\0\0\1")[1:]
        for unit in itertools.islice(units, _MOST_UNITS):
            if not unit:
                continue
            kind = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
            if kind in _SEI_UNITS[codec] and _refreshes(unit[1 if codec == "h264" else 2 :]):
                return False
        return True

    return clean


def _sized_units(data: bytes, width: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet that are preceded by their sizes."""
    place = 0
    while place + width <= len(data):
        size = int.from_bytes(data[place : place + width], "big")
        place += width
        yield data[place : place + size]
        place += size


def _refreshes(sei: bytes) -> bool:
    """Return whether an SEI has a recovery point that lies after its own frame."""
    sei = sei[:4096].replace(b"\0\0\3", b"\0\0")
    place = 0
    while place + 2 < len(sei):
        values = []
        for _ in range(2):  # type and size
            value = 0
            while place < len(sei) and sei[place] == 255:
                value += 255
                place += 1
            if place == len(sei):
                return False
            values.append(value + sei[place])
            place += 1
        kind, size = values
        if kind == _RECOVERY_POINT:
            return place < len(sei) and sei[place] < 128  # an Exp-Golomb code of 0 is a single 1
        place += size
    return False


# Where to cut


def _edges(packets: Packets, options: dict[str, Any]) -> list[int]:
    """Return the time of each segment's first frame, in ticks."""
    first = bisect.bisect_left(packets.shown, packets.ticks(options["start"] - 1e-6))
    if first == len(packets.shown):
        raise Refused("no frames in this part")
    edges = [packets.shown[first]]
    keys = sorted(packets.pts[index] for index in packets.keys)
    least = options["least"] / packets.base
    for cut, snap in zip(options["cuts"], options["snap"], strict=True):
        earliest = edges[-1] + max(least, 1)
        at = _nearest_key(keys, cut, snap, packets.base)
        for edge in (at, _nearest(packets, cut)):
            if edge is not None and edge >= earliest:
                edges.append(edge)
                break
    return edges


def _nearest(packets: Packets, seconds: float | None) -> int | None:
    """Return the time of the first frame at `seconds` or later."""
    if seconds is None:
        return None
    place = bisect.bisect_left(packets.shown, Fraction(seconds) / packets.base)
    return packets.shown[place] if place < len(packets.shown) else None


def _nearest_key(keys: list[int], cut: float, snap: float, base: Fraction) -> int | None:
    """Return the keyframe nearest to `cut`, at most `snap` seconds away, or None."""
    ticks = Fraction(cut) / base
    place = bisect.bisect_left(keys, ticks)
    near = [key for key in keys[max(0, place - 1) : place + 1] if abs(key - ticks) * base <= snap]
    return min(near, key=lambda key: abs(key - ticks), default=None)


def _between(packets: Packets, edge: int | None) -> float | None:
    """Return the moment halfway between the frame at `edge` and the one before it, in seconds."""
    if edge is None:
        return None
    place = bisect.bisect_left(packets.shown, edge)
    if place == 0:
        return packets.seconds(edge)
    return float((packets.shown[place - 1] + edge) * packets.base / 2)


def _window(
    packets: Packets,
    first: int | None,
    end: int | None,
    tick: Fraction,
    options: dict[str, Any],
    entries: "Entries",
) -> dict[str, Any] | None:
    """Return what is known of the segment from the frame at `first` to before that at `end`."""
    if first is None or (end is not None and end <= first):
        return None
    start = bisect.bisect_left(packets.shown, first)
    stop = len(packets.shown)
    if end is not None:
        stop = bisect.bisect_left(packets.shown, end)
    elif options["end"] is not None:
        stop = bisect.bisect_left(packets.shown, Fraction(options["end"]) / packets.base)
    if stop <= start:
        raise Refused("a segment without frames")
    last = packets.shown[stop - 1]
    at, ranges = entries.to(first, last, options["lead"])
    return {
        "start": _between(packets, first),
        "end": _between(packets, end),
        "at": at,
        "frames": stop - start,
        "first": _rounded(first * packets.base / tick),
        "last": _rounded(last * packets.base / tick),
        "ranges": ranges,
    }


def _rounded(value: Fraction) -> int:
    return int((value + Fraction(1, 2)) // 1)


# Which bytes that takes


class Entries:
    """Finds where FFmpeg begins to read for a segment, by letting it seek there."""

    def __init__(self, path: str, options: dict[str, Any], packets: Packets) -> None:
        self._packets = packets
        self._file = Watched(path)
        self._size = self._file.seek(0, 2)
        self._file.seek(0)
        self._container = _open(self._file, options)
        self._stream = _only(self._container, options["index"])
        self._start = self._container.start_time or 0
        self._places: dict[int, int] = {}
        for number, position in enumerate(packets.position):
            self._places.setdefault(position, number)
        names = self._container.format.name
        self._plain = names.startswith("mov,") and not _fragmented(path)
        self._exact = names.startswith("mov,")  # it seeks by presentation times
        self._delay = _delay(packets)
        head = self._file.taken()
        if head:
            start, end = _merged(head, 0, self._size)[0]
            head.append((start, end + _HEAD))
        self._seek(packets.seconds(packets.shown[-1]) / 2)  # may read an index
        self._index = [*head, *self._file.taken()]
        self._rest()

    def to(self, first: int, last: int, lead: float) -> tuple[float | None, list[list[int]] | None]:
        """Return where to seek to, in seconds, for the frames from `first` to `last` (ticks), and
        the bytes that this takes. The place is None where the file's start is near, the bytes are
        None if it takes most of the file or is not known.
        """
        packets = self._packets
        wanted = first - packets.ticks(lead)
        number = bisect.bisect_left(packets.keys, 1, key=lambda n: packets.pts[n] > wanted) - 1
        place = self._seek_place(number) if number >= 0 else None
        self._file.taken()
        landed: int | None = 0
        while place is not None:
            landed = self._landing(place if self._exact else place - _EARLIER)
            if landed is None or landed <= packets.keys[number]:
                break
            place = place - _BACK if place > _BACK else None
        if place is None:
            landed = 0
        read = self._file.taken()
        self._rest()
        return place, None if landed is None else self._ranges(landed, last, read)

    def detour(self, edges: list[int]) -> int:
        """Return how much is decoded twice if the video is cut at `edges`, in ticks."""
        keys = [self._packets.pts[index] for index in self._packets.keys]
        before = [max(bisect.bisect_right(keys, edge) - 1, 0) for edge in edges[1:]]
        return sum(edge - keys[key] for edge, key in zip(edges[1:], before, strict=True))

    def _seek_place(self, number: int) -> float | None:
        """Return the moment to seek to for the keyframe `number`: after it, before the next."""
        packets = self._packets
        key = packets.pts[packets.keys[number]]
        if number == 0:
            return None
        least = packets.seconds(key)
        place = least + _PAST_KEY
        if number + 1 < len(packets.keys):
            following = packets.keys[number + 1]
            until = packets.seconds(min(packets.dts[following], packets.pts[following]))
            place = min(place, max(least, (least + until) / 2))
        return round(place + 5e-7, 6)

    def _landing(self, seconds: float) -> int | None:
        """Seek, and return the number of the packet that comes first; None if it is unknown."""
        try:
            self._seek(seconds)
            for packet in self._container.demux(self._stream):
                if packet.size:
                    return self._places.get(packet.pos)
        except av.error.FFmpegError:
            pass
        return None

    def _seek(self, seconds: float) -> None:
        self._container.seek(int(max(0.0, seconds) * av.time_base) + self._start)

    def _rest(self) -> None:
        """Go to the start, so that the next seek finds nothing in the buffer."""
        self._landing(0.0)
        self._file.taken()

    def _after(self, own: int) -> int:
        """Return how many packets must follow the `own` ones of a segment."""
        if not self._plain:
            # Zeros within the container's structure would send the demuxer through all the rest.
            return _AFTER
        # In place of packets they are errors of the decoder, after all that matters; too many of
        # them, compared with what was decoded, would be FFmpeg's own.
        return min(max(self._delay + _NEEDED_AFTER, _AFTER - own), _AFTER)

    def _ranges(self, begin: int, last: int, read: list[tuple[int, int]]) -> list[list[int]] | None:
        """Return the bytes of the packets from number `begin` until all frames up to `last` are
        decoded, with what FFmpeg `read` to get there."""
        packets = self._packets
        stop = begin
        for number in range(len(packets.pts) - 1, begin - 1, -1):
            if packets.pts[number] <= last:
                stop = number
                break
        stop = min(stop + 1 + self._after(stop + 1 - begin), len(packets.pts))
        own = [
            (packets.position[n], packets.position[n] + packets.size[n]) for n in range(begin, stop)
        ]
        if not self._plain:
            low = min(start for start, _ in own)
            own = [(low, max(end for _, end in own) + _BLOCK)]
        gap = _SMALL_GAP
        while True:
            found = _merged([*self._index, *read, *own], gap, self._size)
            if len(found) <= _MOST_RANGES:
                break
            gap *= 2
        if sum(end - start for start, end in found) > _WHOLE * self._size:
            return None
        return found


def _delay(packets: Packets) -> int:
    """Return by how many packets a frame comes later than in the order of display, at most."""
    order = array("q", sorted(packets.pts))
    return max(n - bisect.bisect_left(order, pts) for n, pts in enumerate(packets.pts))


def _merged(ranges: list[tuple[int, int]], gap: int, size: int) -> list[list[int]]:
    """Return the ranges in whole blocks, sorted, without gaps of up to `gap` bytes."""
    found: list[list[int]] = []
    for start, end in sorted(ranges):
        start = start // _BLOCK * _BLOCK
        end = min(-(-end // _BLOCK) * _BLOCK, size)
        if start >= end:
            continue
        if found and start - found[-1][1] <= gap:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([start, end])
    return found


def _fragmented(path: str) -> bool:
    """Return whether an ISO file (ISO 14496-12) has movie fragments, or is hard to tell."""
    with open(path, "rb") as file:
        size, place = file.seek(0, os.SEEK_END), 0
        for _ in range(_MOST_BOXES):
            if place + 8 > size:
                return False
            file.seek(place)
            length, kind = struct.unpack(">I4s", file.read(8))
            if kind == b"moof":
                return True
            if length == 1:
                long = file.read(8)
                length = int.from_bytes(long, "big")
            if length < 8:
                return bool(length)  # 0 means that it is the last one
            place += length
    return True


# Checking segments


def count(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the frames of a finished segment; raises `Refused`."""
    tick = Fraction(*options["tick"])
    deadline = time.monotonic() + options["seconds"]
    with _open("file:" + path, options) as container:
        videos = [stream for stream in container.streams if stream.type == "video"]
        if len(videos) != 1:
            raise Refused("not one video stream")
        stream = videos[0]
        packets = _read(container, stream, deadline)
        origin = _origin(container, packets.base)
        headers = stream.codec_context.extradata or b""
        rising = all(a < b for a, b in itertools.pairwise(packets.dts))
    return {
        "frames": len(packets.shown),
        "packets": len(packets.pts),
        "first": _rounded((packets.shown[0] + origin) * packets.base / tick),
        "last": _rounded((packets.shown[-1] + origin) * packets.base / tick),
        "rising": rising,
        "headers": hashlib.sha256(headers).hexdigest(),
    }


def main() -> None:
    """Survey the files given on the command line."""
    *paths, last = sys.argv[1:]
    options = json.loads(last)
    if resource is not None:
        seconds = int(options["seconds"]) * 2 + 10
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        if hard == resource.RLIM_INFINITY or hard > seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    av.logging.set_level(None)
    found: dict[str, Any]
    try:
        if options["segments"]:
            found = {"segments": [count(path, options) for path in paths]}
        else:
            (path,) = paths
            found = survey(path, options)
    except Refused as refusal:
        found = {"error": str(refusal)[:300]}
    except MemoryError:
        found = {"error": "out of memory"}
    sys.stdout.write(json.dumps(found, allow_nan=False))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
