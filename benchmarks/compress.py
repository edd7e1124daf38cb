"""Measure the compressor over a folder of clips.

    python benchmarks/compress.py FOLDER [--quality 95 --quality 90] [--codec h264]
        [--preset balanced] [--shortest 5] [--equal] [--others] [--curves FILE.svg] [--cpu-clock]

For each clip and for the median: the VMAF of the delivered file (measured here on every frame,
apart from the compressor's own scoring), the 5th percentile of the VMAF of its seconds, its size
against the source, the trials, and the time of everything against a plain encode at the same CRF.

With --equal, also the bytes of the video against one CRF of the same encoder and preset: at the
same mean VMAF, and at the same 5th percentile, between three measured points; the difference of
the percentiles at the same mean; and over several qualities the BD-rate, the mean difference of
the bytes at equal VMAF. The points are kept in --cache, for they take long. --others measures
ab-av1 and HandBrake's defaults in the same way, where they are on PATH. --curves draws VMAF over
bytes. On a machine that is busy with other things --cpu-clock makes the compressor, and this
report, count CPU time.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from support.job import RealJob, probe, run_operation  # noqa: E402
from vidproc.errors import ServiceError  # noqa: E402
from vidproc.ffmpeg.binary import find_ffmpeg  # noqa: E402
from vidproc.ffmpeg.media import MediaInfo  # noqa: E402
from vidproc.operations.compress.encode import Coder, coder_for  # noqa: E402
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


def percentile(values: list[float], part: float) -> float:
    """Return the value that `part` (0 to 1) of the values are under, between two of them."""
    ordered = sorted(values)
    at = part * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def one_crf(
    source: Path, media: MediaInfo, coder: Coder, crf: float, options: argparse.Namespace
) -> dict[str, float]:
    """Return what one CRF gives with this encoder and preset: VMAF, 5th percentile, bytes of the
    video, and the time that the encode took."""
    cache: Path = options.cache
    known: dict[str, Any] = json.loads(cache.read_text()) if cache.is_file() else {}
    key = f"{source.name}/{source.stat().st_size}/{coder.codec}/{options.preset}/{crf:g}"
    assert media.video is not None
    size = scaled(media.video.displayed_size, 1.0)
    if key not in known:
        with tempfile.TemporaryDirectory() as folder:
            name = Path(folder) / "x.mp4"
            started = now(options)
            run(
                *("-i", str(source), "-filter_complex"),
                f"[0:{media.video.index}]{chain(media, size)},setsar=1[v]",
                *("-map", "[v]", "-c:v", coder.encoder, "-crf", f"{crf:g}"),
                *itertools.chain(*((f"-{k}", str(v)) for k, v in coder.options.items())),
                *("-fps_mode", "vfr", "-enc_time_base", "1:90000", str(name)),
            )
            took = now(options) - started
            mean, low = vmaf(name, source, media, size)
            known[key] = {
                "vmaf": mean,
                "p5": low,
                "bytes": video_bytes(name),
                "time": took,
            }
        cache.write_text(json.dumps(known))
    found: dict[str, float] = known[key]
    return found


def now(options: argparse.Namespace) -> float:
    """Return the seconds of the clock that counts."""
    if not options.cpu_clock:
        return time.monotonic()
    used = os.times()
    return used.children_user + used.children_system


def video_bytes(path: Path) -> int:
    """Return the bytes of the video's packets."""
    import av

    with av.open(str(path)) as container:
        return sum(packet.size for packet in container.demux(container.streams.video[0]))


def between(points: list[dict[str, float]], key: str, value: float, wanted: str) -> float | None:
    """Return `wanted` where `key` has a value, between two points (bytes: of their logarithms);
    None outside of them."""
    ordered = sorted(points, key=lambda point: point[key])
    for low, high in itertools.pairwise(ordered):
        if low[key] <= value <= high[key]:
            part = (value - low[key]) / max(high[key] - low[key], 1e-6)
            if wanted == "bytes":
                return low[wanted] * math.exp(part * math.log(high[wanted] / low[wanted]))
            return low[wanted] + part * (high[wanted] - low[wanted])
    return None


def compare(line: Line, file: Path, points: list[dict[str, float]]) -> None:
    """Add to a line how its file compares with one CRF."""
    written = video_bytes(file)
    line["bytes"] = written
    same = between(points, "vmaf", line["vmaf"], "bytes")
    line["equal"] = 100 * written / same if same else None
    same = between(points, "p5", line["p5"], "bytes")
    line["equal5"] = 100 * written / same if same else None
    low = between(points, "vmaf", line["vmaf"], "p5")
    line["p5diff"] = line["p5"] - low if low is not None else None


def measure(
    path: Path, media: MediaInfo, options: argparse.Namespace, quality: float
) -> list[Line]:
    """Return the lines of a clip: the compressor's, then those of others."""
    parameters = Compress(quality=quality, codec=options.codec, preset=options.preset)
    assert media.video is not None
    coder = coder_for(options.codec, options.preset, CAPABILITIES, media.video)
    with tempfile.TemporaryDirectory() as folder:
        job: RealJob = RealJob(
            path, Path(folder), parameters, media=media, cpu_clock=options.cpu_clock
        )
        started = now(options)
        product = run_operation(CompressOperation(), job)
        took = now(options) - started
        found = product.details
        file = job.path_of(product.file)
        line = {
            "clip": path.name,
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
        line["vmaf"], line["p5"] = vmaf(file, path, media, size)
        line["note"] = "size rule" if found.get("target_lowered") else ""
        lines = [line]
        if options.equal:
            middle = coder.rounded(float(found["crf"]))
            step = 2.0 if coder.curve.step >= 1 else 1.5
            crfs = [coder.rounded(middle + step * n) for n in (-1, 0, 1)]
            points = [one_crf(path, media, coder, crf, options) for crf in crfs]
            line["wall"] = took / points[1]["time"]
            line["points"] = points
            compare(line, file, points)
            for name, made in others(path, Path(folder), options, quality):
                other = {"clip": f"  {name}", "target": quality, "note": "", "other": True}
                other["vmaf"], other["p5"] = vmaf(made, path, media, size)
                other["source"] = 100 * made.stat().st_size / path.stat().st_size
                compare(other, made, points)
                lines.append(other)
    return lines


def others(
    source: Path, folder: Path, options: argparse.Namespace, quality: float
) -> list[tuple[str, Path]]:
    """Return the names and files of other compressors' results, of those that are on PATH."""
    made = []
    if options.others and shutil.which("HandBrakeCLI"):
        file = folder / "handbrake.mp4"
        subprocess.run(
            ["HandBrakeCLI", "-i", str(source), "-o", str(file)], capture_output=True, check=True
        )
        made.append(("HandBrake", file))
    if options.others and shutil.which("ab-av1"):
        file = folder / "ab-av1.mp4"
        encoder = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}[options.codec]
        wanted = ("--encoder", encoder, "--min-vmaf", f"{quality:g}", "--max-encoded-percent", "99")
        subprocess.run(
            ["ab-av1", "auto-encode", "-i", str(source), "-o", str(file), *wanted],
            capture_output=True,
            check=True,
            env={**os.environ, "PATH": f"{Path(FFMPEG).parent}:{os.environ['PATH']}"},
        )
        made.append(("ab-av1", file))
    return made


def draw(lines: list[Line], file: Path) -> None:
    """Draw VMAF over the bytes at one CRF of the nearest measured point, a curve for each clip."""
    clips = sorted({line["clip"] for line in lines if line.get("points")})
    colours = ("#1b6ca8", "#c0392b", "#27864c", "#8e44ad", "#b9770e", "#34495e")
    low, high = 80.0, 100.0
    sizes = [p["bytes"] for line in lines for p in line.get("points", [])]
    if not sizes:
        return
    left, right = math.log(min(sizes)), math.log(max(sizes))

    def at(size: float, score: float) -> str:
        x = 60 + 560 * (math.log(size) - left) / max(right - left, 1e-6)
        return f"{x:.1f},{340 - 310 * (score - low) / (high - low):.1f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="880" height="390" font-family="sans-serif"'
        ' font-size="12"><rect width="880" height="390" fill="white"/>'
    ]
    for score in (80, 85, 90, 95, 100):
        y = 340 - 310 * (score - low) / (high - low)
        parts.append(
            f'<path d="M60 {y}H620" stroke="#ddd"/><text x="30" y="{y + 4}">{score}</text>'
        )
    parts.append('<text x="60" y="375">bytes of the video (logarithmic); VMAF upwards. ')
    parts.append("Lines: one CRF. Dots: the compressor.</text>")
    for number, clip in enumerate(clips):
        colour = colours[number % len(colours)]
        mine = [line for line in lines if line["clip"] == clip and line.get("points")]
        curve = sorted({(p["bytes"], p["vmaf"]) for line in mine for p in line["points"]})
        path = " ".join(at(*point) for point in curve)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        for line in mine:
            left_edge, top = at(line["bytes"], line["vmaf"]).split(",")
            parts.append(f'<circle cx="{left_edge}" cy="{top}" r="4" fill="{colour}"/>')
        label = f'<text x="640" y="{40 + 18 * number}" fill="{colour}">{clip}</text>'
        parts.append(label)
    file.write_text("".join([*parts, "</svg>\n"]))


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
)


def show(line: Line) -> None:
    """Print one line of the table."""
    cells = [f"{line['clip'][:34]:34}"]
    for key, _, width, digits in COLUMNS:
        value = line.get(key)
        cells.append(" " * (width - 1) + "-" if value is None else f"{value:{width}.{digits}f}")
    print("".join(cells), line.get("note", ""), flush=True)


def main() -> None:
    """Measure every clip that has a picture and is long enough."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quality", type=float, action="append")
    parser.add_argument("--codec", default="h264", choices=("h264", "hevc", "av1"))
    parser.add_argument("--preset", default="balanced", choices=("fast", "balanced", "small"))
    parser.add_argument("--shortest", type=float, default=5.0, help="seconds; shorter clips skip")
    parser.add_argument("--only", default="", help="part of the names of the clips to take")
    parser.add_argument("--equal", action="store_true", help="compare with one CRF")
    parser.add_argument("--others", action="store_true", help="with ab-av1 and HandBrake, too")
    parser.add_argument("--curves", type=Path, help="an SVG file to draw the curves into")
    parser.add_argument("--cpu-clock", action="store_true", help="times are CPU times")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "one-crf.json")
    options = parser.parse_args()
    everything: list[Line] = []
    for quality in options.quality or [95.0]:
        print(f"\n{options.codec} {options.preset}, quality {quality:g}")
        print(" " * 34 + "".join(f"{title:>{width}}" for _, title, width, _ in COLUMNS))
        lines: list[Line] = []
        for path in sorted(options.folder.iterdir()):
            if options.only not in path.name:
                continue
            try:
                media = probe(path)
            except ServiceError:
                continue
            if media.video is None or (media.duration or 0) < options.shortest:
                continue
            for line in measure(path, media, options, quality):
                lines.append(line)
                show(line)
        everything += lines
        lines = [line for line in lines if not line.get("other")]
        if not lines:
            continue
        median: dict[str, Any] = {"clip": "median"}
        for key, *_ in COLUMNS:
            values = [line[key] for line in lines if line.get(key) is not None]
            median[key] = statistics.median(values) if values else None
        show(median)
        ruled = [line for line in lines if not line["note"]]
        within = sum(-0.5 <= line["vmaf"] - line["target"] <= 1.0 for line in ruled)
        print(f"within -0.5 and +1.0 of the target: {within} of {len(ruled)} not size-ruled")
    ratios = [
        math.log(e["equal"] / 100) for e in everything if e.get("equal") and not e.get("other")
    ]
    if ratios and len(options.quality or []) > 1:
        bd_rate = 100 * (math.exp(statistics.fmean(ratios)) - 1)
        print(f"\nBD-rate over these qualities: {bd_rate:+.1f} %")
    if options.curves:
        draw(everything, options.curves)


if __name__ == "__main__":
    main()
