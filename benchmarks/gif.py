"""Compare our GIFs with FFmpeg's plain two-step palette on a folder of clips.

    python benchmarks/gif.py [FOLDER] [--quick] [--fps 12] [--width 480] [--length 5] [--start 0]

For each clip and for the median: SSIM and PSNR (over red, green and blue) of our GIF and of the
plain one against the scaled source, frame by frame; the bytes and the encoding time of both; and
the timing error of the GIF. Frames last whole centiseconds; `drift` is the largest difference
between the end of a frame and where it should be, including the total duration. The last line says
whether a GIF is worse, larger or late.

The plain one is `fps,scale=W:H:flags=lanczos,palettegen`, then `paletteuse` with its defaults. Like
ours it gets square pixels, upright frames and SDR, so that only palette and dithering are compared.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from support.job import RealJob, probe, run_operation  # noqa: E402
from vidproc.errors import ServiceError  # noqa: E402
from vidproc.ffmpeg.binary import find_ffmpeg  # noqa: E402
from vidproc.ffmpeg.media import MediaInfo  # noqa: E402
from vidproc.operations.gif.operation import GifOperation  # noqa: E402
from vidproc.operations.parameters import Gif  # noqa: E402
from vidproc.operations.sizes import Size  # noqa: E402

FFMPEG = find_ffmpeg().path
HDR = (
    "format=yuv444p10le,zscale=tin={transfer}:pin=2020:min=2020_ncl:rin=limited:t=linear:npl=203,"
    "format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.5:peak=5:desat=0,"
    "zscale=p=bt709:t=bt709:m=bt709:r=limited,"
)


@dataclass(frozen=True)
class Settings:
    """What part of a clip becomes a GIF, and how; `start` and `length` in seconds."""

    fps: float
    width: int
    start: float
    length: float


@dataclass(frozen=True)
class Line:
    """One line of the table. SSIM 0 to 1, PSNR in dB, times in seconds, `drift` in frames."""

    clip: str
    palette: str
    frames: float
    ssim: float
    plain_ssim: float
    psnr: float
    plain_psnr: float
    bytes: float
    plain_bytes: float
    seconds: float
    plain_seconds: float
    drift: float

    @property
    def faults(self) -> list[str]:
        """In what it is not as good as it must be."""
        wrong = {
            "worse": self.ssim < self.plain_ssim,
            "larger": self.bytes > self.plain_bytes,
            "late": self.drift >= 1,
        }
        return [name for name, found in wrong.items() if found]


def run(*arguments: str) -> str:
    """Run FFmpeg and return what it says."""
    done = subprocess.run(
        [FFMPEG, "-hide_banner", "-nostdin", "-nostats", "-y", *arguments],
        capture_output=True,
        check=True,
    )
    return done.stderr.decode(errors="replace")


def chain(media: MediaInfo, settings: Settings, size: Size) -> str:
    """Return the filters from the source to the frames of the GIF, evenly spaced."""
    video = media.video
    assert video is not None
    deinterlace = "bwdif=mode=send_frame," if video.interlaced else ""
    tone = HDR.format(transfer=video.color_transfer) if video.hdr else ""
    label = ""
    if not tone and video.color_matrix is None:
        matrix = "bt709" if video.width >= 1280 or video.height > 576 else "smpte170m"
        label = f"setparams=colorspace={matrix},"
    first = settings.start + video.start_time + media.start_time
    return (
        f"{deinterlace}setpts=PTS-({first})/TB,fps={settings.fps:g}:start_time=-0.001,"
        f"{label}scale={size[0]}:{size[1]}:flags=lanczos,{tone}setsar=1"
    )


def plain(source: Path, media: MediaInfo, settings: Settings, size: Size, folder: Path) -> Path:
    """Make the GIF as most people do: a palette of all frames, then use it."""
    assert media.video is not None
    made = f"[0:{media.video.index}]{chain(media, settings, size)}"
    frames = str(round(settings.length * settings.fps))
    cut = f"{made},trim=end_frame={frames}"
    run("-copyts", "-i", str(source), "-filter_complex", f"{cut},palettegen", str(folder / "p.png"))
    run(
        *("-copyts", "-i", str(source), "-i", str(folder / "p.png"), "-filter_complex"),
        *(f"{cut}[x];[x][1:v]paletteuse", str(folder / "plain.gif")),
    )
    return folder / "plain.gif"


def scores(
    gif: Path, source: Path, media: MediaInfo, settings: Settings, size: Size
) -> tuple[float, float]:
    """Return the mean SSIM and PSNR of a GIF against the scaled source, paired by number."""
    assert media.video is not None
    pair = "settb=1/25,setpts=N,format=gbrp"
    wanted = chain(media, settings, size)
    text = run(
        *("-copyts", "-i", str(gif), "-i", str(source), "-filter_complex"),
        f"[0:v:0]{pair},split[a][c];[1:{media.video.index}]{wanted},format=bgra,{pair},split[b][d];"
        "[a][b]ssim=shortest=1,nullsink;[c][d]psnr=shortest=1",
        *("-f", "null", "-"),
    )
    ssim = float(re.findall(r"SSIM .*All:([0-9.]+)", text)[-1])
    return ssim, float(re.findall(r"PSNR .*average:([0-9.]+|inf)", text)[-1])


def delays(gif: bytes) -> Iterator[int]:
    """Yield the delay of each frame in the file, in centiseconds."""
    place = 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 0x80 else 0)
    delay = 0
    while gif[place] != 0x3B:
        if gif[place] == 0x21:
            if gif[place + 1] == 0xF9:
                delay = int.from_bytes(gif[place + 4 : place + 6], "little")
            place += 2
        else:
            yield delay
            packed = gif[place + 9]
            place += 11 + (3 << (packed & 7) + 1 if packed & 0x80 else 0)
        while gif[place]:
            place += gif[place] + 1
        place += 1


def drift(gif: bytes, fps: float) -> float:
    """Return the largest timing error of the end of any frame, in frames."""
    ends = itertools.accumulate(delays(gif))
    return max(abs(end / 100 - number / fps) * fps for number, end in enumerate(ends, 1))


def measure(path: Path, media: MediaInfo, settings: Settings) -> Line:
    """Return one line of the table."""
    parameters = Gif(
        start_time=settings.start,
        duration=settings.length,
        fps=settings.fps,
        width=settings.width,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job: RealJob = RealJob(path, folder, parameters, media=media)
        begun = time.monotonic()
        product = run_operation(GifOperation(), job)
        ended = time.monotonic()
        size = product.expectation.size
        assert size is not None and product.expectation.duration is not None
        part = Settings(settings.fps, size[0], settings.start, product.expectation.duration)
        usual = plain(path, media, part, size, folder)
        plain_seconds = time.monotonic() - ended
        made = job.path_of(product.file)
        ssim, psnr = scores(made, path, media, part, size)
        plain_ssim, plain_psnr = scores(usual, path, media, part, size)
        content = made.read_bytes()
        return Line(
            clip=path.name,
            palette=product.details["palette"],
            frames=sum(1 for _ in delays(content)),
            ssim=ssim,
            plain_ssim=plain_ssim,
            psnr=psnr,
            plain_psnr=plain_psnr,
            bytes=len(content),
            plain_bytes=usual.stat().st_size,
            seconds=ended - begun,
            plain_seconds=plain_seconds,
            drift=drift(content, settings.fps),
        )


COLUMNS = (
    ("frames", "frames", 9, 0),
    ("ssim", "SSIM", 8, 4),
    ("plain_ssim", "plain", 8, 4),
    ("psnr", "PSNR", 7, 2),
    ("plain_psnr", "plain", 7, 2),
    ("bytes", "bytes", 10, 0),
    ("plain_bytes", "plain", 10, 0),
    ("percent", "%plain", 7, 1),
    ("seconds", "time s", 7, 1),
    ("plain_seconds", "plain", 7, 1),
    ("drift", "drift", 7, 2),
)


def show(name: str, values: dict[str, float], rest: str) -> None:
    """Print one line of the table."""
    cells = "".join(f"{values[key]:{width}.{digits}f}" for key, _, width, digits in COLUMNS)
    print(f"{name[:32]:32}{cells}  {rest}", flush=True)


def values_of(line: Line) -> dict[str, float]:
    """Return the numbers of a line, its size in percent of the plain GIF's included."""
    values = {key: getattr(line, key) for key, *_ in COLUMNS if key != "percent"}
    return {**values, "percent": 100 * line.bytes / line.plain_bytes}


def clips(folder: Path, only: str) -> Iterator[tuple[Path, MediaInfo]]:
    """Yield the files that have video."""
    for path in sorted(folder.iterdir()):
        if only not in path.name:
            continue
        try:
            media = probe(path)
        except ServiceError:
            continue
        if media.video is not None:
            yield path, media


def main() -> None:
    """Measure every clip that has video and is longer than the start."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "tests" / "media")
    parser.add_argument("--fps", type=float, default=12.0)
    parser.add_argument("--width", type=int, default=480, help="at most the source's")
    parser.add_argument("--start", type=float, default=0.0, help="seconds")
    parser.add_argument("--length", type=float, default=5.0, help="seconds")
    parser.add_argument("--quick", action="store_true", help="2 seconds, 320 pixels wide")
    parser.add_argument("--only", default="", help="part of the names of the clips to take")
    options = parser.parse_args()
    settings = Settings(options.fps, options.width, options.start, options.length)
    if options.quick:
        settings = Settings(options.fps, 320, options.start, 2.0)
    print(
        f"{settings.length:g} s from {settings.start:g} s, {settings.fps:g} frames per second, "
        f"{settings.width} pixels wide; drift in frames"
    )
    print(" " * 32 + "".join(f"{title:>{width}}" for _, title, width, _ in COLUMNS))
    lines = []
    for path, media in clips(options.folder, options.only):
        try:
            line = measure(path, media, settings)
        except ServiceError as error:
            print(f"{path.name[:32]:32} {error.description}")
            continue
        lines.append(line)
        show(line.clip, values_of(line), " ".join([line.palette, *line.faults]))
    if not lines:
        sys.exit("no clips")
    every = [values_of(line) for line in lines]
    show("median", {key: statistics.median(v[key] for v in every) for key, *_ in COLUMNS}, "")
    bad = sum(bool(line.faults) for line in lines)
    print(f"worse, larger or late: {bad} of {len(lines)}")


if __name__ == "__main__":
    main()
