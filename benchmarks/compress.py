"""Measure the compressor over a folder of clips.

    python benchmarks/compress.py FOLDER [--quality 95 --quality 90] [--codec h264 --codec hevc]
        [--preset balanced] [--shortest 5] [--equal] [--times] [--others] [--curves FILE.svg]

For each clip, with each codec and at each quality: the VMAF of the delivered file (measured here
on every frame, apart from the compressor's own scoring), the 5th percentile of the VMAF of its
seconds, its size against the source, and the trials; then the medians, and how many results are
on target.

--equal adds the bytes of the video against one CRF of the same encoder and preset: at the same
mean VMAF and at the same 5th percentile, between three measured points; the difference of the
percentiles at the same mean; and over several qualities the BD-rate of each clip. The points are
kept in --cache, for they take long. --times encodes the clip plainly right after the compressor,
at the CRF that it chose, and compares the time by the clock and the CPU time. --others measures
ab-av1 and HandBrake's defaults in the same way, where they are on PATH (with --equal). --curves
draws VMAF over bytes. On a machine that is busy with other things compare CPU time, and let the
compressor, too, count that (--cpu-clock).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.rate_quality import (  # noqa: E402
    Curve,
    Encode,
    bd_rate,
    draw,
    p5_at,
    percentile,
    size_at,
)
from support.job import RealJob, probe, run_operation  # noqa: E402
from vidproc.errors import ServiceError  # noqa: E402
from vidproc.ffmpeg.binary import find_ffmpeg  # noqa: E402
from vidproc.ffmpeg.media import MediaInfo  # noqa: E402
from vidproc.operations.compress.encode import Codec, VideoEncoder, video_encoder_for  # noqa: E402
from vidproc.operations.compress.operation import CompressOperation  # noqa: E402
from vidproc.operations.parameters import Compress  # noqa: E402
from vidproc.operations.sizes import scaled  # noqa: E402

# A row of the table: the clip's name, the columns below, and notes.
Line = dict[str, Any]

CAPABILITIES = find_ffmpeg()
FFMPEG = CAPABILITIES.path
HDR = (
    "zscale=tin={transfer}:pin=2020:min=2020_ncl:rin=limited:t=linear:npl=203,format=gbrpf32le,"
    "zscale=p=bt709,tonemap=mobius:param=0.5:peak=5:desat=0,zscale=p=bt709:t=bt709:m=bt709:r=limited,"
)


def run(*arguments: str) -> str:
    """Run FFmpeg and return what it says."""
    done = subprocess.run(
        [FFMPEG, "-hide_banner", "-nostdin", "-nostats", "-y", *arguments],
        capture_output=True,
        check=True,
    )
    return done.stderr.decode(errors="replace")


def chain(media: MediaInfo, size: tuple[int, int]) -> str:
    """Return the filters that make the source what it is when shown at `size`."""
    video = media.video
    assert video is not None
    scale = f"scale={size[0]}:{size[1]}:flags=lanczos+accurate_rnd+full_chroma_int,"
    tone = ""
    if video.hdr:
        tone = "format=yuv444p10le," + HDR.format(transfer=video.color_transfer)
    return scale + tone + "format=yuv420p"


def vmaf(
    encoded: Path, source: Path, media: MediaInfo, size: tuple[int, int]
) -> tuple[float, float]:
    """Return the mean VMAF of a file against the source, frames paired by number, and the 5th
    percentile of the means of its seconds."""
    assert media.video is not None
    # Differing colour tags would make FFmpeg convert one of the two before they are compared.
    label = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    pair = f"{label},settb=1/25,setpts=N"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vmaf.csv"
        run(
            *("-i", str(encoded), "-i", str(source), "-filter_complex"),
            f"[0:v:0]scale={size[0]}:{size[1]}:flags=bicubic,format=yuv420p,{pair}[a];"
            f"[1:{media.video.index}]{chain(media, size)},{pair}[b];"
            f"[a][b]libvmaf=n_threads=4:shortest=1:log_fmt=csv:log_path={log}",
            *("-f", "null", "-"),
        )
        with log.open() as file:
            scores = [float(row["vmaf"]) for row in csv.DictReader(file)]
    step = max(1, round(media.video.frame_rate or 25.0))
    seconds = [statistics.fmean(scores[at : at + step]) for at in range(0, len(scores), step)]
    return statistics.fmean(scores), percentile(seconds, 0.05)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: by the clock, and of the CPU time of all processes that ended."""

    wall: float
    cpu: float

    def __sub__(self, other: Times) -> Times:
        return Times(self.wall - other.wall, self.cpu - other.cpu)


def used() -> Times:
    """Return the time until now."""
    times = os.times()
    return Times(time.monotonic(), times.children_user + times.children_system)


def encode(
    source: Path, media: MediaInfo, video_encoder: VideoEncoder, crf: float, into: Path
) -> Times:
    """Encode a film plainly, at one CRF, without its audio; return what it took."""
    assert media.video is not None
    size = scaled(media.video.displayed_size, 1.0)
    options = {**video_encoder.options, **video_encoder.rate(crf)}
    started = used()
    run(
        *("-i", str(source), "-filter_complex"),
        f"[0:{media.video.index}]{chain(media, size)},setsar=1[v]",
        *("-map", "[v]", "-c:v", video_encoder.encoder),
        *itertools.chain(*((f"-{name}", str(value)) for name, value in options.items())),
        *("-fps_mode", "vfr", "-enc_time_base", "1:90000", str(into)),
    )
    return used() - started


def one_crf(
    source: Path,
    media: MediaInfo,
    video_encoder: VideoEncoder,
    crf: float,
    options: argparse.Namespace,
) -> Encode:
    """Return what one CRF gives with this encoder and preset; what was measured once is kept."""
    cache: Path = options.cache
    known: dict[str, list[float]] = json.loads(cache.read_text()) if cache.is_file() else {}
    key = f"{source.name}/{source.stat().st_size}/{video_encoder.codec}/{options.preset}/{crf:g}"
    assert media.video is not None
    if key not in known:
        with tempfile.TemporaryDirectory() as folder:
            name = Path(folder) / "x.mp4"
            encode(source, media, video_encoder, crf, name)
            score, p5 = vmaf(name, source, media, scaled(media.video.displayed_size, 1.0))
            known[key] = [video_bytes(name), score, p5]
        cache.write_text(json.dumps(known))
    return Encode(*known[key])


def video_bytes(path: Path) -> int:
    """Return the bytes of the video's packets."""
    import av

    with av.open(str(path)) as container:
        return sum(packet.size for packet in container.demux(container.streams.video[0]))


def compare(line: Line, made: Encode, points: Sequence[Encode]) -> None:
    """Add to a line how an encode compares with one CRF."""
    same = size_at(points, "vmaf", made.vmaf)
    line["equal"] = 100 * made.size / same if same else None
    same = size_at(points, "p5", made.p5)
    line["equal5"] = 100 * made.size / same if same else None
    low = p5_at(points, made.vmaf)
    line["p5diff"] = made.p5 - low if low is not None else None


def measure(
    path: Path, media: MediaInfo, options: argparse.Namespace, codec: Codec, quality: float
) -> list[Line]:
    """Return the lines of a clip: the compressor's, then those of others."""
    parameters = Compress(quality=quality, codec=codec, preset=options.preset)
    assert media.video is not None
    video_encoder = video_encoder_for(codec, options.preset, CAPABILITIES, media.video)
    with tempfile.TemporaryDirectory() as folder:
        job: RealJob = RealJob(
            path, Path(folder), parameters, media=media, cpu_clock=options.cpu_clock
        )
        started = used()
        product = run_operation(CompressOperation(), job)
        took = used() - started
        found = product.details
        file = job.path_of(product.file)
        line = {
            "clip": path.name,
            "codec": codec,
            "quality": quality,
            "source": 100 * file.stat().st_size / path.stat().st_size,
            "crf": found.get("crf"),
            "target": found.get("target_score", quality),
            "predicted": found.get("predicted_score"),
            "own": found.get("measured_score"),
            "probes": found.get("probes"),
            "shots": found.get("shots"),
            "note": "",
        }
        if found["already_optimal"]:
            line["note"] = "already optimal"
            return [line]
        size = product.expectation.size or media.video.displayed_size
        score, p5 = vmaf(file, path, media, size)
        made = Encode(video_bytes(file), score, p5)
        line.update(vmaf=score, p5=p5, encode=made)
        if found.get("target_lowered"):
            line["note"] = "size rule"
        elif found.get("target_score", quality) < quality - 0.01:
            line["note"] = "the source's own score rules"
        lines = [line]
        crf = video_encoder.rounded(float(found["crf"]))
        if options.times:
            plain = encode(path, media, video_encoder, crf, Path(folder) / "plain.mp4")
            line.update(wall=took.wall / plain.wall, cpu=took.cpu / plain.cpu)
        if options.equal:
            step = 0.18 / -video_encoder.curve.size_slope  # a sixth of the bytes, about
            crfs = [video_encoder.rounded(crf + step * n) for n in (-1, 0, 1)]
            points = [one_crf(path, media, video_encoder, crf, options) for crf in crfs]
            line["points"] = points
            compare(line, made, points)
            for name, other in others(path, Path(folder), options, codec, quality):
                score, p5 = vmaf(other, path, media, size)
                theirs = Encode(video_bytes(other), score, p5)
                row: Line = {"clip": f"  {name}", "target": quality, "note": "", "other": True}
                row.update(vmaf=score, p5=p5)
                row["source"] = 100 * other.stat().st_size / path.stat().st_size
                around = reaching(score, points, crfs, path, media, video_encoder, options)
                compare(row, theirs, around)
                lines.append(row)
    return lines


def reaching(
    score: float,
    points: Sequence[Encode],
    crfs: Sequence[float],
    path: Path,
    media: MediaInfo,
    video_encoder: VideoEncoder,
    options: argparse.Namespace,
) -> list[Encode]:
    """Return the points at rising `crfs`, and beyond them those up to a score."""
    step = crfs[1] - crfs[0]
    found = list(points)
    crf = crfs[0] if score > points[0].vmaf else crfs[-1]
    for _ in range(6):
        if min(p.vmaf for p in found) <= score <= max(p.vmaf for p in found):
            break
        crf = video_encoder.rounded(crf + (-2 * step if score > points[0].vmaf else 2 * step))
        found.append(one_crf(path, media, video_encoder, crf, options))
    return found


def others(
    source: Path, folder: Path, options: argparse.Namespace, codec: Codec, quality: float
) -> list[tuple[str, Path]]:
    """Return the names and files of other compressors' results, of those that are on PATH."""
    made = []
    if options.others and shutil.which("HandBrakeCLI"):
        file = folder / "handbrake.mp4"
        # Its defaults, but for the cropping: a cropped frame can't be compared.
        command = ["HandBrakeCLI", "--crop", "0:0:0:0", "-i", str(source), "-o", str(file)]
        subprocess.run(command, capture_output=True, check=True)
        made.append(("HandBrake", file))
    if options.others and shutil.which("ab-av1"):
        file = folder / "ab-av1.mp4"
        encoder = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}[codec]
        wanted = ("--encoder", encoder, "--min-vmaf", f"{quality:g}", "--max-encoded-percent", "99")
        subprocess.run(
            ["ab-av1", "auto-encode", "-i", str(source), "-o", str(file), *wanted],
            capture_output=True,
            check=True,
            env={**os.environ, "PATH": f"{Path(FFMPEG).parent}:{os.environ['PATH']}"},
        )
        made.append(("ab-av1", file))
    return made


def curves(lines: Sequence[Line]) -> dict[tuple[str, str], Curve]:
    """Return what was measured of each clip with each codec, over all qualities."""
    found: dict[tuple[str, str], Curve] = {}
    for clip, codec in sorted({(e["clip"], e["codec"]) for e in lines if e.get("points")}):
        mine = [e for e in lines if (e["clip"], e.get("codec")) == (clip, codec) and "points" in e]
        points = {point.size: point for e in mine for point in e["points"]}
        made = [e["encode"] for e in mine]
        found[clip, codec] = Curve(clip, list(points.values()), made)
    return found


COLUMNS = (
    ("vmaf", "VMAF", 7, 2),
    ("target", "target", 7, 2),
    ("predicted", "predict", 8, 2),
    ("own", "own", 7, 2),
    ("p5", "5th", 7, 2),
    ("p5diff", "5thdiff", 8, 2),
    ("crf", "CRF", 6, 1),
    ("shots", "shots", 6, 0),
    ("source", "%source", 8, 1),
    ("equal", "%equal", 7, 1),
    ("equal5", "%eq5th", 7, 1),
    ("probes", "probes", 7, 0),
    ("wall", "time", 6, 2),
    ("cpu", "CPU", 6, 2),
)


def show(line: Line) -> None:
    """Print one line of the table."""
    cells = [f"{line['clip'][:34]:34}"]
    for key, _, width, digits in COLUMNS:
        value = line.get(key)
        cells.append(" " * (width - 1) + "-" if value is None else f"{value:{width}.{digits}f}")
    print("".join(cells), line.get("note", ""), flush=True)


def clips(options: argparse.Namespace) -> Iterator[tuple[Path, MediaInfo]]:
    """Yield the videos of the folder that are long enough."""
    for path in sorted(options.folder.iterdir()):
        if options.only not in path.name:
            continue
        try:
            media = probe(path)
        except ServiceError:
            continue
        if media.video is not None and (media.duration or 0) >= options.shortest:
            yield path, media


def summarize(lines: Sequence[Line]) -> None:
    """Print how many of the lines are on target, and the worst of them."""
    free = [line for line in lines if not line["note"] and not line.get("other")]
    misses = [line["vmaf"] - line["target"] for line in free]
    if misses:
        within = sum(-0.5 <= miss <= 1.0 for miss in misses)
        print(
            f"within -0.5 and +1.0 of the target: {within} of {len(free)} where neither the size "
            f"nor the source's own score rules; from {min(misses):+.2f} to {max(misses):+.2f}"
        )


def measure_all(options: argparse.Namespace, codec: Codec, quality: float) -> list[Line]:
    """Print the table of a codec and a quality; return its lines."""
    print(f"\n{codec} {options.preset}, quality {quality:g}")
    print(" " * 34 + "".join(f"{title:>{width}}" for _, title, width, _ in COLUMNS))
    lines: list[Line] = []
    for path, media in clips(options):
        for line in measure(path, media, options, codec, quality):
            lines.append(line)
            show(line)
    own = [line for line in lines if not line.get("other")]
    median: Line = {"clip": "median"}
    for key, *_ in COLUMNS:
        values = [line[key] for line in own if line.get(key) is not None]
        median[key] = statistics.median(values) if values else None
    show(median)
    summarize(own)
    return lines


def main() -> None:
    """Measure every clip that has a video stream and is long enough."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quality", type=float, action="append")
    parser.add_argument("--codec", action="append", choices=("h264", "hevc", "av1"))
    parser.add_argument("--preset", default="balanced", choices=("fast", "balanced", "small"))
    parser.add_argument("--shortest", type=float, default=5.0, help="seconds; shorter clips skip")
    parser.add_argument("--only", default="", help="part of the names of the clips to take")
    parser.add_argument("--equal", action="store_true", help="compare with one CRF")
    parser.add_argument("--times", action="store_true", help="compare with a plain encode's time")
    parser.add_argument("--others", action="store_true", help="with ab-av1 and HandBrake, too")
    parser.add_argument("--curves", type=Path, help="an SVG file to draw the curves into")
    parser.add_argument("--cpu-clock", action="store_true", help="the compressor counts CPU time")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "one-crf.json")
    options = parser.parse_args()
    everything: list[Line] = []
    for codec in options.codec or ["h264"]:
        for quality in options.quality or [95.0]:
            everything += measure_all(options, codec, quality)
    print()
    summarize(everything)
    drawn = curves(everything)
    for (clip, codec), curve in drawn.items():
        rate = bd_rate(curve.one_crf, curve.compressed, 85.0, 97.0)
        if rate is not None:
            print(f"BD-rate of {clip}, {codec}, from 85 to 97 as far as measured: {rate:+.1f} %")
    if options.curves and drawn:
        options.curves.write_text(draw(list(drawn.values())))


if __name__ == "__main__":
    main()
