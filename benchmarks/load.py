"""A load generator for the benchmarks: client processes that use as little CPU time as possible.

Each stream is a separate process, so that clients do not wait for Python's lock. Large sends use
sendfile(2) on a file; small ones go out 64 per system call (sendmmsg(2)). Downloads are discarded
in the kernel (MSG_TRUNC), so that a client needs less time than any server. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.server_process import receive
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.mmp.codec import encode_head

PACKET = 1400
"""Bytes of a small send."""
LARGE = 0
"""A send size that stands for sendfile."""

_BATCH = 64
_STEP = 4 << 20
_TIMEOUT = 300.0
_FORK = multiprocessing.get_context("fork")


class StreamFailed(Exception):
    """A client could not do its work."""


def run_streams(count: int, work: Callable[[int], Any]) -> tuple[float, list[Any]]:
    """Run `work(index)` in `count` processes at once.

    Returns the seconds from the first one's start to the last one's end, and what they returned.
    Raises `StreamFailed` when one fails.
    """
    barrier = _FORK.Barrier(count)
    results: Any = _FORK.SimpleQueue()

    def run(index: int) -> None:
        barrier.wait(60)
        start = time.monotonic()
        try:
            outcome: Any = work(index)
        except BaseException as error:
            outcome = StreamFailed(f"stream {index}: {error!r}")
        results.put((index, start, time.monotonic(), outcome))

    processes = [_FORK.Process(target=run, args=(index,), daemon=True) for index in range(count)]
    for process in processes:
        process.start()
    done = sorted((results.get() for _ in processes), key=lambda item: item[0])
    for process in processes:
        process.join()
    outcomes = [item[3] for item in done]
    for outcome in outcomes:
        if isinstance(outcome, StreamFailed):
            raise outcome
    return max(item[2] for item in done) - min(item[1] for item in done), outcomes


@contextlib.contextmanager
def connect(port: int, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Connect to a port of this machine from one of its loopback addresses."""
    with socket.create_connection(
        ("127.0.0.1", port), timeout=_TIMEOUT, source_address=(address, 0)
    ) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)
        yield connection


class _Slice(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("slices", ctypes.c_void_p),
        ("slice_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = [("header", _Header), ("sent", ctypes.c_uint)]


def send_file(connection: socket.socket, path: Path, size: int, send_size: int = LARGE) -> None:
    """Send the first `size` bytes of a file, in sends of `send_size` bytes (`LARGE`: sendfile)."""
    if send_size != LARGE:
        with path.open("rb") as file:
            send_small(connection, file.read(send_size), size)
        return
    with path.open("rb") as file:
        position = 0
        while position < size:
            position += os.sendfile(
                connection.fileno(), file.fileno(), position, min(_STEP, size - position)
            )


def send_small(connection: socket.socket, packet: bytes, size: int) -> None:
    """Send `packet` repeatedly, each time in a separate send, until `size` bytes were sent."""
    libc = ctypes.CDLL(None, use_errno=True)
    data = ctypes.create_string_buffer(packet, len(packet))
    one = _Slice(ctypes.addressof(data), len(packet))
    batch = (_Message * _BATCH)()
    for message in batch:
        message.header.slices = ctypes.addressof(one)
        message.header.slice_count = 1
    whole, rest = divmod(size, len(packet))
    while whole:
        sent = libc.sendmmsg(connection.fileno(), batch, min(_BATCH, whole), 0)
        if sent < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        short = len(packet) - batch[sent - 1].sent
        if short:
            connection.sendall(packet[-short:])
        whole -= sent
    if rest:
        connection.sendall(packet[:rest])


def discard(connection: socket.socket, size: int) -> None:
    """Receive `size` bytes without looking at them."""
    nowhere = bytearray(_STEP)  # MSG_TRUNC never touches it
    while size:
        got = connection.recv_into(nowhere, min(_STEP, size), socket.MSG_TRUNC)
        if not got:
            raise ConnectionError("the server closed the connection")
        size -= got


def mmp_upload(
    port: int,
    path: Path,
    size: int,
    *,
    address: str = "127.0.0.1",
    send_size: int = LARGE,
    **fields: Any,
) -> str:
    """Upload a file's first `size` bytes to vidproc; return the task's id when it is accepted.

    `fields` are further keys of the request.
    """
    with connect(port, address) as connection:
        request = {"action": "upload", "type": "extract_audio", "parameters": {}, **fields}
        connection.sendall(encode_head(json.dumps(request).encode(), "mp4", size))
        send_file(connection, path, size, send_size)
        answer = receive(connection)[0]
    if answer.get("status") != "accepted":
        raise StreamFailed(f"the upload was refused: {answer}")
    return str(answer["task_id"])


def mmp_download(port: int, task_id: str, *, address: str = "127.0.0.1") -> int:
    """Download a task's result from vidproc; return its size."""
    with connect(port, address) as connection:
        connection.sendall(encode_head(b'{"action":"download","task_id":"%s"}' % task_id.encode()))
        header = connection.recv(8, socket.MSG_WAITALL)
        head_size = int.from_bytes(header[:2], "big") + header[2]
        connection.recv(head_size, socket.MSG_WAITALL)
        size = int.from_bytes(header[3:], "big")
        if not size:
            raise StreamFailed("there is nothing to download")
        discard(connection, size)
    return size


def raise_file_limit(wanted: int) -> None:
    """Allow this process and its children to open that many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def long_film(path: Path, seconds: int = 600) -> Path:
    """Make, within a second, a film that takes minutes to encode; return its path."""
    part = path.with_suffix(".part.mp4")
    source = ("-f", "lavfi", "-i", "mandelbrot=size=640x360:rate=25", "-t", "5")
    _ffmpeg(*source, "-c:v", "libx264", "-crf", "40", part)
    _ffmpeg("-stream_loop", str(seconds // 5), "-i", part, "-c", "copy", path)
    part.unlink()
    return path


def _ffmpeg(*arguments: str | Path) -> None:
    program = (find_ffmpeg().path, "-nostdin", "-loglevel", "error", "-y")
    subprocess.run([*program, *map(str, arguments)], check=True)


def http_put(port: int, name: str, path: Path, size: int, *, send_size: int = LARGE) -> None:
    """PUT a file's first `size` bytes to an HTTP server."""
    with connect(port) as connection:
        head = f"PUT /{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        send_file(connection, path, size, send_size)
        status = connection.recv(4096).split(b"\r\n")[0]
    if status.split()[1] not in (b"201", b"204"):
        raise StreamFailed(f"PUT was refused: {status!r}")


def http_get(port: int, name: str) -> int:
    """GET a file from an HTTP server; return its size."""
    with connect(port) as connection:
        connection.sendall(f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        if b" 200 " not in head:
            raise StreamFailed(f"GET was refused: {head!r}")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        discard(connection, size)
    return size
