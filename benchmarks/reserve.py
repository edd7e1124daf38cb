"""Packet rate and CPU reserve at the same time.

Uploads saturate the server with sends of 1,400 bytes from several loopback addresses while encodes
run one after another from two more. Once a second it measures the packets that arrived and FFmpeg's
share of the CPU time; the load generators' own CPU time is subtracted. Prints the worst 10 s window
of both, and plots them if matplotlib is installed (``pip install -e ".[bench]"``).

    python -m benchmarks.reserve --seconds 60 --plot docs/reserve.png
    python -m benchmarks.reserve --seconds 60 --http
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.memory import peak_memory
from support.http_server import HTTPServerProcess
from support.server_process import PlainClient, ServerProcess, receive, send
from vidproc.app.measuring import usable_cores
from vidproc.mmp.codec import encode_head
from vidproc.units import format_size

PACKET = 1400
WINDOW = 10
FILM = Path(__file__).parent.parent / "tests" / "media" / "cockatoo-720p-noaudio.mp4"
UPLOAD_SIZE = 1 << 30


MMP_HEAD = encode_head(b'{"action":"upload","type":"extract_audio"}', "mp4", UPLOAD_SIZE)
HTTP_HEAD = (
    "PUT /api/v1/tasks?type=extract_audio HTTP/1.1\r\nHost: localhost\r\n"
    f"Content-Length: {UPLOAD_SIZE}\r\nConnection: close\r\n\r\n"
).encode()


def flood(port: int, address: str, head: bytes, sent: Any, stop: Any) -> None:
    """Upload endlessly from `address`, in sends of 1,400 bytes after `head`."""
    packet = bytes(PACKET)
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), source_address=(address, 0)) as s:
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                s.settimeout(5)
                s.sendall(head)
                for number in range(UPLOAD_SIZE // PACKET):
                    s.sendall(packet)
                    sent.value += 1
                    if number % 256 == 0 and stop.is_set():
                        return
                s.sendall(bytes(UPLOAD_SIZE % PACKET))
                if not s.recv(1):
                    raise ConnectionError("no answer")
            time.sleep(0.2)  # until its task has failed and its slot is free
        except OSError:
            time.sleep(0.1)


def encode(port: int, address: str, film: bytes, stop: threading.Event, done: list[int]) -> None:
    """Have `film` encoded again and again, from `address`."""
    client = PlainClient(port, address)
    request = {
        "action": "upload",
        "type": "resolution",
        "parameters": {"width": 1280, "height": 720, "fit": "stretch"},
    }
    while not stop.is_set():
        try:
            accepted, _, _ = client.request(request, film, "mp4")
            watch = {"action": "watch", "task_id": accepted["task_id"], "interval": 60}
            with client.connect() as connection:
                send(connection, watch)
                while receive(connection)[0]["status"] in ("queued", "processing"):
                    pass
        except OSError:
            if not stop.is_set():  # otherwise the server was stopped
                raise
            return
        done[0] += 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One second: packets that arrived, FFmpeg's and the service's shares of the CPU time."""

    packets: float
    ffmpeg: float
    service: float


def cpu_of_children(server: psutil.Process) -> float:
    """Return the CPU seconds of a server's ended and running children."""
    times = server.cpu_times()
    total = times.children_user + times.children_system
    for child in server.children(recursive=True):
        try:
            running = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += running.user + running.system
        total += running.children_user + running.children_system  # those of the fork server
    return float(total)


def cpu_of(process: psutil.Process) -> float:
    """Return the CPU seconds of one process without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(
    server: ServerProcess, generators: list[psutil.Process], seconds: int, sent: Any
) -> list[Sample]:
    """Take a sample every second."""
    process = psutil.Process(server.pid)
    cores = usable_cores()

    def totals() -> tuple[float, float, float, float, float]:
        return (
            time.monotonic(),
            cpu_of_children(process),
            cpu_of(process),
            sum(map(cpu_of, generators)) + cpu_of(psutil.Process()),
            float(sum(value.value for value in sent)),
        )

    samples = []
    before = totals()
    for _ in range(seconds):
        time.sleep(1)
        now = totals()
        elapsed, ffmpeg, service, others, packets = (
            b - a for a, b in zip(before, now, strict=True)
        )
        whole = max(0.01, elapsed * cores - others)
        samples.append(Sample(packets / elapsed, ffmpeg / whole, service / whole))
        before = now
    return samples


def windows(values: list[float]) -> list[float]:
    """Return the mean of every window of `WINDOW` seconds."""
    width = min(WINDOW, len(values))
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def plot(samples: list[Sample], path: Path) -> None:
    """Plot both figures over time."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print('no plot: matplotlib is missing (pip install -e ".[bench]")')
        return
    figure, (upper, lower) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5))
    seconds = range(1, len(samples) + 1)
    upper.plot(seconds, [100 * s.ffmpeg for s in samples], label="FFmpeg")
    upper.plot(seconds, [100 * s.service for s in samples], label="service")
    upper.axhline(60, linestyle="--", color="grey")
    upper.set_ylabel("% of the CPU")
    upper.set_ylim(0, 110)
    upper.legend()
    lower.plot(seconds, [s.packets for s in samples])
    lower.axhline(5000, linestyle="--", color="grey")
    lower.set_yscale("log")
    lower.set_ylabel("packets a second")
    lower.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path)
    print(f"drawn in {path}")


def main() -> None:
    """Run the benchmark; exit status 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="20 seconds")
    parser.add_argument("--uploaders", type=int, default=4)
    parser.add_argument("--http", action="store_true", help="flood by HTTP instead of MMP")
    parser.add_argument("--film", type=Path, default=FILM)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    seconds = 20 if options.quick else options.seconds
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="vidproc-reserve-", dir=shm) as folder:
        server = HTTPServerProcess(Path(folder)).start()
        flooded = (server.http_port, HTTP_HEAD) if options.http else (server.port, MMP_HEAD)
        stop, done = threading.Event(), [0]
        stop_flood = context.Event()
        sent = [context.Value("Q", 0, lock=False) for _ in range(options.uploaders)]
        film = options.film.read_bytes()
        encoders = [
            threading.Thread(
                target=encode, args=(server.port, f"127.0.2.{n}", film, stop, done), daemon=True
            )
            for n in (1, 2)
        ]
        flooders = [
            context.Process(
                target=flood,
                args=(flooded[0], f"127.0.1.{n + 1}", flooded[1], sent[n], stop_flood),
            )
            for n in range(options.uploaders)
        ]
        try:
            for thread in encoders:
                thread.start()
            for process in flooders:
                process.start()
            time.sleep(5)  # until encodes and the flood have begun
            generators = [psutil.Process(p.pid) for p in flooders]
            samples = measure(server, generators, seconds, sent)
            peak = peak_memory(server.pid)
        finally:
            stop.set()
            stop_flood.set()
            for process in flooders:
                process.join(10)
                process.kill()
            server.kill()
    packets = windows([s.packets for s in samples])
    ffmpeg = windows([s.ffmpeg for s in samples])
    print(f"{len(samples)} s, {options.uploaders} uploaders, {done[0]} encodes done")
    for name, values, unit, scale in (
        ("packets a second", packets, "", 1.0),
        ("FFmpeg's share", ffmpeg, " %", 100.0),
        ("service's share", windows([s.service for s in samples]), " %", 100.0),
    ):
        middle = sorted(values)[len(values) // 2]
        print(
            f"{name:17} worst window {min(values) * scale:8.0f}{unit},"
            f" median {middle * scale:8.0f}{unit}"
        )
    print(f"server's peak     {format_size(peak)}")
    if options.plot:
        plot(samples, options.plot)
    kept = min(packets) >= 5000 and min(ffmpeg) >= 0.60
    print("both promises hold" if kept else "A PROMISE IS BROKEN")
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
