"""Helpers for tests on real media: run an operation, make clips, inspect results."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from support.job import RealJob, bundled_ffmpeg, run_operation
from support.job import probe as probe
from support.travel import TravellingRunner
from vidproc.ffmpeg.command import Command
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations.base import Product
from vidproc.operations.parameters import parse_parameters
from vidproc.operations.registry import get_operation
from vidproc.runners.interface import Runner
from vidproc.tasks.verification import compare

CLIPS = Path(__file__).parent / "media"

FLOWER = CLIPS / "flower-540p-aac.mp4"
FRIDAY = CLIPS / "friday-480p-aac.mp4"
COCKATOO = CLIPS / "cockatoo-720p-noaudio.mp4"
COUNT = CLIPS / "count-multiaudio-subs.mkv"
FIRE = CLIPS / "fire-720p-vfr-rot180.mp4"
FLAC = CLIPS / "bear-coverart.flac"
PRORES = CLIPS / "prores422-10bit.mov"
AVI = CLIPS / "mpeg4asp-mp3.avi"
SCREENCAST = CLIPS / "screencast-480p-vp9-opus.webm"
ANAMORPHIC = CLIPS / "screencast-anamorphic-sar3x2.mp4"

RED, BLUE, GREEN, WHITE = (254, 0, 0), (0, 0, 254), (0, 128, 0), (255, 255, 255)
QUADRANTS = (
    "color=red:s={w}x{h}:r={r}[a];color=blue:s={w}x{h}:r={r}[b];"
    "color=green:s={w}x{h}:r={r}[c];color=white:s={w}x{h}:r={r}[d];"
    "[a][b]hstack[top];[c][d]hstack[bottom];[top][bottom]vstack"
)
"""A lavfi source of 2`w` x 2`h` pixels at `r` frames a second: red and blue above green and
white."""


tools = bundled_ffmpeg


def quadrants(width: int, height: int, rate: float = 25) -> str:
    """Return a lavfi source: red and blue above green and white."""
    return QUADRANTS.format(w=width // 2, h=height // 2, r=rate)


def ffmpeg(*arguments: str | Path) -> None:
    """Run FFmpeg to make or change a clip. If it fails, raises with its messages."""
    done = subprocess.run(
        [tools().path, "-nostdin", "-hide_banner", "-y", "-loglevel", "error"]
        + [str(argument) for argument in arguments],
        capture_output=True,
        timeout=120,
    )
    if done.returncode:
        raise AssertionError(done.stderr.decode(errors="replace"))


def synthesise(path: Path, *arguments: str | Path, lavfi: str, seconds: float = 1.0) -> Path:
    """Make a clip from a lavfi source; `arguments` are further inputs and output options."""
    ffmpeg("-f", "lavfi", "-t", str(seconds), "-i", lavfi, *arguments, path)
    return path


def set_clean_aperture(path: Path, crop: tuple[int, int, int, int]) -> None:
    """Crop the H.264 video of an MP4 file, whose index is at its end, by (left, top, right,
    bottom) pixels: add a clap box (ISO 14496-12, 12.1.4) to it, in place."""
    entry, _ = _sample_entry(bytearray(path.read_bytes()), b"avc1")
    width, height = struct.unpack_from(">HH", path.read_bytes(), entry[-1] + 32)
    left, top, right, bottom = crop
    shift = struct.pack(">iIiI", left - right, 2, top - bottom, 2)
    size = struct.pack(">IIII", width - left - right, 1, height - top - bottom, 1)
    add_to_sample_entry(path, b"avc1", b"clap", size + shift)


def _sample_entry(data: bytearray, codec: bytes) -> tuple[list[int], int]:
    """Return where the boxes down to the first track's sample entry start, and where it ends."""
    open_boxes, start, end = [], 0, len(data)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", codec):
        while bytes(data[start + 4 : start + 8]) != name:
            start += struct.unpack_from(">I", data, start)[0]
        open_boxes.append(start)
        end = start + struct.unpack_from(">I", data, start)[0]
        start += 16 if name == b"stsd" else 8
    return open_boxes, end


def add_to_sample_entry(path: Path, codec: bytes, kind: bytes, content: bytes) -> None:
    """Add a box to the sample entry of an MP4 file's first track, in place; its index must be at
    its end."""
    data = bytearray(path.read_bytes())
    open_boxes, end = _sample_entry(data, codec)
    box = struct.pack(">I4s", 8 + len(content), kind) + content
    for place in open_boxes:
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + len(box))
    data[end:end] = box
    path.write_bytes(data)


@dataclass
class Result:
    """The result of an operation: the file, its probe, and the warnings."""

    path: Path
    media: MediaInfo
    product: Product
    warnings: list[str]
    commands: list[Command]


def process(
    source: Path,
    operation: str,
    fields: dict[str, Any],
    folder: Path,
    capabilities: Any = None,
    runner: Runner | None = None,
) -> Result:
    """Run an operation as the server does: probe, run, verify against the expectation.

    Unless another runner is given, each command gets only the files that it declares, in another
    folder, and another number of threads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters, warnings = parse_parameters(operation, fields)
    runner = runner or TravellingRunner()
    job = RealJob(source, folder, parameters, capabilities=capabilities, runner=runner)
    job.warnings += warnings
    product = run_operation(get_operation(operation), job)
    path = folder / product.file
    media = probe(path, verify=True)
    if fault := mismatch(media, product, job.media):
        raise AssertionError(f"{path.name} is not as expected: {fault}; {media}")
    return Result(path, media, product, job.warnings, job.commands)


def mismatch(media: MediaInfo, product: Product, source: MediaInfo) -> str | None:
    """Return how a file differs from what its operation promised, as the server checks it.

    Here a warning about a different length than the source's is a fault, too.
    """
    verdict = compare(media, product.expectation, source)
    return verdict.fault or verdict.warning


def frame_at(path: Path, number: int = 0) -> Any:
    """Return a decoded frame as an (H, W, 3) RGB list of rows, upright as FFmpeg shows it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for index, frame in enumerate(container.decode(stream)):
            if index == number:
                matrix = "itu709" if int(frame.colorspace) == 1 else "itu601"
                rgb = frame.reformat(format="rgb24", src_colorspace=matrix)
                plane = rgb.planes[0]
                data, stride = bytes(plane), plane.line_size
                return [
                    [tuple(data[y * stride + 3 * x :][:3]) for x in range(frame.width)]
                    for y in range(frame.height)
                ]
    raise AssertionError(f"{path} has no frame {number}")


def colour(frame: Any, x: float, y: float) -> tuple[int, int, int]:
    """Return the colour at a position given as fractions of width and height."""
    height, width = len(frame), len(frame[0])
    pixel: tuple[int, int, int] = frame[min(height - 1, int(y * height))][
        min(width - 1, int(x * width))
    ]
    return pixel


def near(one: tuple[int, ...], other: tuple[int, ...], most: int = 24) -> bool:
    """Whether two colours differ by at most `most` of 255 in each component."""
    return all(abs(a - b) <= most for a, b in zip(one, other, strict=True))


def corners(frame: Any) -> list[tuple[int, int, int]]:
    """Return the colours in the middle of the four quadrants, row by row."""
    return [colour(frame, x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]


def times(path: Path, kind: str = "video") -> list[float]:
    """Return the presentation times of a stream's packets, sorted, in seconds."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        stamps = [p.pts for p in container.demux(stream) if p.pts is not None]
        return sorted(float(stamp * stream.time_base) for stamp in stamps)


def metadata_text(path: Path) -> str:
    """Return all tags of a file and its streams as one text."""
    with av.open(str(path)) as container:
        tags = [dict(container.metadata)] + [dict(s.metadata) for s in container.streams]
    return " ".join(f"{key}={value}" for each in tags for key, value in each.items())


def scratch(case: Any) -> Path:
    """Return a new folder of a trial test case."""
    path = Path(case.mktemp())
    os.makedirs(path)
    return path.resolve()
