"""The server's memory: the peak (VmHWM) of its process in several cases.

Eight uploads of 2 GB to a simulated slow disk, both bypassing the reactor and through it (with a
checksum); as many bytes in 100 uploads; 1,000 idle connections; 100 watchers. With `--single SIZE`
instead one upload and one download of that size, with their speeds. Run it from a
checkout: ``python -m benchmarks.memory``. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.load import long_film, mmp_upload, raise_file_limit, run_streams
from support.results import add_result
from support.server_process import PlainClient, ServerProcess, receive, send
from vidproc.files.data_folder import input_key
from vidproc.mmp.codec import encode_head
from vidproc.tasks.model import State, Task, new_task_id
from vidproc.tasks.store.store import TaskStore
from vidproc.units import format_size, parse_size

LIMIT = 150 << 20
UPLOADS = 8
MANY_UPLOADS = 100
CONNECTIONS = 1000
WATCHERS = 100
PER_ADDRESS = 50
DISK_RATE = 40e6
"""Bytes a second that the slow disk takes from each upload."""


def peak_memory(pid: int) -> int:
    """Return a process's VmHWM in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


class SlowDiskServer(ServerProcess):
    """A server whose disk takes `DISK_RATE` bytes a second from each upload."""

    def command(self) -> list[str]:
        script = Path(__file__).with_name("slow_disk.py").absolute()
        return [sys.executable, str(script), str(DISK_RATE), *super().command()[1:]]


def place_result(server: ServerProcess, size: int, *, fill: bool = False) -> str:
    """Add a finished task with a result to a stopped server's folder; see `add_result`."""
    return add_result(server.data_dir, size, fill=fill)[0]


def place_film(server: ServerProcess, film: Path) -> str:
    """Add a queued task that encodes `film` for minutes to a stopped server's folder."""
    store = TaskStore(server.data_dir / "tasks.sqlite")
    store.open()
    task = Task(
        task_id=new_task_id(),
        type="webm",
        parameters={"start_time": 0, "duration": 600},
        peer="127.0.0.8",
        created_at=time.time(),
        input_size=film.stat().st_size,
        media_type="mp4",
    )
    store.uploads.admit(task, 1, 100)
    key = input_key(task.task_id)
    shutil.copyfile(film, server.data_dir / key)
    store.move(task.task_id, State.QUEUED, input_key=key, queued_at=time.time())
    store.close()
    return task.task_id


def upload(port: int, size: int) -> float:
    """Upload `size` bytes; return the seconds until they were accepted."""
    chunk = bytes(1 << 20)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        request = b'{"action":"upload","type":"extract_audio","parameters":{}}'
        connection.sendall(encode_head(request, "mp4", size))
        for _ in range(size // len(chunk)):
            connection.sendall(chunk)
        connection.sendall(chunk[: size % len(chunk)])
        answer = receive(connection)[0]
    if answer.get("status") != "accepted":
        raise SystemExit(f"the upload was refused: {answer}")
    elapsed = time.monotonic() - start
    PlainClient(port).wait(answer["task_id"])
    return elapsed


def download(port: int, task_id: str, size: int) -> float:
    """Download `size` bytes; return the seconds it took."""
    buffer = bytearray(1 << 20)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        request = b'{"action":"download","task_id":"%s"}' % task_id.encode()
        connection.sendall(encode_head(request))
        header = connection.recv(8)
        connection.recv(int.from_bytes(header[:2], "big") + header[2])
        left = size
        while left:
            got = connection.recv_into(buffer)
            if not got:
                raise SystemExit("the download was interrupted")
            left -= got
    return time.monotonic() - start


def single(folder: Path, size: int) -> int:
    """One upload and one download of `size` bytes; returns the peak."""
    server = ServerProcess(folder).start()
    server.stop()
    task_id = place_result(server, size)
    server.start()
    try:
        for name, seconds in (
            ("upload", upload(server.port, size)),
            ("download", download(server.port, task_id, size)),
        ):
            print(f"{name:9} {format_size(size)}: {size / seconds / 1e6:.0f} MB/s")
        return peak_memory(server.pid)
    finally:
        server.stop()


def uploads(folder: Path, count: int, size: int, *, checksum: bool) -> int:
    """`count` uploads at once of `size` bytes each to a slow disk; returns the peak."""
    source = folder / "source"
    folder.mkdir()
    digest = hashlib.sha256()
    with source.open("wb") as file:
        file.truncate(size)
    for start in range(0, size if checksum else 0, 1 << 20):
        digest.update(bytes(min(1 << 20, size - start)))
    fields: dict[str, Any] = {"sha256": digest.hexdigest()} if checksum else {}
    with running(SlowDiskServer(folder / "server")) as server:
        run_streams(
            count,
            lambda index: mmp_upload(
                server.port, source, size, address=f"127.0.0.{10 + index}", **fields
            ),
        )
        return peak_memory(server.pid)


def idle_connections(folder: Path, count: int) -> int:
    """`count` idle connections; returns the peak."""
    with running(ServerProcess(folder)) as server, contextlib.ExitStack() as open_ones:
        for number in range(count):
            client = PlainClient(server.port, f"127.0.1.{1 + number // PER_ADDRESS}")
            open_ones.enter_context(client.connect())
        PlainClient(server.port).request({"action": "info"})  # all have been accepted
        return peak_memory(server.pid)


def watchers(folder: Path, seconds: float) -> int:
    """`WATCHERS` connections watch one running task, ten times a second; returns the peak."""
    folder.mkdir()
    film = long_film(folder / "film.mp4")
    server = ServerProcess(folder / "server").start()
    server.stop()
    task_id = place_film(server, film)
    with running(server), contextlib.ExitStack() as open_ones:
        watching = []
        for number in range(WATCHERS):
            client = PlainClient(server.port, f"127.0.1.{1 + number // PER_ADDRESS}")
            watching.append(open_ones.enter_context(client.connect()))
            send(watching[-1], {"action": "watch", "task_id": task_id, "interval": 0.1})
        end = time.monotonic() + seconds
        statuses = 0
        while time.monotonic() < end:
            for connection in watching:
                status = receive(connection)[0]
                statuses += 1
                if status["status"] not in ("queued", "processing"):
                    raise SystemExit(f"the film ended too soon: {status}")
        print(f"          ({statuses} statuses in {seconds:.0f} s)")
        return peak_memory(server.pid)


@contextlib.contextmanager
def running(server: ServerProcess) -> Iterator[ServerProcess]:
    """Run a server."""
    try:
        yield server.start()
    finally:
        server.stop()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=parse_size, help="bytes of each upload (2G; quick: 256M)")
    parser.add_argument("--quick", action="store_true", help="half a minute instead of two")
    parser.add_argument(
        "--single", type=parse_size, metavar="SIZE", help="one upload and one download instead"
    )
    options = parser.parse_args()
    size = options.size or (256 << 20 if options.quick else 2 << 30)
    many_size = size * UPLOADS // MANY_UPLOADS
    watched = 3.0 if options.quick else 15.0
    raise_file_limit(4 * CONNECTIONS)
    cases: list[tuple[str, Callable[[Path], int]]] = [
        (
            f"{UPLOADS} uploads of {format_size(size)}",
            lambda folder: uploads(folder, UPLOADS, size, checksum=False),
        ),
        ("the same with a checksum", lambda folder: uploads(folder, UPLOADS, size, checksum=True)),
        (
            f"{MANY_UPLOADS} uploads with a checksum",
            lambda folder: uploads(folder, MANY_UPLOADS, many_size, checksum=True),
        ),
        (f"{CONNECTIONS:,} idle connections", lambda f: idle_connections(f, CONNECTIONS)),
        (f"{WATCHERS} watchers", lambda folder: watchers(folder, watched)),
    ]
    if options.single:
        name = f"up and down, {format_size(options.single)}"
        cases = [(name, lambda folder: single(folder, options.single))]
    worst = 0
    with tempfile.TemporaryDirectory(prefix="vidproc-memory-") as folder:
        for number, (name, measure) in enumerate(cases):
            start = time.monotonic()
            peak = measure(Path(folder) / str(number))
            worst = max(worst, peak)
            seconds = time.monotonic() - start
            print(f"{name:28} peak {format_size(peak):>10}   {seconds:5.1f} s", flush=True)
    print("within" if worst < LIMIT else "ABOVE", format_size(LIMIT))


if __name__ == "__main__":
    main()
