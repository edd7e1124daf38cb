"""Measure the compressor over a folder of clips.

    python benchmarks/compress.py FOLDER [--quality 95 --quality 90] [--codec h264]
        [--preset balanced] [--shortest 5] [--equal] [--cpu-clock]

For each clip and for the median: the VMAF of the delivered file (measured here, picture by
picture, apart from the compressor's own scoring), its size against the source and against
libx264 medium at CRF 23, the probes, and search time against encode time. With --equal also its
size against libx264 medium at the CRF that gives the same VMAF, between four measured points.
The points are kept in --cache, for they take long. On a machine that is busy with other things
--cpu-clock makes the compressor reckon, and this report, in CPU time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from support.job import RealJob, probe, run_operation  # noqa: E402
from vidproc.errors import ServiceError  # noqa: E402
from vidproc.ffmpeg.binary import find_ffmpeg  # noqa: E402
from vidproc.ffmpeg.media import MediaInfo  # noqa: E402
from vidproc.operations.compress.operation import CompressOperation  # noqa: E402
from vidproc.operations.parameters import Compress  # noqa: E402
from vidproc.operations.sizes import scaled  # noqa: E402

FFMPEG = find_ffmpeg().path
CURVE = (19, 23, 27, 31)
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


def vmaf(encoded: Path, source: Path, media: MediaInfo, size: tuple[int, int]) -> float:
    """Return the mean VMAF of a file against the source, pictures paired by number."""
    assert media.video is not None
    # Differing colour tags would make FFmpeg convert one of the two before they are compared.
    label = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    pair = f"{label},settb=1/25,setpts=N"
    text = run(
        *("-i", str(encoded), "-i", str(source), "-filter_complex"),
        f"[0:v:0]scale={size[0]}:{size[1]}:flags=bicubic,format=yuv420p,{pair}[a];"
        f"[1:{media.video.index}]{chain(media, size)},{pair}[b];"
        "[a][b]libvmaf=n_threads=4:shortest=1",
        *("-f", "null", "-"),
    )
    return float(re.findall(r"VMAF score: ([0-9.]+)", text)[-1])


def curve(source: Path, media: MediaInfo, cache: Path) -> dict[int, tuple[float, int]]:
    """Return CRF -> (VMAF, bytes of the picture) of libx264 medium."""
    known: dict[str, Any] = json.loads(cache.read_text()) if cache.is_file() else {}
    key = f"{source.name}/{source.stat().st_size}"
    assert media.video is not None
    size = scaled(media.video.displayed_size, 1.0)
    for crf in CURVE:
        if str(crf) in known.setdefault(key, {}):
            continue
        with tempfile.TemporaryDirectory() as folder:
            name = Path(folder) / "x.mp4"
            run(
                *("-i", str(source), "-filter_complex"),
                f"[0:{media.video.index}]{chain(media, size)},setsar=1[v]",
                *("-map", "[v]", "-c:v", "libx264", "-preset", "medium", "-crf", str(crf)),
                *("-fps_mode", "vfr", "-enc_time_base", "1:90000", str(name)),
            )
            known[key][str(crf)] = (vmaf(name, source, media, size), picture_bytes(name))
        cache.write_text(json.dumps(known))
    return {int(crf): tuple(point) for crf, point in known[key].items()}  # type: ignore[misc]


def picture_bytes(path: Path) -> int:
    """Return the bytes of the picture's packets."""
    import av

    with av.open(str(path)) as container:
        return sum(packet.size for packet in container.demux(container.streams.video[0]))


def equal_bytes(points: dict[int, tuple[float, int]], score: float) -> float | None:
    """Return the bytes of libx264 medium at a VMAF score, between its measured points."""
    ordered = sorted(points.values())
    if not ordered[0][0] <= score <= ordered[-1][0]:
        return None
    for (low, small), (high, large) in itertools.pairwise(ordered):
        if score <= high:
            part = (score - low) / max(high - low, 1e-6)
            return math.exp(math.log(small) + part * math.log(large / small))
    return None


def measure(path: Path, media: MediaInfo, options: argparse.Namespace, quality: float) -> dict:
    """Return one line of the table."""
    parameters = Compress(quality=quality, codec=options.codec, preset=options.preset)
    assert media.video is not None
    with tempfile.TemporaryDirectory() as folder:
        job: RealJob = RealJob(
            path, Path(folder), parameters, media=media, cpu_clock=options.cpu_clock
        )
        product = run_operation(CompressOperation(), job)
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
            "search": None,
            "note": "",
        }
        if found["already_optimal"]:
            line["note"] = "already optimal"
            return line
        size = product.expectation.size or media.video.displayed_size
        line["vmaf"] = vmaf(file, path, media, size)
        line["search"] = 100 * found["search_time"] / found["encode_time"]
        line["note"] = "size rule" if found.get("target_lowered") else ""
        if options.equal:
            points = curve(path, media, options.cache)
            written = picture_bytes(file)
            line["crf23"] = 100 * written / points[23][1]
            same = equal_bytes(points, line["vmaf"])
            line["equal"] = 100 * written / same if same else None
    return line


COLUMNS = (
    ("vmaf", "VMAF", 7, 2),
    ("target", "target", 7, 2),
    ("predicted", "predict", 8, 2),
    ("own", "own", 7, 2),
    ("crf", "CRF", 6, 1),
    ("source", "%source", 8, 1),
    ("crf23", "%CRF23", 7, 1),
    ("equal", "%equal", 7, 1),
    ("probes", "probes", 7, 0),
    ("search", "search%", 8, 0),
)


def show(line: dict) -> None:
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
    parser.add_argument("--equal", action="store_true", help="compare at equal VMAF, and CRF 23")
    parser.add_argument("--cpu-clock", action="store_true", help="times are CPU times")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "x264.json")
    options = parser.parse_args()
    for quality in options.quality or [95.0]:
        print(f"\n{options.codec} {options.preset}, quality {quality:g}")
        print(" " * 34 + "".join(f"{title:>{width}}" for _, title, width, _ in COLUMNS))
        lines = []
        for path in sorted(options.folder.iterdir()):
            if options.only not in path.name:
                continue
            try:
                media = probe(path)
            except ServiceError:
                continue
            if media.video is None or (media.duration or 0) < options.shortest:
                continue
            lines.append(measure(path, media, options, quality))
            show(lines[-1])
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


if __name__ == "__main__":
    main()
