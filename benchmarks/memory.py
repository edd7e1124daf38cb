"""How much memory the server needs for large files.

Uploads `--size` bytes (4G) through a socket, downloads as many, and prints the speed of both and
the server's peak (VmHWM). Run it from a checkout: ``python -m benchmarks.memory``. Linux only.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
from pathlib import Path

from tests.server_process import PlainClient, ServerProcess, receive
from vidproc.mmp.codec import encode_head
from vidproc.storage import result_key
from vidproc.tasks.model import State, Task, new_task_id
from vidproc.tasks.store import Store
from vidproc.units import format_size, parse_size

LIMIT = 150 << 20


def peak_memory(pid: int) -> int:
    """Return a process's VmHWM in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def place_result(server: ServerProcess, size: int) -> str:
    """Put a finished task with a result of `size` zero bytes into a stopped server's folder."""
    store = Store(server.data_dir / "tasks.sqlite")
    store.open()
    now = time.time()
    task = Task(
        task_id=new_task_id(),
        type="webm",
        parameters={},
        peer="127.0.0.9",
        created_at=now,
        input_size=1,
    )
    store.admit(task, 1, 100)
    store.move(task.task_id, State.QUEUED)
    store.claim_next("benchmark", now, now)
    key = result_key(task.task_id, "webm")
    with (server.data_dir / key).open("wb") as file:
        file.truncate(size)
    store.move(
        task.task_id,
        State.COMPLETED,
        completed_at=now,
        output_key=key,
        output_type="webm",
        output_size=size,
        output_sha256="0" * 64,
    )
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
                raise SystemExit("the download broke off")
            left -= got
    return time.monotonic() - start


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=parse_size, default="4G")
    size = parser.parse_args().size
    with tempfile.TemporaryDirectory(prefix="vidproc-memory-") as folder:
        server = ServerProcess(Path(folder)).start()
        server.stop()
        task_id = place_result(server, size)
        server.start()
        try:
            print(f"at start      peak {format_size(peak_memory(server.pid))}")
            for name, run in (
                ("upload", lambda: upload(server.port, size)),
                ("download", lambda: download(server.port, task_id, size)),
            ):
                seconds = run()
                print(
                    f"{name:9} {format_size(size)}: {size / seconds / 1e6:.0f} MB/s,"
                    f" peak {format_size(peak_memory(server.pid))}"
                )
            peak = peak_memory(server.pid)
        finally:
            server.stop()
    print("within" if peak < LIMIT else "ABOVE", format_size(LIMIT))


if __name__ == "__main__":
    main()
