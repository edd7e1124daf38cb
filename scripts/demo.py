"""Start a service, run all six operations on a real clip, and check the results.

    python scripts/demo.py

Starts `twistd -n vidproc` on a free loopback port with a fresh data folder, runs the command-line
client once per operation, decodes each result, prints a table and stops the service. The results
stay in demo-output/. Exit status 0 only if all six are valid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import av

from vidproc.units import format_duration, format_size

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "tests" / "media" / "flower-540p-aac.mp4"
RESULTS = ROOT / "demo-output"

HOST = "127.0.0.1"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0
CLIENT_TIMEOUT = 900.0


@dataclass(frozen=True)
class Step:
    """One operation and its expected result. Durations in seconds, sizes in pixels."""

    operation: str
    options: tuple[str, ...]
    kind: str
    duration: float | None = None
    size: tuple[int, int] | None = None
    shape: float | None = None
    video: bool = True
    audio: bool = True
    smaller: bool = False

    @property
    def result(self) -> Path:
        return RESULTS / f"{CLIP.stem}-{self.operation}.{self.kind}"


STEPS = (
    Step("compress", (), "mp4", smaller=True),
    Step("resolution", ("--width", "640", "--height", "360"), "mp4", size=(640, 360)),
    Step("aspect_ratio", ("--aspect-ratio", "4:3"), "mp4", shape=4 / 3),
    Step("extract_audio", (), "mp3", video=False),
    Step("gif", ("--start-time", "0", "--duration", "5"), "gif", duration=5.0, audio=False),
    Step("webm", ("--start-time", "0", "--duration", "4"), "webm", duration=4.0),
)


class Invalid(Exception):
    """A result is not what it should be."""


@dataclass(frozen=True)
class Media:
    """Properties of a completely decoded file."""

    width: int
    height: int
    duration: float
    video: bool
    audio: bool

    @property
    def frame_size(self) -> str:
        return f"{self.width}x{self.height}" if self.video else "-"


def decode(path: Path) -> Media:
    """Decode every frame of a file; raises `Invalid` if that fails."""
    width = height = 0
    end = {"video": 0.0, "audio": 0.0}
    try:
        with av.open(str(path)) as container:
            streams = [*container.streams.video[:1], *container.streams.audio[:1]]
            for frame in container.decode(*streams):
                length = 0.0
                if isinstance(frame, av.VideoFrame):
                    width, height = frame.width, frame.height
                    if frame.duration and frame.time_base:
                        length = float(frame.duration * frame.time_base)
                elif isinstance(frame, av.AudioFrame):
                    length = frame.samples / frame.sample_rate
                else:
                    continue
                medium = "video" if isinstance(frame, av.VideoFrame) else "audio"
                end[medium] = max(end[medium], (frame.time or 0.0) + length)
            aspect = (
                getattr(container.streams.video[0], "sample_aspect_ratio", None) if width else 1
            )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise Invalid(f"it cannot be decoded: {error}") from error
    return Media(
        width=round(width * float(aspect or 1)),
        height=height,
        duration=max(end.values()),
        video=width > 0,
        audio=end["audio"] > 0,
    )


def check(step: Step, source: Media) -> Media:
    """Return the properties of the result; raises `Invalid` if they are not as requested."""
    if not step.result.is_file():
        raise Invalid("there is no result")
    found = decode(step.result)
    if found.video != step.video:
        raise Invalid("it has no video" if step.video else "it has video")
    if step.audio and not found.audio:
        raise Invalid("it has no audio")
    wanted = step.duration or source.duration
    if abs(found.duration - wanted) > 0.5:
        raise Invalid(f"it lasts {found.duration:.2f} s instead of {wanted:.2f} s")
    if step.size and (found.width, found.height) != step.size:
        raise Invalid(
            f"its frame size is {found.frame_size} instead of {step.size[0]}x{step.size[1]}"
        )
    if step.shape and abs(found.width - found.height * step.shape) > 2:
        raise Invalid(f"its frame size is {found.frame_size}, not the requested aspect ratio")
    if step.smaller and step.result.stat().st_size > CLIP.stat().st_size:
        raise Invalid("it is larger than the source")
    return found


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def tail(path: Path, lines: int = 20) -> str:
    """Return the last lines of a text file; empty if there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


class ServerFailed(Exception):
    """The service did not start."""


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[int]:
    """Run the service with its files in `folder`; the value is its port. Always stops it."""
    twistd = Path(sys.executable).with_name("twistd")
    if not twistd.exists():
        print(f"There is no {twistd}; install vidproc first: make setup", file=sys.stderr)
        raise ServerFailed
    port = free_port()
    output = folder / "twistd.out"
    with output.open("wb") as stream:
        server = subprocess.Popen(
            [
                str(twistd),
                "--nodaemon",
                "--pidfile=",
                "vidproc",
                f"--port=tcp:{port}:interface={HOST}",
                f"--data-dir={folder / 'data'}",
                f"--log-dir={folder / 'logs'}",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # In its own process group: Ctrl-C reaches only us, and we stop it gracefully.
            start_new_session=True,
        )
    try:
        wait_until_up(server, port)
        yield port
    except ServerFailed as error:
        print(f"The service did not run: {error}", file=sys.stderr)
        print(tail(output), file=sys.stderr)
        print(tail(folder / "logs" / "server.log"), file=sys.stderr)
        raise
    finally:
        stop(server)


def wait_until_up(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the service takes connections. Raises `ServerFailed` if it never does."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerFailed(f"twistd ended with status {server.returncode}; it said:")
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise ServerFailed(f"the service did not open its port in {START_TIMEOUT:.0f} s; it said:")


def stop(server: subprocess.Popen[bytes]) -> None:
    """Stop the service gracefully, or kill it if that takes too long."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            print("The service does not stop; killing it.", file=sys.stderr)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def run_client(step: Step, port: int, logs: Path) -> None:
    """Run the real client as a person would. Raises `Invalid` if it fails."""
    command = [
        *(sys.executable, "-m", "vidproc.client", str(CLIP), "--type", step.operation),
        *step.options,
        *("--output", str(step.result), "--host", HOST, "--port", str(port)),
        *("--check-interval", "2", "--log-dir", str(logs)),
    ]
    try:
        status = subprocess.run(command, timeout=CLIENT_TIMEOUT, check=False).returncode
    except subprocess.TimeoutExpired:
        raise Invalid(f"the client took more than {format_duration(CLIENT_TIMEOUT)}") from None
    if status:
        raise Invalid(f"the client ended with status {status}")


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows of cells, with the heading first; names are on the left, figures on the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def main() -> int:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    source = decode(CLIP)
    RESULTS.mkdir(exist_ok=True)
    for step in STEPS:
        step.result.unlink(missing_ok=True)
    size_in = format_size(CLIP.stat().st_size)
    rows: list[tuple[str, ...]] = [
        ("operation", "time", "size in", "size out", "frame size", "duration")
    ]
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vidproc-demo-") as folder:
        try:
            with running_server(Path(folder)) as port:
                print(f"The service runs on {HOST}, port {port}.")
                print(f"The clip: {CLIP.name}, {size_in}, {source.frame_size}.", flush=True)
                for number, step in enumerate(STEPS, 1):
                    print(f"\n[{number}/{len(STEPS)}] {step.operation} {' '.join(step.options)}")
                    sys.stdout.flush()
                    started = time.monotonic()
                    try:
                        run_client(step, port, Path(folder) / "logs")
                        elapsed = time.monotonic() - started
                        found = check(step, source)
                    except Invalid as error:
                        problems.append(f"{step.operation}: {error}")
                        rows.append((step.operation, "failed", size_in, "-", "-", "-"))
                        continue
                    size_out = format_size(step.result.stat().st_size)
                    rows.append(
                        (
                            step.operation,
                            f"{elapsed:.1f} s",
                            size_in,
                            size_out,
                            found.frame_size,
                            f"{found.duration:.2f} s",
                        )
                    )
                if problems:
                    print("\nThe end of the service's logs:", file=sys.stderr)
                    for name in ("server.log", "video_processor.log"):
                        print(tail(Path(folder) / "logs" / name), file=sys.stderr)
        except ServerFailed:
            return 1
        except KeyboardInterrupt:
            print("\nInterrupted; the service is stopped.", file=sys.stderr)
            return 130
    print()
    print_table(rows)
    print()
    for problem in problems:
        print(f"Not valid: {problem}", file=sys.stderr)
    if problems:
        return 1
    print(f"All {len(STEPS)} results are valid. They are in {RESULTS.name}/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
