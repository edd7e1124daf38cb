"""Process every clip with every operation, and check each result by other means than the service's.

    make matrix
    python -m benchmarks.matrix [FOLDER...] [--only TEXT] [--jobs 2] [--seconds 2] [--markdown FILE]

The clips are those of tests/media, of the FOLDERs, and of ../shared/media if it is there; a long
one is cut to its first `--seconds` without encoding, and of a large one only one compression is
made. Checked are frame size, duration, number of frames, the first and last time of each track,
colours, languages, title and default flags, subtitles, and that an MP4 begins with its index.
What differs is printed and counts; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import media_harness as media  # noqa: E402
from vidproc.errors import ServiceError  # noqa: E402
from vidproc.operations.sizes import around  # noqa: E402

Fields = dict[str, Any]

SYNC = 0.04
"""Seconds by which a track may move against the others."""
_LONG = 6.0
_LARGE = 600_000  # bytes
_HDR = (16, 18)  # PQ and HLG, ITU-T H.273
_BOX = (128, 96)
_CLIP = {"start_time": 0.2, "duration": 0.8}
_FAST = {"preset": "fast", "quality": 80}

CASES: dict[str, tuple[str, Fields]] = {
    "resolution": ("resolution", {"width": _BOX[0], "height": _BOX[1]}),
    "resolution, crop": ("resolution", {"width": _BOX[0], "height": _BOX[1], "fit": "crop"}),
    "resolution, audio_tracks default": (
        "resolution",
        {"width": _BOX[0], "height": _BOX[1], "fit": "stretch", "audio_tracks": "default"},
    ),
    "aspect_ratio": ("aspect_ratio", {"aspect_ratio": "1:1", "fit": "crop"}),
    "extract_audio": ("extract_audio", {}),
    "gif": ("gif", {**_CLIP, "width": 120}),
    "webm": ("webm", {**_CLIP, "width": 128}),
    "webm, av1": ("webm", {**_CLIP, "width": 128, "codec": "av1"}),
    "compress": ("compress", {**_FAST}),
    "compress, hevc": ("compress", {**_FAST, "codec": "hevc"}),
    "compress, av1": ("compress", {**_FAST, "codec": "av1"}),
    "compress, hevc, sdr": ("compress", {**_FAST, "codec": "hevc", "hdr": "sdr"}),
    "compress, grain": ("compress", {**_FAST, "codec": "av1", "grain": "auto"}),
    "compress, auto": ("compress", {**_FAST, "codec": "auto", "plays": ["h264", "av1"]}),
    "compress, target_size": ("compress", {**_FAST, "target_size": 0}),
}
"""Name -> operation and parameters; a `target_size` of 0 stands for half of the source."""


@dataclass
class Track:
    """What a player finds of a stream; times in seconds from the start of the file."""

    kind: str
    codec: str
    language: str | None
    default: bool
    first: float | None = None
    last: float | None = None
    frames: int = 0


@dataclass
class File:
    """What a player finds in a file: `size` is that of the frame as shown."""

    tracks: list[Track] = field(default_factory=list)
    size: tuple[int, int] | None = None
    colours: dict[str, Any] = field(default_factory=dict)
    interval: float = 0.04
    title: str | None = None

    def of(self, kind: str) -> list[Track]:
        """Return the tracks of a kind."""
        return [track for track in self.tracks if track.kind == kind]


def look(path: Path) -> File:
    """Decode a whole file with PyAV, as a player would."""
    found = File()
    with av.open(str(path)) as container:
        found.title = container.metadata.get("title")
        tracks: dict[int, Track] = {}
        for stream in container.streams:
            disposition = int(stream.disposition)
            codec = stream.codec_context.name if stream.codec_context is not None else ""
            cover = stream.type == "video" and disposition & 0xC00
            kind = "cover" if cover else stream.type
            language = stream.language or container.metadata.get("language")  # ID3 has one
            language = None if language == "und" else language
            tracks[stream.index] = Track(kind, codec, language, bool(disposition & 1))
        found.tracks = list(tracks.values())
        times: list[float] = []
        for packet in container.demux():
            track = tracks.get(packet.stream.index)  # the flushing ones have no stream_index
            if track is None or track.kind not in ("video", "audio") or not track.codec:
                continue
            try:
                frames: list[Any] = list(packet.decode())
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if frame.time is None:
                    continue
                end = frame.time
                if isinstance(frame, av.AudioFrame):
                    end += frame.samples / frame.sample_rate
                else:
                    times.append(frame.time)
                track.frames += 1
                track.first = min(frame.time, track.first if track.first is not None else 1e9)
                track.last = max(end, track.last if track.last is not None else -1e9)
                if isinstance(frame, av.VideoFrame) and not found.colours:
                    found.colours = {
                        "format": frame.format.name,
                        "transfer": int(frame.color_trc),
                        "primaries": int(frame.color_primaries),
                        "matrix": int(frame.colorspace),
                    }
        times.sort()
        if len(times) > 1:
            found.interval = max(b - a for a, b in itertools.pairwise(times))
    if found.of("video"):
        found.size = shown_size(path)
    return found


def shown_size(path: Path) -> tuple[int, int]:
    """Return the size of the upright frame in square pixels, as FFmpeg makes it."""
    done = subprocess.run(
        [
            *(media.tools().path, "-nostdin", "-loglevel", "error", "-i", str(path)),
            *("-map", "0:V:0", "-vf", "scale=round(iw*sar):ih", "-frames:v", "1"),
            *("-c:v", "ppm", "-f", "image2pipe", "-"),
        ],
        capture_output=True,
        check=True,
    )
    width, height = done.stdout.split(b"\n")[1].split()
    return int(width), int(height)


# What must hold


def check(source: File, result: File, path: Path, name: str, details: Fields) -> list[str]:
    """Return what is wrong with a result, in words."""
    operation, fields = CASES[name]
    if details.get("already_optimal"):
        return list(_copied(source, result))
    wrong = list(_tracks(source, result, operation, fields))
    if operation != "extract_audio":
        wrong += _frame_size(source, result, operation, fields)
        wrong += _colours(source, result, operation, fields)
    if operation in ("resolution", "aspect_ratio", "compress"):
        wrong += _times(source, result)
    if operation in ("gif", "webm"):
        wrong += _clip_times(source, result, operation)
    if path.suffix == ".mp4" and not moov_first(path):
        wrong.append("the index is not at the front")
    return wrong


def moov_first(path: Path) -> bool:
    """Return whether an MP4's index comes before its media."""
    data, at, names = path.read_bytes(), 0, []
    while at + 8 <= len(data):
        names.append(data[at + 4 : at + 8])
        at += max(int.from_bytes(data[at : at + 4], "big"), 8)
    return b"moov" in names and names.index(b"moov") < names.index(b"mdat")


def _copied(source: File, result: File) -> Iterable[str]:
    """Check a source that was returned as it is."""
    for kind in ("video", "audio", "subtitle"):
        before = [(t.codec, t.language, t.frames) for t in source.of(kind)]
        after = [(t.codec, t.language, t.frames) for t in result.of(kind)]
        if before != after:
            yield f"{kind}: {after}, not {before}"


def _tracks(source: File, result: File, operation: str, fields: Fields) -> Iterable[str]:
    languages = [track.language for track in source.of("audio")]
    main = next((t for t in source.of("audio") if t.default), None) or next(
        iter(source.of("audio")), None
    )
    everything = operation in ("resolution", "aspect_ratio", "compress")
    if operation == "gif" or main is None:
        wanted: list[str | None] = []
    elif everything and fields.get("audio_tracks") != "default":
        wanted = languages
    else:
        wanted = [main.language]
    found = [track.language for track in result.of("audio")]
    if found != wanted:
        yield f"audio languages {found}, not {wanted}"
    if len(found) > 1 and sum(track.default for track in result.of("audio")) != 1:
        yield "not exactly one audio track is the default"
    if operation in ("gif", "extract_audio"):
        return
    text = [t.language for t in source.of("subtitle") if t.codec in _TEXT]
    titles = [track.language for track in result.of("subtitle")]
    if titles != text:
        yield f"subtitle languages {titles}, not {text}"
    if source.title != result.title:
        yield f"title {result.title!r}, not {source.title!r}"


_TEXT = ("srt", "subrip", "mov_text", "webvtt", "ass", "ssa", "text")


def _frame_size(source: File, result: File, operation: str, fields: Fields) -> Iterable[str]:
    assert source.size is not None
    width, height = source.size
    if operation == "resolution":
        wanted = _BOX
    elif operation == "aspect_ratio":
        wanted = (min(width, height),) * 2
    elif operation == "compress" and "target_size" not in fields:
        wanted = source.size
    else:
        ratio = width / height
        if result.size is None or abs(result.size[0] / result.size[1] / ratio - 1) > 0.05:
            yield f"frame size {result.size} is not of the shape {source.size}"
        return
    even = tuple(side - side % 2 for side in wanted)
    if result.size is None or max(
        abs(have - want) for have, want in zip(result.size, even, strict=True)
    ) > (0 if operation == "resolution" else 1):
        yield f"frame size {result.size}, not {even}"
    assert operation != "resolution" or around(source.size, _BOX)


def _colours(source: File, result: File, operation: str, fields: Fields) -> Iterable[str]:
    if operation == "gif":
        return
    hdr = source.colours["transfer"] in _HDR
    codec = result.of("video")[0].codec
    kept = hdr and operation == "compress" and codec != "h264" and fields.get("hdr") != "sdr"
    if kept:
        for key in ("transfer", "primaries", "matrix"):
            if result.colours[key] != source.colours[key]:
                yield f"{key} {result.colours[key]}, not {source.colours[key]}"
        if result.colours["format"] != "yuv420p10le":
            yield f"format {result.colours['format']} for HDR"
        return
    deep = operation == "compress" and codec != "h264" and "10" in source.colours["format"]
    formats = ("yuv420p10le",) if deep and not hdr else ("yuv420p",)
    if result.colours["format"] not in formats:
        yield f"format {result.colours['format']}, not {formats[0]}"
    if hdr and result.colours["transfer"] in _HDR:
        yield "SDR is tagged as HDR"
    matrix = source.colours["matrix"]
    assert source.size is not None
    large = source.size[0] >= 1280 or source.size[1] > 576
    guess = {1} if large or hdr else {5, 6}
    wanted = {1} if hdr else guess if matrix in (0, 2) else {matrix}
    if result.colours["matrix"] not in wanted:
        yield f"matrix {result.colours['matrix']}, not {sorted(wanted)}"


def _times(source: File, result: File) -> Iterable[str]:
    """The first and last moment of each track against the video's start, and the frames."""
    before, after = source.of("video")[0], result.of("video")[0]
    if before.frames != after.frames:
        yield f"{after.frames} frames, not {before.frames}"
    pairs = [("video", before, after)]
    audio = source.of("audio")
    if len(result.of("audio")) == 1 and len(audio) > 1:
        audio = [next((track for track in audio if track.default), audio[0])]
    pairs += [
        (f"audio {number}", one, other)
        for number, (one, other) in enumerate(zip(audio, result.of("audio"), strict=False))
    ]
    for name, one, other in pairs:
        for end in ("first", "last"):
            was, now = getattr(one, end), getattr(other, end)
            if was is None or now is None or before.first is None or after.first is None:
                yield f"{name}: no {end} time"
                continue
            moved = (now - after.first) - (was - before.first)
            # A frame of an audio codec may be added at the end.
            allowed = SYNC if end == "first" or name == "video" else SYNC + 0.05
            if abs(moved) > allowed:
                yield f"{name}: {end} time moved by {1000 * moved:.0f} ms"


def _clip_times(source: File, result: File, operation: str) -> Iterable[str]:
    video = result.of("video")[0]
    length = float(_CLIP["duration"])
    film = source.of("video")[0]
    shown = length
    if film.last is not None and film.first is not None:
        end = film.last + source.interval - film.first
        shown = min(length, end - float(_CLIP["start_time"]))
    if video.first is None or video.last is None:
        yield "no frame has a time"
        return
    if video.first > source.interval + 0.01:
        yield f"the first frame is at {video.first:.3f} s"
    if video.last > shown + 0.011 or video.last < shown - max(2 * source.interval, 0.1) - 0.03:
        yield f"the last frame is at {video.last:.3f} s of {shown:.3f} s"
    for track in result.of("audio"):
        if track.first is None or track.last is None or track.last > length + SYNC + 0.05:
            yield f"audio ends at {track.last} s of {length} s"


# Running it


@dataclass(frozen=True)
class Row:
    """One run: what is `wrong`, and what the client was told."""

    clip: str
    case: str
    wrong: tuple[str, ...]
    warnings: tuple[str, ...]
    note: str
    seconds: float


def run_case(clip: Path, name: str, seconds: float) -> Row:
    """Process a clip and check the result."""
    operation, fields = CASES[name]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vidproc-matrix-") as folder:
        source_path = shortened(clip, Path(folder), seconds)
        if fields.get("target_size") == 0:
            fields = {**fields, "target_size": source_path.stat().st_size // 2}
        note, wrong = "", list[str]()
        warnings: tuple[str, ...] = ()
        try:
            source = look(source_path)
            result = media.process(source_path, operation, fields, Path(folder) / "out")
            warnings = tuple(result.warnings)
            details = result.product.details
            note = "returned unchanged" if details.get("already_optimal") else ""
            wrong = check(source, look(result.path), result.path, name, details)
        except ServiceError as error:
            note = f"{int(error.code)} {error.description}"
            if not refusal_is_right(source, operation, fields, error):
                wrong = [note]
        except Exception as error:  # whatever it is, it is a finding
            wrong = [f"{type(error).__name__}: {str(error)[:200]}"]
    return Row(clip.name, name, tuple(wrong), warnings, note, time.monotonic() - begun)


def refusal_is_right(source: File, operation: str, fields: Fields, error: ServiceError) -> bool:
    """Return whether a clip cannot be processed so."""
    if error.code == 415:
        kind = "audio" if operation == "extract_audio" else "video"
        return not source.of(kind)
    return error.code == 422 and "target_size" in fields and "least_size" in error.extra


def shortened(clip: Path, folder: Path, seconds: float) -> Path:
    """Return the clip, or its first seconds in a file of the same kind if it is long."""
    with av.open(str(clip)) as container:
        length = (container.duration or 0) / 1e6
    if length <= _LONG:
        return clip
    path = folder / f"short{clip.suffix}"
    maps = ("-map", "0:v?", "-map", "0:a?", "-map", "0:s?")
    media.ffmpeg("-i", clip, "-t", str(seconds), *maps, "-c", "copy", path)
    return path


def cropped_clips(folder: Path) -> list[Path]:
    """Make two clips that are cropped by their container, and return them: MP4 (clap) and Matroska
    (PixelCrop)."""
    folder.mkdir()
    mp4, matroska = folder / "made-clap.mp4", folder / "made-pixelcrop.mkv"
    media.ffmpeg("-i", media.FLOWER, "-t", "1", "-c", "copy", mp4)
    media.set_clean_aperture(mp4, _CROP)
    media.ffmpeg("-i", mp4, "-c", "copy", matroska)
    return [mp4, matroska]


_CROP = (16, 8, 32, 4)
"""Pixels cropped at the left, top, right and bottom."""


def clips(folders: Sequence[Path]) -> list[Path]:
    """Return the clips of the folders, smallest first, each name once."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix not in (".md", ".txt"):
                found.setdefault(path.name, path)
    return sorted(found.values(), key=lambda path: path.stat().st_size)


def wanted_cases(clip: Path) -> list[str]:
    """Return the cases of a clip: the one that makes SDR of HEVC is for HDR alone, and large clips
    are compressed once."""
    with av.open(str(clip)) as container:
        videos = [s for s in container.streams.video if not int(s.disposition) & 0xC00]
        hdr = bool(videos) and int(videos[0].codec_context.color_trc) in _HDR
    large = clip.stat().st_size > _LARGE
    return [
        name
        for name, (_, fields) in CASES.items()
        if (hdr or fields.get("hdr") != "sdr") and not (large and name.startswith("compress, "))
    ]


def table(rows: Sequence[Row]) -> list[str]:
    """Return a Markdown table: clips down, cases across; what stands in a cell is explained."""
    names = [name for name in CASES if any(row.case == name for row in rows)]
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        mark = "ok"
        if row.wrong:
            mark = "**wrong**"
        elif row.note.startswith("returned"):
            mark = "same"
        elif row.note:
            mark = row.note[:3]
        cells[row.clip][row.case] = mark
    lines = ["| clip | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for clip, found in cells.items():
        lines.append(f"| {clip} | " + " | ".join(found.get(name, "") for name in names) + " |")
    return lines


def main() -> int:
    """Run the matrix; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="*", type=Path)
    parser.add_argument("--only", default="", help="clips and cases that contain this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--markdown", type=Path, help="write the table here")
    given = parser.parse_args()
    folders = [media.CLIPS, *given.folder]
    shared = ROOT.parent / "shared" / "media"
    if shared.is_dir():
        folders.append(shared)
    made = tempfile.TemporaryDirectory(prefix="vidproc-matrix-")
    work = [
        (clip, name)
        for clip in [*cropped_clips(Path(made.name) / "made"), *clips(folders)]
        for name in wanted_cases(clip)
        if given.only in f"{clip.name} {name}"
    ]
    rows = []
    with ProcessPoolExecutor(given.jobs) as pool:
        running = [pool.submit(run_case, clip, name, given.seconds) for clip, name in work]
        for done in as_completed(running):
            row = done.result()
            rows.append(row)
            state = "WRONG " + "; ".join(row.wrong) if row.wrong else row.note or "ok"
            print(f"{row.seconds:6.1f} s  {row.clip}  {row.case}: {state}", flush=True)
    made.cleanup()
    order = {(clip.name, name): number for number, (clip, name) in enumerate(work)}
    rows.sort(key=lambda row: order[row.clip, row.case])
    lines = table(rows)
    if given.markdown is not None:
        given.markdown.write_text("\n".join([*lines, ""]))
    bad = sum(bool(row.wrong) for row in rows)
    print("\n".join(lines))
    print(f"{len(rows)} results, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
