"""How much faster two workers make a film than one, and what cutting it costs.

A worker is a local process pinned to one core, like what a `vidproc-worker` with one core runs. For
each operation a film of 60 s is made by one worker, in one piece, and by two, in segments: survey,
segments, check and join. As a yardstick, plain pinned FFmpegs encode the film one by one and two at
a time: a machine whose cores share what they have does not double. All alternate; medians are
printed, then what cutting changes: frames, VMAF, and the PSNR of the frames around the joins
against that in one piece. Exit status 1 if two workers are less than 1.75 times as fast and reach
less than 0.9 of the yardstick, if frames differ, or if VMAF differs by more than 0.3.
Run it from a checkout, on two idle cores: ``python -m benchmarks.segments``.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
from twisted.internet.defer import Deferred

from support.job import RealJob, bundled_ffmpeg, local_runner, path_of_key, probe, run_operation
from vidproc.ffmpeg.binary import FFmpeg
from vidproc.ffmpeg.command import Command, CommandStopped, Completed, OnProgress, Workspace
from vidproc.operations.parameters import parse_parameters
from vidproc.operations.registry import get_operation
from vidproc.runners.ffmpeg_process import MediaProcess

FILM = Path(__file__).parent.parent / "tests" / "media" / "cockatoo-720p-noaudio.mp4"
FASTER, OF_YARDSTICK, VMAF_OFF = 1.75, 0.9, 0.3
WIDTH, HEIGHT = 640, 360
AROUND = 3
"""Frames on each side of a join that are looked at."""


@dataclass(slots=True)
class Waiting:
    """A command that waits for a worker, or runs on one. Implements `RunningCommand`."""

    command: Command
    threads: int
    result: Deferred[Completed]
    start: Callable[[], MediaProcess]
    running: MediaProcess | None = None
    cpu_time: float = 0.0
    peak_memory: int = 0
    stopped: bool = False
    here: bool = True

    def measure(self) -> None:
        """Nothing is measured here."""

    def stop(self) -> None:
        """Stop it, or do not start it."""
        self.stopped = True
        if self.running is not None:
            self.running.stop()

    kill = stop


class PinnedWorkers:
    """A runner with one worker for each of `cores`, which are numbers of CPUs."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._local = local_runner(path_of=path_of_key)
        self._free = deque(cores)
        self._cores = len(cores)
        self._queue: deque[Waiting] = deque()
        self.running: list[Waiting] = []

    @property
    def capabilities(self) -> FFmpeg:
        """What its FFmpeg can do; a single worker makes films in one piece."""
        return replace(self._local.capabilities, spare_cores=self._cores)

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> Waiting:
        """Start a command when a worker is free."""
        waiting = Waiting(
            command, 1, Deferred(), lambda: self._local.start(command, workspace, 1, on_progress)
        )
        self._queue.append(waiting)
        self._next()
        return waiting

    def release(self, workspace: Workspace) -> None:
        """Nothing is kept for an attempt."""

    def _next(self) -> None:
        while self._queue and self._free:
            waiting = self._queue.popleft()
            if waiting.stopped:
                waiting.result.errback(CommandStopped("stopped on request"))
                continue
            core = self._free.popleft()
            self.running.append(waiting)
            process = waiting.running = waiting.start()
            if process.pid is not None:
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(process.pid, {core})
            process.result.addBoth(self._ended, waiting, core)

    def _ended(self, result: Any, waiting: Waiting, core: int) -> None:
        self.running.remove(waiting)
        self._free.append(core)
        waiting.result.callback(result)
        self._next()


def ffmpeg(*arguments: str | Path, core: int | None = None) -> subprocess.Popen[bytes]:
    """Start FFmpeg, on one core if asked."""
    argv = [bundled_ffmpeg().path, "-nostdin", "-hide_banner", "-nostats", "-y"]
    process = subprocess.Popen(
        [*argv, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    return process


def said(process: subprocess.Popen[bytes]) -> str:
    """Wait for FFmpeg; return its messages."""
    _, text = process.communicate()
    if process.returncode:
        raise RuntimeError(text.decode(errors="replace")[-2000:])
    return text.decode(errors="replace")


def prepare(seconds: float, folder: Path) -> Path:
    """Make a film with audio out of a real clip."""
    path = folder / "film.mp4"
    process = ffmpeg(
        *("-stream_loop", "-1", "-i", FILM, "-f", "lavfi", "-i", "sine=r=48000"),
        *("-t", str(seconds), "-c:v", "libx264", "-preset", "veryfast", "-crf", "18"),
        *("-c:a", "aac", "-movflags", "+faststart", path),
    )
    said(process)
    return path


@dataclass(frozen=True, slots=True)
class Made:
    """A result: how long it took in seconds, its file, and of how many segments it was made."""

    elapsed: float
    path: Path
    chunks: int
    job: RealJob


def make(operation: str, fields: dict[str, Any], film: Path, cores: Sequence[int]) -> Made:
    """Do an operation on pinned workers."""
    parameters, _ = parse_parameters(operation, fields)
    folder = Path(tempfile.mkdtemp(dir=film.parent))
    media = probe(film)
    workers = PinnedWorkers(cores)
    job = RealJob(film, folder, parameters, media=media, threads=1, runner=workers)
    begin = time.monotonic()
    product = run_operation(get_operation(operation), job)
    elapsed = time.monotonic() - begin
    return Made(elapsed, folder / product.file, int(product.details.get("chunks", 1)), job)


def plain(operation: str, film: Path, seconds: float, cores: Sequence[int]) -> float:
    """Return the seconds that plain pinned FFmpegs take for the two halves of a film."""
    encoder = {
        "resolution": ("-c:v", "libx264", "-crf", "21"),
        "webm": ("-c:v", "libvpx-vp9", "-crf", "29", "-b:v", "0", "-cpu-used", "5", "-qmin", "16"),
    }[operation]
    container = "webm" if operation == "webm" else "mp4"

    def start(half: int, core: int) -> subprocess.Popen[bytes]:
        return ffmpeg(
            *("-ss", str(half * seconds / 2), "-t", str(seconds / 2), "-threads", "1", "-i", film),
            *("-an", "-vf", f"scale={WIDTH}:{HEIGHT}:flags=lanczos", *encoder, "-threads", "1"),
            film.parent / f"plain-{half}.{container}",
            core=core,
        )

    begin = time.monotonic()
    if len(cores) == 1:
        for half in (0, 1):
            said(start(half, cores[0]))
    else:
        for process in [start(half, core) for half, core in enumerate(cores)]:
            said(process)
    return time.monotonic() - begin


# What cutting changes


def frame_times(path: Path) -> list[float]:
    """Return the times of a video's frames, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stamps = [p.pts for p in container.demux(stream) if p.pts is not None]
        assert stream.time_base is not None
        return sorted(float(stamp * stream.time_base) for stamp in stamps)


def compared(path: Path, film: Path) -> tuple[float, list[float]]:
    """Return the VMAF of a result against its source, and the PSNR of each frame in dB."""
    stats = path.parent / "psnr.log"
    graph = (
        "[0:v]settb=1/25,setpts=N,split[a][b];"
        f"[1:v]scale={WIDTH}:{HEIGHT}:flags=lanczos+accurate_rnd+full_chroma_int,"
        "settb=1/25,setpts=N,split[c][d];"
        "[a][c]libvmaf=shortest=1:n_threads=2[vmaf];"
        f"[b][d]psnr=shortest=1:stats_file={stats.name}[psnr]"
    )
    argv = [bundled_ffmpeg().path, "-nostdin", "-hide_banner", "-nostats", "-i", str(path)]
    argv += ["-i", str(film), "-filter_complex", graph]
    argv += ["-map", "[vmaf]", "-map", "[psnr]", "-f", "null", "-"]
    done = subprocess.run(argv, capture_output=True, cwd=path.parent, check=True)
    found = re.search(rb"VMAF score: ([0-9.]+)", done.stderr)
    assert found is not None, done.stderr[-2000:]
    frames = re.findall(r"psnr_avg:([0-9.]+|inf)", stats.read_text())
    return float(found[1]), [min(float(each), 100.0) for each in frames]


def joins(made: Made) -> list[int]:
    """Return the number of the first frame of each segment but the first."""
    times = frame_times(made.path)
    starts = sorted(command.part.start for command in made.job.commands if command.part is not None)
    begins = []
    for command in made.job.commands:
        for name, contents in command.files:
            if name.endswith(".ffconcat"):
                lengths = [int(n) for n in re.findall(rb"duration (\d+)us", contents)]
                begins = [sum(lengths[: n + 1]) / 1e6 for n in range(len(lengths))]
    assert len(begins) == len(starts) - 1
    return [min(range(len(times)), key=lambda n: abs(times[n] - begin)) for begin in begins]


def report(operation: str, cut: Made, whole: Made, film: Path) -> bool:
    """Print what cutting changes; return whether that is as little as it must be."""
    one, other = frame_times(cut.path), frame_times(whole.path)
    same = len(one) == len(other)
    off = max(abs(a - b) for a, b in zip(one, other, strict=False))
    vmaf, psnr = compared(cut.path, film)
    vmaf_whole, psnr_whole = compared(whole.path, film)
    print(
        f"{operation}: {cut.chunks} segments; {len(one)} frames, {len(other)} in one piece; times"
        f" differ by {1000 * off:.3f} ms at most; VMAF {vmaf:.2f} and {vmaf_whole:.2f};"
        f" {100 * cut.path.stat().st_size / whole.path.stat().st_size:.1f} % of the bytes"
    )
    worst = 0.0
    for join in joins(cut):
        around = slice(max(0, join - AROUND), join + AROUND)
        difference = statistics.mean(psnr[around]) - statistics.mean(psnr_whole[around])
        worst = min(worst, difference)
    print(f"{operation}: PSNR around the joins: {worst:+.2f} dB at worst, against one piece")
    return same and abs(vmaf - vmaf_whole) <= VMAF_OFF


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the film")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--operations", nargs="+", default=["resolution", "webm"])
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        print("this needs two cores", file=sys.stderr)
        return 2
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")
    good = True
    with tempfile.TemporaryDirectory() as name:
        film = prepare(options.seconds, Path(name))
        for operation in options.operations:
            fields: dict[str, Any] = {"width": WIDTH, "height": HEIGHT}
            if operation == "webm":
                fields = {"start_time": 0, "duration": options.seconds, "width": WIDTH}
            times: dict[str, list[float]] = {
                kind: [] for kind in ("one", "two", "plain one", "plain two")
            }
            for _ in range(options.runs):
                whole = make(operation, fields, film, cores[:1])
                cut = make(operation, fields, film, cores)
                times["one"].append(whole.elapsed)
                times["two"].append(cut.elapsed)
                for kind, used in (("plain one", cores[:1]), ("plain two", cores)):
                    times[kind].append(plain(operation, film, options.seconds, used))
            middle = {kind: statistics.median(values) for kind, values in times.items()}
            faster = middle["one"] / middle["two"]
            yardstick = middle["plain one"] / middle["plain two"]
            print(
                f"{operation}: one worker {middle['one']:.2f} s, two {middle['two']:.2f} s:"
                f" {faster:.2f} times as fast; plain FFmpegs {middle['plain one']:.2f} s and"
                f" {middle['plain two']:.2f} s: {yardstick:.2f}"
            )
            good &= faster >= min(FASTER, OF_YARDSTICK * yardstick)
            good &= report(operation, cut, whole, film)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
