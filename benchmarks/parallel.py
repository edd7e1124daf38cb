"""How well WebM and GIF use the cores: the service's commands compared with plain ones.

webm: 10 s at 720p with the plain command (``-c:v libvpx-vp9 -crf 30 -b:v 0``), with the service's
segments, and with the service's options as a whole. gif: the usual command with one palette, and
the service's, which tries three. Both: two tasks one after another and in parallel. All alternate;
the medians of seconds, CPU seconds, bytes and VMAF (frame by frame) are printed. Exit status 1 if
webm is less than twice as fast as the plain command, larger than 105 % or more than 0.5 VMAF worse.
Run it from a checkout: ``python -m benchmarks.parallel``.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from support.job import RealJob, probe, run_operation
from vidproc.app.measuring import usable_cores
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.ffmpeg.media import MediaInfo
from vidproc.operations import segments
from vidproc.operations.parameters import parse_parameters
from vidproc.operations.registry import get_operation

FILM = Path(__file__).parent.parent / "tests" / "media" / "cockatoo-720p-noaudio.mp4"
SECONDS = 10
WIDTH, HEIGHT = 1280, 720
FASTER, LARGER, WORSE = 2.0, 1.05, 0.5
"""The promises for webm: how many times as fast, at most how many times the bytes and points of
VMAF."""
PLAIN_WEBM = ("-c:v", "libvpx-vp9", "-crf", "30", "-b:v", "0")
PLAIN_GIF = (
    "fps=12,scale=480:-1:flags=lanczos,split[a][b];[a]palettegen=stats_mode=diff[p];"
    "[b][p]paletteuse=dither=bayer:bayer_scale=5:diff_mode=rectangle"
)

Work = Callable[[Path], list[Path]]
"""Creates files in an empty folder and returns them in order."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A film prepared for the comparison: silent, 720p, `seconds` long."""

    path: Path
    media: MediaInfo
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of one way: wall and CPU time in seconds, bytes, VMAF or None."""

    elapsed: float
    cpu: float
    size: int
    vmaf: float | None


def ffmpeg(*arguments: str | Path) -> str:
    """Run FFmpeg and return its output."""
    argv = (find_ffmpeg().path, "-nostdin", "-hide_banner", "-nostats", "-y", *map(str, arguments))
    done = subprocess.run(argv, capture_output=True, check=True)
    return done.stderr.decode(errors="replace")


def prepare(film: Path, start: float, length: float, folder: Path) -> Clip:
    """Cut the clip out of a film, almost losslessly."""
    path = folder / "clip.mp4"
    ffmpeg(
        *("-ss", str(start), "-t", str(length), "-i", film, "-map", "0:V:0"),
        *("-vf", f"scale={WIDTH}:{HEIGHT}:flags=lanczos,setsar=1", "-pix_fmt", "yuv420p"),
        *("-c:v", "libx264", "-preset", "veryfast", "-crf", "8", path),
    )
    return Clip(path, probe(path), length)


def vmaf(made: Sequence[Path], clip: Clip, every: int) -> float:
    """Return the mean VMAF of files that follow each other; frames are paired by number."""
    inputs = [part for path in (*made, clip.path) for part in ("-i", path)]
    # If colour tags differed, FFmpeg would convert one of the two before the comparison.
    label = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    label += ",settb=1/25,setpts=N"
    parts = "".join(f"[{number}:v]" for number in range(len(made)))
    graph = f"{parts}concat=n={len(made)},{label}[a];[{len(made)}:v]{label}[b];"
    graph += f"[a][b]libvmaf=n_threads={usable_cores()}:n_subsample={every}"
    said = ffmpeg(*inputs, "-lavfi", graph, "-f", "null", "-")
    found = re.search(r"VMAF score: ([0-9.]+)", said)
    if found is None:
        raise SystemExit("FFmpeg has no libvmaf")
    return float(found[1])


# The ways


def plain_webm(clip: Clip) -> Work:
    """Return the plain libvpx command."""

    def work(folder: Path) -> list[Path]:
        target = folder / "plain.webm"
        ffmpeg("-i", clip.path, *PLAIN_WEBM, target)
        return [target]

    return work


def plain_gif(clip: Clip) -> Work:
    """Return the usual GIF command: one process, one palette."""

    def work(folder: Path) -> list[Path]:
        target = folder / "plain.gif"
        ffmpeg("-i", clip.path, "-filter_complex", PLAIN_GIF, target)
        return [target]

    return work


def ours(clip: Clip, name: str, *, cut: bool = True, **fields: Any) -> Work:
    """Return what the service runs for the clip; `fields` are further parameters.

    Without `cut`, as if the clip were too short for segments.
    """
    wanted = {"start_time": 0, "duration": clip.seconds, **fields}

    def work(folder: Path) -> list[Path]:
        parameters, _ = parse_parameters(name, wanted)
        job = RealJob(
            clip.path,
            folder,
            parameters,
            ffmpeg=find_ffmpeg(),
            media=clip.media,
            threads=usable_cores(),
        )
        with patch.object(segments, "MOST", segments.MOST if cut else 1):
            product = run_operation(get_operation(name), job)
        return [folder / product.file]

    return work


def together(*works: Work, at_once: bool) -> Work:
    """Return a work that does several, at once or one after another."""

    def work(folder: Path) -> list[Path]:
        folders = [folder / str(number) for number in range(len(works))]
        for each in folders:
            each.mkdir()
        with ThreadPoolExecutor(len(works) if at_once else 1) as pool:
            made = list(pool.map(lambda pair: pair[0](pair[1]), zip(works, folders, strict=True)))
        return [path for paths in made for path in paths]

    return work


# Measuring


def take_turns(
    ways: dict[str, Work], repeat: int, scored: Clip | None = None, every: int = 1
) -> dict[str, Measured]:
    """Run each way `repeat` times in turn; the first turn's files are scored against `scored`."""
    elapsed: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    size: dict[str, int] = {}
    score: dict[str, float] = {}
    for turn in range(repeat):
        for name, work in ways.items():
            with tempfile.TemporaryDirectory(prefix="vidproc-parallel-") as folder:
                start, used = time.monotonic(), children_cpu()
                made = work(Path(folder))
                elapsed[name].append(time.monotonic() - start)
                cpu[name].append(children_cpu() - used)
                if turn == 0:
                    size[name] = sum(path.stat().st_size for path in made)
                    if scored is not None:
                        score[name] = vmaf(made, scored, every)
    return {
        name: Measured(
            statistics.median(elapsed[name]),
            statistics.median(cpu[name]),
            size[name],
            score.get(name),
        )
        for name in ways
    }


def children_cpu() -> float:
    """Return the CPU seconds of all ended children."""
    times = os.times()
    return times.children_user + times.children_system


def show(title: str, results: dict[str, Measured]) -> None:
    """Print a table; the others are compared with the first line."""
    first = next(iter(results.values()))
    print(
        f"\n{title}\n{'':28}{'seconds':>9}{'times':>7}{'CPU s':>8}{'bytes':>11}{'':>8}{'VMAF':>8}"
    )
    for name, found in results.items():
        score = "" if found.vmaf is None else f"{found.vmaf:8.2f}"
        print(
            f"{name:28}{found.elapsed:9.2f}{first.elapsed / found.elapsed:7.2f}{found.cpu:8.1f}"
            f"{found.size:11}{found.size / first.size:8.1%}{score}",
            flush=True,
        )


def compare(clip: Clip, name: str, repeat: int, every: int, side_by_side: bool) -> bool:
    """Measure one film; return whether the promises for webm hold."""
    webm = take_turns(
        {
            "plain": plain_webm(clip),
            "vidproc": ours(clip, "webm"),
            "vidproc, not cut": ours(clip, "webm", cut=False),
        },
        repeat,
        clip,
        every,
    )
    show(f"webm, {name}, {clip.seconds:.3g} s at 720p", webm)
    gif = {"plain, one palette": plain_gif(clip), "vidproc, best of three": ours(clip, "gif")}
    show(f"gif, {name}", take_turns(gif, repeat))
    if side_by_side:
        for title, work in (
            ("two GIFs", ours(clip, "gif")),
            ("two WebMs of 320x180", ours(clip, "webm", width=320)),
        ):
            ways = {
                "one after another": together(work, work, at_once=False),
                "side by side": together(work, work, at_once=True),
            }
            show(f"{title}, {name}", take_turns(ways, repeat))
    one, other = webm["plain"], webm["vidproc"]
    assert one.vmaf is not None
    assert other.vmaf is not None
    return (
        one.elapsed >= FASTER * other.elapsed
        and other.size <= LARGER * one.size
        and other.vmaf >= one.vmaf - WORSE
    )


def main() -> None:
    """Run the benchmark; exit status 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, help="turns (3; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="one turn of 8 s, VMAF in part")
    parser.add_argument("--start", type=float, default=2.0, help="seconds into the film")
    parser.add_argument("--film", type=Path, action="append", help="may be given more than once")
    options = parser.parse_args()
    repeat = options.repeat or (1 if options.quick else 3)
    length = 8 if options.quick else SECONDS
    kept = True
    print(f"{usable_cores()} cores, medians of {repeat}")
    for number, film in enumerate(options.film or [FILM]):
        with tempfile.TemporaryDirectory(prefix="vidproc-parallel-") as folder:
            clip = prepare(film, options.start, length, Path(folder))
            kept &= compare(clip, film.name, repeat, 5 if options.quick else 1, number == 0)
    print("\nthe promise holds" if kept else "\nTHE PROMISE IS BROKEN")
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
