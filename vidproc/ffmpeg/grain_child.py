"""Writes film grain parameters into the frame headers of an AV1 video in an MP4 file.

`vidproc.ffmpeg.launcher` runs it as a script with the arguments INPUT OUTPUT OPTIONS in a
restricted child process; OPTIONS is the JSON object of `vidproc.ffmpeg.grain`. It imports nothing
of vidproc. Nothing is decoded and nothing encoded: the frames stay as they are, and players add
grain to them.

The bits of a frame header must be read to know where it ends; names are those of the AV1
specification (5.9). What our encoder does not write is refused. The MP4 file must have its `moov`
in front, which keeps its length.
"""

import json
import struct
import sys
from typing import IO, Any

KEY_FRAME, INTER_FRAME, INTRA_ONLY_FRAME, SWITCH_FRAME = range(4)
_SEQUENCE_HEADER, _FRAME_HEADER, _TILE_GROUP, _FRAME, _REDUNDANT = 1, 3, 4, 6, 7
_NONE = 7
_SELECT = 2
_LONGEST_HEADER = 4096
"""Bytes of a frame header, at most."""
_SEGMENT_BITS = (8, 6, 6, 6, 6, 3, 0, 0)
_SIGNED_FEATURES = 5
_IDENTITY = (0, 0, 1 << 16, 0, 0, 1 << 16)
_PIECE = 1 << 20
_LARGEST_HEAD = 512 << 20


class Refused(Exception):
    """The file is not one that this script can change. The text is for logs."""


class Bits:
    """Reads bits from the start of `data`, the most significant one of a byte first."""

    def __init__(self, data: bytes) -> None:
        data = data[:_LONGEST_HEADER]
        self.value = int.from_bytes(data, "big")
        self.size = 8 * len(data)
        self.at = 0

    def f(self, count: int) -> int:
        """Return a number of `count` bits."""
        self.at += count
        if self.at > self.size:
            raise Refused("a header ends early")
        return (self.value >> (self.size - self.at)) & ((1 << count) - 1)

    def su(self, count: int) -> int:
        """Return a signed number of `count` bits."""
        value = self.f(count)
        return value - (1 << count) if value & (1 << (count - 1)) else value

    def ns(self, most: int) -> int:
        """Return a number below `most`, of as many bits as it takes."""
        width = most.bit_length()
        short = (1 << width) - most
        value = self.f(width - 1)
        if value < short:
            return value
        return (value << 1) - short + self.f(1)

    def uvlc(self) -> int:
        """Return a number of variable length."""
        zeros = 0
        while not self.f(1):
            zeros += 1
            if zeros >= 32:
                raise Refused("a number is too long")
        return self.f(zeros) + (1 << zeros) - 1

    def subexp(self, symbols: int) -> int:
        """Return what `decode_subexp` of the specification does."""
        step, floor = 0, 0
        while True:
            width = 3 + step - 1 if step else 3
            if symbols <= floor + 3 * (1 << width):
                return self.ns(symbols - floor) + floor
            if not self.f(1):
                return self.f(width) + floor
            step += 1
            floor += 1 << width

    def taken(self) -> str:
        """Return the bits that were read, as zeros and ones."""
        return f"{self.value >> (self.size - self.at):0{self.at}b}" if self.at else ""


class Sequence:
    """What a sequence header says, as far as frame headers depend on it."""

    def __init__(self, data: bytes) -> None:
        bits = Bits(data)
        self.profile = bits.f(3)
        bits.f(1)
        if bits.f(1):
            raise Refused("it is a still")
        self._operating_points(bits)
        self.width_bits, self.height_bits = bits.f(4) + 1, bits.f(4) + 1
        self.width, self.height = bits.f(self.width_bits) + 1, bits.f(self.height_bits) + 1
        if bits.f(1):
            raise Refused("frames have IDs")
        self.large_superblocks = bits.f(1)
        bits.f(4)
        self.warped_motion = bits.f(1)
        bits.f(1)
        self.order_hints = bits.f(1)
        self.reference_motion = 0
        if self.order_hints:
            bits.f(1)
            self.reference_motion = bits.f(1)
        self.screen_content = _SELECT if bits.f(1) else bits.f(1)
        self.integer_motion = _SELECT
        if self.screen_content and not bits.f(1):
            self.integer_motion = bits.f(1)
        self.order_hint_bits = bits.f(3) + 1 if self.order_hints else 0
        self.superres, self.cdef, self.restoration = bits.f(1), bits.f(1), bits.f(1)
        self._colours(bits)
        self.grain_at = bits.at
        self.grain = bits.f(1)

    def _operating_points(self, bits: Bits) -> None:
        if bits.f(1):
            bits.f(32)
            bits.f(32)
            if bits.f(1):
                bits.uvlc()
            if bits.f(1):
                raise Refused("it has a decoder model")
        delay = bits.f(1)
        for _ in range(bits.f(5) + 1):
            bits.f(12)
            if bits.f(5) > 7:
                bits.f(1)
            if delay and bits.f(1):
                bits.f(4)

    def _colours(self, bits: Bits) -> None:
        deep = bits.f(1)
        if self.profile or bits.f(1):
            raise Refused("it is not 4:2:0")
        self.depth = 10 if deep else 8
        described = (bits.f(8), bits.f(8), bits.f(8)) if bits.f(1) else (2, 2, 2)
        if described == (1, 13, 0):
            raise Refused("it is RGB")
        bits.f(1)
        bits.f(2)
        self.separate_chroma = bits.f(1)


class Slot:
    """What a later frame may need of one that it refers to."""

    def __init__(self) -> None:
        self.kind = KEY_FRAME
        self.order_hint = 0
        self.size = (0, 0)
        self.motion: list[tuple[int, ...]] = [_IDENTITY] * 8
        self.features: dict[tuple[int, int], int] = {}
        self.grainy = False


class Frame:
    """The header of one frame, read up to where its film grain parameters begin or would begin."""

    def __init__(self, sequence: Sequence, slots: list[Slot], bits: Bits) -> None:
        self.sequence, self.slots, self.bits = sequence, slots, bits
        self.slot = Slot()
        self.shows: int | None = None
        f = bits.f
        if f(1):
            self.shows = f(3)
            return
        self.kind = self.slot.kind = f(2)
        self.intra = self.kind in (KEY_FRAME, INTRA_ONLY_FRAME)
        self.shown = f(1)
        self.showable = f(1) if not self.shown else int(self.kind != KEY_FRAME)
        alone = self.kind == SWITCH_FRAME or (self.kind == KEY_FRAME and self.shown)
        self.resilient = 1 if alone else f(1)
        if self.kind == KEY_FRAME and self.shown:
            for slot in slots:
                slot.order_hint = 0
        frozen = f(1)
        screen = f(1) if sequence.screen_content == _SELECT else sequence.screen_content
        whole = 0
        if screen:
            whole = f(1) if sequence.integer_motion == _SELECT else sequence.integer_motion
        self.other_size = 1 if self.kind == SWITCH_FRAME else f(1)
        self.slot.order_hint = f(sequence.order_hint_bits)
        self.primary = _NONE if self.intra or self.resilient else f(3)
        self.refresh = 0xFF if alone else f(8)
        if (not self.intra or self.refresh != 0xFF) and self.resilient and sequence.order_hints:
            for _ in range(8):
                f(sequence.order_hint_bits)
        self.block_copy = self.precise = 0
        self.references: list[int] = []
        if self.intra:
            self._size()
            self._render_size()
            if screen and self.upscaled == self.width:
                self.block_copy = f(1)
        else:
            self._references(whole)
        if not frozen:
            f(1)
        previous = slots[self.references[self.primary]] if self.primary != _NONE else Slot()
        self._tiles()
        self._quantizers()
        self._segments(previous)
        self._filters()
        self._modes(previous)
        self.slot.size = (self.upscaled, self.height)

    # --- size and references --------------------------------------------------------------------

    def _size(self) -> None:
        sequence, f = self.sequence, self.bits.f
        self.upscaled, self.height = sequence.width, sequence.height
        if self.other_size:
            self.upscaled, self.height = f(sequence.width_bits) + 1, f(sequence.height_bits) + 1
        self._superres()

    def _superres(self) -> None:
        self.width = self.upscaled
        if self.sequence.superres and self.bits.f(1):
            parts = self.bits.f(3) + 9
            self.width = (self.upscaled * 8 + parts // 2) // parts

    def _render_size(self) -> None:
        if self.bits.f(1):
            self.bits.f(32)

    def _references(self, whole: int) -> None:
        f = self.bits.f
        if self.sequence.order_hints and f(1):
            raise Refused("references are not written out")
        self.references = [f(3) for _ in range(7)]
        if self.other_size and not self.resilient:
            for index in self.references:
                if f(1):
                    self.upscaled, self.height = self.slots[index].size
                    self._superres()
                    break
            else:
                self._size()
                self._render_size()
        else:
            self._size()
            self._render_size()
        self.precise = 0 if whole else f(1)
        if not f(1):
            f(2)
        f(1)
        if not self.resilient and self.sequence.reference_motion:
            f(1)

    # --- tiles ----------------------------------------------------------------------------------

    def _tiles(self) -> None:
        f = self.bits.f
        shift = 5 if self.sequence.large_superblocks else 4
        columns = (2 * ((self.width + 7) >> 3) + (1 << shift) - 1) >> shift
        rows = (2 * ((self.height + 7) >> 3) + (1 << shift) - 1) >> shift
        widest = 4096 >> (shift + 2)
        largest = (4096 * 2304) >> (2 * (shift + 2))
        least_columns = _log2(widest, columns)
        least = max(least_columns, _log2(largest, rows * columns))
        if f(1):
            across = self._counted(least_columns, _log2(1, min(columns, 64)))
            down = self._counted(max(least - across, 0), _log2(1, min(rows, 64)))
        else:
            widths = self._listed(columns, widest)
            area = (rows * columns) >> (least + 1) if least else rows * columns
            heights = self._listed(rows, max(area // max(widths), 1))
            across, down = _log2(1, len(widths)), _log2(1, len(heights))
        if across or down:
            f(across + down)
            f(2)

    def _counted(self, least: int, most: int) -> int:
        while least < most and self.bits.f(1):
            least += 1
        return least

    def _listed(self, blocks: int, most: int) -> list[int]:
        sizes: list[int] = []
        while blocks > 0:
            sizes.append(self.bits.ns(min(blocks, most)) + 1)
            blocks -= sizes[-1]
        return sizes

    # --- quantizers, segments and filters -------------------------------------------------------

    def _quantizers(self) -> None:
        f, separate = self.bits.f, self.sequence.separate_chroma
        self.base = f(8)
        deltas = [self._delta(7)]
        apart = f(1) if separate else 0
        deltas += [self._delta(7) for _ in range(4 if apart else 2)]
        self.exact = not any(deltas)
        if f(1):
            f(12 if separate else 8)

    def _delta(self, width: int) -> int:
        return self.bits.su(width) if self.bits.f(1) else 0

    def _segments(self, previous: Slot) -> None:
        f = self.bits.f
        features: dict[tuple[int, int], int] = {}
        if f(1):
            update = 1
            if self.primary != _NONE:
                if f(1):
                    f(1)
                update = f(1)
            if update:
                for segment in range(8):
                    for feature, width in enumerate(_SEGMENT_BITS):
                        if f(1):
                            signed = feature < _SIGNED_FEATURES
                            value = self.bits.su(1 + width) if signed else f(width)
                            features[segment, feature] = value
            else:
                features = previous.features
        self.slot.features = features
        indexes = [self.base + features.get((segment, 0), 0) for segment in range(8)]
        self.lossless = self.exact and all(index <= 0 for index in indexes)
        if self.base and f(1):
            f(2)
            if not self.block_copy and f(1):
                f(3)

    def _filters(self) -> None:
        f = self.bits.f
        if not (self.lossless or self.block_copy):
            if f(6) | f(6):
                f(12)
            f(3)
            if f(1) and f(1):
                for _ in range(10):
                    self._delta(7)
            if self.sequence.cdef:
                f(2)
                for _ in range(1 << f(2)):
                    f(12)
        lossless = self.lossless and self.width == self.upscaled
        if lossless or self.block_copy or not self.sequence.restoration:
            return
        kinds = [f(2) for _ in range(3)]
        if any(kinds):
            if f(1) and not self.sequence.large_superblocks:
                f(1)
            if kinds[1] or kinds[2]:
                f(1)

    # --- modes and motion -----------------------------------------------------------------------

    def _modes(self, previous: Slot) -> None:
        f = self.bits.f
        if not self.lossless:
            f(1)
        compound = 0 if self.intra else f(1)
        if compound and self._skips():
            f(1)
        if not (self.intra or self.resilient) and self.sequence.warped_motion:
            f(1)
        f(1)
        if self.intra:
            return
        for reference in range(1, 8):
            self.slot.motion[reference] = self._motion(previous.motion[reference])

    def _skips(self) -> bool:
        """Return whether `skip_mode_present` is there to be read."""
        if not self.sequence.order_hints:
            return False
        hints = [self.slots[index].order_hint for index in self.references]
        distances = [self._distance(hint, self.slot.order_hint) for hint in hints]
        before = {distance for distance in distances if distance < 0}
        return bool(before) and (any(d > 0 for d in distances) or len(before) > 1)

    def _distance(self, one: int, other: int) -> int:
        half = 1 << (self.sequence.order_hint_bits - 1)
        return ((one - other) & (half - 1)) - ((one - other) & half)

    def _motion(self, previous: tuple[int, ...]) -> tuple[int, ...]:
        f = self.bits.f
        if not f(1):
            return _IDENTITY
        rotates = f(1)
        moves = 0 if rotates else f(1)
        found = list(_IDENTITY)
        if not moves:
            for index in (2, 3):
                found[index] = self._parameter(previous[index], index, False)
            if rotates:
                found[4], found[5] = -found[3], found[2]
            else:
                for index in (4, 5):
                    found[index] = self._parameter(previous[index], index, False)
        for index in (0, 1):
            found[index] = self._parameter(previous[index], index, bool(moves))
        return tuple(found)

    def _parameter(self, previous: int, index: int, moves: bool) -> int:
        most, precision = 12, 15
        if index < 2:
            most, precision = (8 + self.precise, 2 + self.precise) if moves else (12, 6)
        scale = index in (2, 5)
        high = 1 << most
        reference = (previous >> (16 - precision)) - ((1 << precision) if scale else 0)
        symbols, centre = 2 * high + 1, reference + high
        value = self.bits.subexp(symbols)
        if centre << 1 <= symbols:
            value = _recentred(centre, value)
        else:
            value = symbols - 1 - _recentred(symbols - 1 - centre, value)
        return ((value - high) << (16 - precision)) + ((1 << 16) if scale else 0)


def _recentred(centre: int, value: int) -> int:
    if value > 2 * centre:
        return value
    return centre - ((value + 1) >> 1) if value & 1 else centre + (value >> 1)


def _log2(block: int, target: int) -> int:
    power = 0
    while (block << power) < target:
        power += 1
    return power


class Stream:
    """An AV1 stream whose frames get film grain, one temporal unit after another."""

    def __init__(self, grain: dict[str, Any]) -> None:
        self.parameters = _grain_bits(grain)
        self.seed = int(grain["seed"])
        self.sequence: Sequence | None = None
        self.slots = [Slot() for _ in range(8)]
        self.frames = 0

    def changed(self, unit: bytes) -> bytes:
        """Return a temporal unit (or the OBUs of a configuration) with film grain."""
        pieces, at = [], 0
        while at < len(unit):
            head = unit[at]
            kind, extended = (head >> 3) & 15, (head >> 2) & 1
            start = at + 1 + extended
            size = len(unit) - start
            if head & 2:
                size, start = _leb128(unit, start)
            end = start + size
            if end > len(unit):
                raise Refused("an OBU ends early")
            before, body = unit[at : at + 1 + extended], unit[start:end]
            new = self._obu(kind, body)
            if new is body:
                pieces.append(unit[at:end])
            else:
                pieces += [before, _written_leb128(len(new)) if head & 2 else b"", new]
            at = end
        return b"".join(pieces)

    def _obu(self, kind: int, body: bytes) -> bytes:
        if kind == _SEQUENCE_HEADER:
            self.sequence = Sequence(body)
            if self.sequence.grain:
                raise Refused("it has film grain already")
            at = self.sequence.grain_at
            changed = bytearray(body)
            changed[at >> 3] |= 0x80 >> (at & 7)
            return bytes(changed)
        if kind == _REDUNDANT:
            raise Refused("it has redundant headers")
        if kind not in (_FRAME, _FRAME_HEADER):
            return body
        if self.sequence is None:
            raise Refused("it has no sequence header")
        bits = Bits(body)
        frame = Frame(self.sequence, self.slots, bits)
        if frame.shows is not None:
            return self._shown_again(frame.shows, body)
        words = bits.taken()
        whole_bytes = (bits.at + 7) >> 3
        if frame.shown or frame.showable:
            words += self._grain(frame)
        for index in range(8):
            if frame.refresh >> index & 1:
                self.slots[index] = frame.slot
        if kind == _FRAME_HEADER:
            words += "1"  # trailing bits
            whole_bytes = len(body)
        words += "0" * (-len(words) % 8)
        return int(words, 2).to_bytes(len(words) >> 3, "big") + body[whole_bytes:]

    def _shown_again(self, index: int, body: bytes) -> bytes:
        """Take in that an earlier frame is shown: it has its own grain in its header."""
        if self.slots[index].kind == KEY_FRAME:
            self.slots = [self.slots[index]] * 8
        return body

    def _grain(self, frame: Frame) -> str:
        """Return the film grain parameters of a frame, as zeros and ones.

        They are those of a frame that it refers to, if one has them, but for the seed.
        """
        self.frames += 1
        self.seed = (self.seed * 25173 + 13849) & 0xFFFF
        frame.slot.grainy = True
        words = f"1{self.seed:016b}"
        if frame.kind != INTER_FRAME:
            return words + self.parameters
        for index in frame.references:
            if self.slots[index].grainy:
                return words + f"0{index:03b}"
        return words + "1" + self.parameters


def _grain_bits(grain: dict[str, Any]) -> str:
    """Return film grain parameters, from the number of luma points on, as zeros and ones."""
    words = []

    def put(value: int, width: int) -> None:
        if not 0 <= value < 1 << width:
            raise Refused("a film grain parameter is out of range")
        words.append(f"{value:0{width}b}")

    def points(pairs: list[tuple[int, int]]) -> None:
        put(len(pairs), 4)
        for level, strength in pairs:
            put(level, 8)
            put(strength, 8)

    luma, chroma = grain["luma"], (grain["cb"], grain["cr"])
    points(luma)
    put(0, 1)  # chroma_scaling_from_luma
    for pairs in chroma:
        points(pairs)
    put(grain["scaling_shift"] - 8, 2)
    put(grain["lag"], 2)
    for coefficient in grain["coefficients"]:
        put(coefficient + 128, 8)
    for pairs in chroma:
        if pairs:
            for _ in range(len(grain["coefficients"]) + 1):
                put(128, 8)
    put(grain["coefficient_shift"] - 6, 2)
    put(grain["scale_shift"], 2)
    for pairs in chroma:
        if pairs:
            put(128, 8)  # by the luma alone
            put(192, 8)
            put(256, 9)
    put(1, 1)  # overlap_flag
    put(1, 1)  # clip_to_restricted_range
    return "".join(words)


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        if at + index >= len(data):
            break
        byte = data[at + index]
        value |= (byte & 127) << 7 * index
        if not byte & 128:
            return value, at + index + 1
    raise Refused("a size has no end")


def _written_leb128(value: int) -> bytes:
    written = bytearray()
    while True:
        written.append(value & 127 | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(written)


# MP4


class Chunk:
    """Samples of a track that lie together: where, and their sizes if it is the video's."""

    def __init__(self, offset: int, sizes: list[int] | None) -> None:
        self.offset = offset
        self.sizes = sizes


def boxes(data: bytes | bytearray, start: int, end: int) -> list[tuple[bytes, int, int]]:
    """Return (type, where its content begins, where it ends) of each box."""
    found = []
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        if size < head or start + size > end:
            raise Refused("a box has a wrong size")
        found.append((kind, start + head, start + size))
        start += size
    return found


def inner(data: bytes | bytearray, place: tuple[int, int], *path: bytes) -> tuple[int, int] | None:
    """Return where the content of the box is that is found along a path of types."""
    for name in path:
        for kind, start, end in boxes(data, *place):
            if kind == name:
                place = (start, end)
                break
        else:
            return None
    return place


def _needed(data: bytes | bytearray, place: tuple[int, int], *path: bytes) -> tuple[int, int]:
    found = inner(data, place, *path)
    if found is None:
        raise Refused("a box is missing")
    return found


class Track:
    """A track of the `moov` in `head`: its chunks, and where their offsets are written."""

    def __init__(self, head: bytearray, place: tuple[int, int]) -> None:
        handler, _ = _needed(head, place, b"mdia", b"hdlr")
        table = _needed(head, place, b"mdia", b"minf", b"stbl")
        self.video = head[handler + 8 : handler + 12] == b"vide"
        self.table = table
        self.wide = inner(head, table, b"co64") is not None
        self.offsets_at = _needed(head, table, b"co64" if self.wide else b"stco")[0] + 8
        (count,) = struct.unpack_from(">I", head, self.offsets_at - 4)
        self.code = "Q" if self.wide else "I"
        offsets = struct.unpack_from(f">{count}{self.code}", head, self.offsets_at)
        self.sizes_at = _needed(head, table, b"stsz")[0] + 12
        if not self.video:
            self.chunks = [Chunk(offset, None) for offset in offsets]
            return
        same, number = struct.unpack_from(">II", head, self.sizes_at - 8)
        if same:
            raise Refused("all frames have one size")
        sizes = list(struct.unpack_from(f">{number}I", head, self.sizes_at))
        self.chunks = []
        for offset, each in zip(offsets, _per_chunk(head, table, count), strict=True):
            self.chunks.append(Chunk(offset, sizes[:each]))
            del sizes[:each]
        if sizes:
            raise Refused("frames are in no chunk")

    def configuration(self, head: bytearray) -> tuple[int, int]:
        """Return where the OBUs of the decoder's configuration are."""
        start, end = _needed(head, self.table, b"stsd")
        entries = boxes(head, start + 8, end)
        if len(entries) != 1 or entries[0][0] != b"av01":
            raise Refused("it is not one AV1 stream")
        start, end = _needed(head, (entries[0][1] + 78, entries[0][2]), b"av1C")
        return start + 4, end


def _per_chunk(head: bytearray, table: tuple[int, int], count: int) -> list[int]:
    """Return how many samples each of `count` chunks has."""
    at = _needed(head, table, b"stsc")[0] + 4
    (entries,) = struct.unpack_from(">I", head, at)
    runs = [struct.unpack_from(">III", head, at + 4 + 12 * n) for n in range(entries)]
    found: list[int] = []
    for number, (first, samples, _) in enumerate(runs):
        end = runs[number + 1][0] - 1 if number + 1 < entries else count
        if first - 1 != len(found):
            raise Refused("chunks are out of order")
        found += [samples] * (end - first + 1)
    return found


def rewrite(source: IO[bytes], target: IO[bytes], options: dict[str, Any]) -> dict[str, int]:
    """Write the file with film grain; return the number of frames that have it."""
    head, body, end = _read_head(source)
    moov = _needed(head, (0, len(head)), b"moov")
    tracks = [Track(head, (s, e)) for kind, s, e in boxes(head, *moov) if kind == b"trak"]
    videos = [track for track in tracks if track.video]
    if len(videos) != 1:
        raise Refused("it has not one video")
    stream = Stream(options)
    start, stop = videos[0].configuration(head)
    configuration = stream.changed(bytes(head[start:stop]))
    if len(configuration) != stop - start:
        raise Refused("the configuration has another length")
    head[start:stop] = configuration
    target.write(head)
    target.write(struct.pack(">I4sQ", 1, b"mdat", 0))
    shift = len(head) + 16 - body
    moved: dict[int, int] = {}
    sizes: list[int] = []
    at = body
    chunks = sorted((chunk for track in tracks for chunk in track.chunks), key=lambda c: c.offset)
    for chunk in chunks:
        if chunk.offset < at:
            raise Refused("chunks overlap")
        _copy(source, target, chunk.offset - at)
        moved[chunk.offset] = chunk.offset + shift
        at = chunk.offset
        for size in chunk.sizes or ():
            new = stream.changed(_read(source, size))
            target.write(new)
            sizes.append(len(new))
            shift += len(new) - size
            at += size
    _copy(source, target, end - at)
    written = target.tell()
    for track in tracks:
        _write_numbers(head, track.offsets_at, track.code, [moved[c.offset] for c in track.chunks])
    _write_numbers(head, videos[0].sizes_at, "I", sizes)
    target.seek(0)
    target.write(head)
    target.write(struct.pack(">I4sQ", 1, b"mdat", written - len(head)))
    target.seek(0, 2)
    rest = source.read(_PIECE)
    while rest:
        target.write(rest)
        rest = source.read(_PIECE)
    return {"frames": stream.frames, "samples": len(sizes)}


def _read_head(source: IO[bytes]) -> tuple[bytearray, int, int]:
    """Return all in front of the media data, and where its content begins and ends."""
    head = bytearray()
    while True:
        box = source.read(8)
        if len(box) < 8:
            raise Refused("it has no media data")
        size, kind = struct.unpack(">I4s", box)
        if size == 1:
            box += source.read(8)
            (size,) = struct.unpack(">Q", box[8:])
        if kind == b"mdat":
            start = source.tell()
            if size < len(box):
                raise Refused("a box has a wrong size")
            return head, start, start + size - len(box)
        if size < len(box) or len(head) + size > _LARGEST_HEAD:
            raise Refused("a box has a wrong size")
        head += box + _read(source, size - len(box))


def _write_numbers(head: bytearray, at: int, code: str, numbers: list[int]) -> None:
    if code == "I" and max(numbers, default=0) >= 1 << 32:
        raise Refused("it is too large for its offsets")
    struct.pack_into(f">{len(numbers)}{code}", head, at, *numbers)


def _read(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise Refused("it ends early")
    return data


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0:
        piece = _read(source, min(size, _PIECE))
        target.write(piece)
        size -= len(piece)


def main() -> None:
    """Do what the arguments say; print the result as JSON."""
    _, read, written, options = sys.argv
    try:
        with open(read, "rb") as source, open(written, "wb") as target:
            result: dict[str, Any] = dict(rewrite(source, target, json.loads(options)))
    except (Refused, struct.error) as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
