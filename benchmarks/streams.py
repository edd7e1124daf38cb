"""The cost of 1,000 streams of events, alone and beside 100 uploads.

A hundred tasks report progress once a second; a thousand clients follow them, ten a task, as
server-sent events. Then a hundred more clients upload by HTTP at once, each from an address of its
own, again and again, as fast as the CPU reserve allows (with ``--flood``: as fast as they can). It
measures the server's memory, the events that arrive, and the latency of a status, both of a
finished task and of a running one, each on a new connection. Run it from a checkout: ``python -m
benchmarks.streams``. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import selectors
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.latency import PERIOD, show
from benchmarks.load import connect, raise_file_limit
from benchmarks.memory import peak_memory, place_result
from support.http_server import HTTPServerProcess
from support.job import run_probe
from support.server_process import PlainClient, wait_for
from vidproc.units import parse_size

CLIP = Path(__file__).resolve().parents[1] / "tests" / "media" / "flower-540p-aac.mp4"
TASKS = 100
STREAMS = 1000
UPLOADS = 100
PER_ADDRESS = 50
"""Streams from one address."""
MEMORY_LIMIT = 150 << 20
LATENCY_LIMIT = 0.05

_FORK = multiprocessing.get_context("fork")
_BLOCK = bytes(256 << 10)


class SteadyServer(HTTPServerProcess):
    """A server whose tasks never end. With `flood` it takes uploads as fast as they come."""

    flood = False

    def command(self) -> list[str]:
        script = Path(__file__).with_name("steady_tasks.py").absolute()
        probed = self.root / "probed"
        if not probed.exists():
            probed.write_bytes(run_probe(CLIP))
        flood = ["--flood"] if self.flood else []
        return [sys.executable, str(script), str(probed), *flood, *super().command()[1:]]


def open_streams(port: int, task_ids: list[str]) -> list[socket.socket]:
    """Open `STREAMS` streams, each of one of the tasks in turn."""
    opened = []
    for number in range(STREAMS):
        address = f"127.0.3.{1 + number // PER_ADDRESS}"
        stream = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
        path = f"/api/v1/tasks/{task_ids[number % len(task_ids)]}/events"
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        opened.append(stream)
    return opened


def follow(streams: list[socket.socket], counted: Any, ended: Any) -> None:
    """Read streams until their process is told to end; keep count of the events."""
    selector = selectors.DefaultSelector()
    for stream in streams:
        stream.setblocking(False)
        selector.register(stream, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select(1.0):
            readable: Any = key.fileobj
            data = readable.recv(1 << 16)
            if data:
                with counted.get_lock():
                    counted.value += data.count(b"event: status")
            else:
                selector.unregister(readable)
                with ended.get_lock():
                    ended.value += 1


class Upload:
    """One client that uploads, cancels, and uploads again."""

    def __init__(self, port: int, number: int, size: int) -> None:
        self._address = ("127.0.0.1", port)
        self._source = f"127.0.2.{1 + number}"
        self._size = size
        self._answer = b""
        self.accepted = 0
        self.connect()

    def connect(self) -> None:
        """Begin an upload on a new connection."""
        self.socket = socket.create_connection(self._address, source_address=(self._source, 0))
        self.socket.sendall(
            f"POST /api/v1/tasks?type=extract_audio HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {self._size}\r\n\r\n".encode()
        )
        self.socket.setblocking(False)
        self._left = self._size
        self._answer = b""

    @property
    def wants(self) -> int:
        """What is waited for."""
        return selectors.EVENT_WRITE if self._left else selectors.EVENT_READ

    def go_on(self) -> bool:
        """Send or read some; return False when its socket was replaced."""
        if self._left:
            try:
                self._left -= self.socket.send(_BLOCK[: min(len(_BLOCK), self._left)])
            except BlockingIOError:
                pass
            return True
        data = self.socket.recv(1 << 16)
        self._answer += data
        if b"\r\n\r\n" not in self._answer or (data and not self._answer.endswith(b"}")):
            return bool(data)
        if b" 201 " not in self._answer[:20]:
            raise SystemExit(f"an upload was refused: {self._answer!r}")
        self.accepted += 1
        task_id = self._answer.partition(b'"task_id":"')[2].partition(b'"')[0].decode()
        self.socket.setblocking(True)
        self.socket.sendall(
            f"DELETE /api/v1/tasks/{task_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        self.socket.recv(1 << 16)
        self.socket.close()
        return False


def keep_uploading(port: int, size: int, accepted: Any) -> None:
    """Keep `UPLOADS` uploads going until the process is told to end."""
    selector = selectors.DefaultSelector()
    for number in range(UPLOADS):
        upload = Upload(port, number, size)
        selector.register(upload.socket, upload.wants, upload)
    while True:
        for key, _ in selector.select(1.0):
            upload = key.data
            before = upload.socket
            if upload.go_on():
                selector.modify(before, upload.wants, upload)
            else:
                selector.unregister(before)
                with accepted.get_lock():
                    accepted.value += 1
                upload.connect()
                selector.register(upload.socket, upload.wants, upload)


def ask(port: int, task_ids: dict[str, str], seconds: float) -> dict[str, list[float]]:
    """Ask the tasks' status in turn; return the seconds that each answer took, by name."""
    took: dict[str, list[float]] = {name: [] for name in task_ids}
    names = list(task_ids)
    end = time.monotonic() + seconds
    number = 0
    while (start := time.monotonic()) < end:
        name = names[number % len(names)]
        number += 1
        with connect(port, "127.0.0.3") as connection:
            path = f"/api/v1/tasks/{task_ids[name]}"
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            answer = b""
            while data := connection.recv(1 << 16):
                answer += data
                if answer.endswith(b"}"):
                    break
        took[name].append(time.monotonic() - start)
        if b" 200 " not in answer[:20]:
            raise SystemExit(f"the status was refused: {answer!r}")
        time.sleep(max(0.0, start + PERIOD - time.monotonic()))
    return took


class Resident:
    """Samples a process's resident memory until it is told to stop."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            self.most = max(self.most, self._process.memory_info().rss)

    def stop(self) -> int:
        """Return the most bytes that were seen."""
        self._over.set()
        self._thread.join()
        return self.most


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help="of each part (20; quick: 8)")
    parser.add_argument("--size", type=parse_size, default="16M", help="bytes of an upload (16M)")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="a folder (/dev/shm)")
    parser.add_argument("--flood", action="store_true", help="no CPU time is kept for video")
    parser.add_argument("--quick", action="store_true", help="half a minute instead of one")
    options = parser.parse_args()
    seconds = options.seconds or (8.0 if options.quick else 20.0)
    raise_file_limit(4096)
    with tempfile.TemporaryDirectory(prefix="vidproc-streams-", dir=options.dir) as folder:
        server = SteadyServer(
            Path(folder) / "server", f"--max-concurrent={TASKS}", f"--queue-size={2 * UPLOADS}"
        )
        server.flood = options.flood
        server.start().stop()
        finished = place_result(server, 1 << 20)
        server.start()
        helpers: list[Any] = []
        try:
            running = [
                PlainClient(server.port, f"127.0.1.{1 + number}").upload(CLIP, "extract_audio", {})[
                    "task_id"
                ]
                for number in range(TASKS)
            ]
            client = PlainClient(server.port)
            wait_for(lambda: client.status(running[-1])["stage"] not in ("queued", "probing"))
            tasks = {"a finished task": finished, "a running task": running[0]}
            counted, ended = _FORK.Value("q", 0), _FORK.Value("q", 0)
            accepted = _FORK.Value("q", 0)
            streams = open_streams(server.http_port, running)
            helpers.append(_FORK.Process(target=follow, args=(streams, counted, ended)))
            helpers[-1].start()
            for stream in streams:
                stream.close()
            print(f"{'status of':44}{'asked':>6}{'p50':>8}{'p99':>8}{'worst':>8}  ms")
            worst, resident = 0.0, Resident(server.pid)
            for part in ("1,000 streams", "1,000 streams, 100 uploads"):
                if part.endswith("uploads"):
                    work = (server.http_port, options.size, accepted)
                    helpers.append(_FORK.Process(target=keep_uploading, args=work))
                    helpers[-1].start()
                time.sleep(2)  # until they are under way
                uploaded = accepted.value
                events, cpu = counted.value, sum(psutil.Process(server.pid).cpu_times()[:2])
                since = time.monotonic()
                found = ask(server.http_port, tasks, seconds)
                elapsed = time.monotonic() - since
                cpu = sum(psutil.Process(server.pid).cpu_times()[:2]) - cpu
                for name, values in found.items():
                    p99 = show(f"{name}; {part}", values)
                    worst = max(worst, p99 if name == "a finished task" else 0.0)
                rate = (counted.value - events) / elapsed
                speed = (accepted.value - uploaded) * options.size / elapsed / 1e6
                print(
                    f"  {rate:.0f} events/s, {speed:.0f} MB/s uploaded;"
                    f" server {cpu / elapsed:.0%} of a core",
                    flush=True,
                )
            memory = max(resident.stop(), peak_memory(server.pid))
            print(
                f"{accepted.value} uploads of {options.size >> 20} MiB accepted;"
                f" {ended.value} streams broken off; memory at most {memory / (1 << 20):.0f} MiB"
            )
        finally:
            for helper in helpers:
                helper.kill()
                helper.join()
            server.kill()
    fine = memory < MEMORY_LIMIT and worst < LATENCY_LIMIT and not ended.value
    limits = f"{MEMORY_LIMIT >> 20} MiB and {LATENCY_LIMIT * 1e3:.0f} ms (p99, a finished task)"
    print("within" if fine else "ABOVE", limits)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
