"""A large upload that is interrupted again and again, while the server is killed now and then.

An upload of 2 GB is interrupted at 20 random points: 18 times the connection breaks (closed or
reset), twice the whole server is killed (SIGKILL) and restarted. Another connection asks for
`upload_status` all the time. Acknowledged bytes must never be sent again, and the file must arrive
intact. This is done twice: bypassing the reactor, and through it, with a checksum in the request.
Exit status 1 if a promise is broken. Run it from a checkout: ``python -m benchmarks.resume``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import select
import socket
import struct
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from support.server_process import PlainClient, ServerProcess, receive
from vidproc.files.data_folder import upload_key
from vidproc.mmp.codec import encode_head
from vidproc.units import format_size, parse_size

SIZE = 2_000_000_000
CUTS = 20
KILLS = 2
BLOCK = 1 << 20
ASK_EVERY = 0.05
"""Seconds between queries of the offset while bytes are being sent."""


class Content:
    """A virtual file of `size` bytes: random blocks, each of which begins with its number."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._random = random.Random(seed).randbytes(BLOCK - 8)

    def part(self, offset: int, end: int) -> bytes:
        """Return the bytes from `offset` to the end of its block, at most to `end`."""
        number, inner = divmod(offset, BLOCK)
        block = number.to_bytes(8, "big") + self._random
        return block[inner : inner + min(end, self.size) - offset]

    def sha256(self) -> str:
        """Return its checksum."""
        digest = hashlib.sha256()
        for offset in range(0, self.size, BLOCK):
            digest.update(self.part(offset, self.size))
        return digest.hexdigest()


class Acknowledged:
    """The highest offset that `upload_status` has returned, asked over a separate connection."""

    def __init__(self, server: ServerProcess, upload_id: str) -> None:
        self.most = 0
        self.answers = 0
        self.violations: list[str] = []
        self._server = server
        self._upload_id = upload_id
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, daemon=True)

    def __enter__(self) -> Acknowledged:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def ask(self) -> dict[str, Any]:
        """Ask once; return the answer."""
        with self._lock:  # so that answers are checked in the order in which they were given
            answer = PlainClient(self._server.port).request(
                {"action": "upload_status", "upload_id": self._upload_id}
            )[0]
            if answer.get("status") == "partial":
                self.answers += 1
                self.check(answer["offset"])
                self.most = max(self.most, answer["offset"])
        return answer

    def check(self, offset: int) -> None:
        """Note a violation if the server asks again for bytes that it had acknowledged."""
        if offset < self.most:
            self.violations.append(f"{self.most} bytes were acknowledged, then only {offset}")

    def _ask_on(self) -> None:
        while not self._over.wait(ASK_EVERY):
            with contextlib.suppress(OSError, ValueError):  # the server is being restarted
                self.ask()


class Upload:
    """A client that resumes one upload as docs/mmp.md says, and counts what it sends.

    `sent` counts all bytes of payloads, `needless` those that had been acknowledged to the other
    connection before they were sent.
    """

    def __init__(
        self, server: ServerProcess, content: Content, acknowledged: Acknowledged, fields: Any
    ) -> None:
        self.sent = 0
        self.needless = 0
        self._server = server
        self._content = content
        self._acknowledged = acknowledged
        self._fields = fields

    def offset(self) -> int:
        """Return where to resume.

        The last bytes of a broken connection may still be arriving when `upload_status` answers.
        An empty part with the same `upload_id` takes over from that connection, so its answer is
        final.
        """
        while True:
            status = self._acknowledged.ask()
            offset = status.get("offset", 0)  # 404: nothing arrived
            answer = PlainClient(self._server.port).request(
                {**self._fields, "offset": offset}, b"", "mp4"
            )[0]
            if answer.get("status") == "partial":
                self._acknowledged.check(answer["offset"])
                return int(answer["offset"])
            if answer.get("error", {}).get("code") not in (409, 503):
                raise AssertionError(f"the upload can't go on: {answer}")
            time.sleep(0.05)

    def send_until(self, end: int) -> tuple[socket.socket, dict[str, Any] | None]:
        """Send up to the file's byte `end`; return the connection, and the answer if there is one.

        The request always announces the whole rest of the file.
        """
        while True:
            offset = self.offset()
            connection = socket.create_connection(("127.0.0.1", self._server.port), timeout=60)
            head = {**self._fields, "offset": offset}
            rest = self._content.size - offset
            connection.sendall(encode_head(json.dumps(head).encode(), "mp4", rest))
            answer = self._send(connection, offset, end)
            if answer is None or answer.get("error", {}).get("code") != 409:
                return connection, answer
            connection.close()

    def _send(self, connection: socket.socket, offset: int, end: int) -> dict[str, Any] | None:
        while offset < end:
            if select.select([connection], [], [], 0)[0]:
                return receive(connection)[0]
            data = self._content.part(offset, end)
            self.needless += max(0, min(offset + len(data), self._acknowledged.most) - offset)
            connection.sendall(data)
            self.sent += len(data)
            offset += len(data)
        return receive(connection)[0] if end == self._content.size else None


def break_off(connection: socket.socket, hard: bool) -> None:
    """End a connection: close it, or reset it, which discards bytes in flight."""
    if hard:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def link_part(server: ServerProcess, target: Path) -> None:
    """Give the upload's part file a second name, because its task will fail and remove it."""
    (name,) = (server.data_dir / upload_key("x")).parent.iterdir()
    os.link(name, target)


def file_sha256(path: Path) -> str:
    """Return a file's checksum."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(folder: Path, content: Content, seed: int, cuts: int, checksum: str | None) -> list[str]:
    """Do one upload; print what happened and return the violations."""
    chance = random.Random(seed)
    points = sorted(chance.sample(range(1, content.size), cuts))
    kills = set(chance.sample(range(cuts), min(KILLS, cuts)))
    upload_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    fields: dict[str, Any] = {
        "action": "upload",
        "type": "extract_audio",
        "parameters": {},
        "upload_id": upload_id,
        "size": content.size,
    }
    if checksum is not None:
        fields["sha256"] = checksum
    server = ServerProcess(folder).start()
    expected = checksum or content.sha256()
    copy = folder / "copy"
    begun = time.monotonic()
    try:
        with Acknowledged(server, upload_id) as acknowledged:
            upload = Upload(server, content, acknowledged, fields)
            for number, point in enumerate(points):
                connection, answer = upload.send_until(point)
                if answer is not None:
                    return [f"the upload ended early: {answer}"]
                if number in kills:
                    server.kill()
                    connection.close()
                    server.start()
                else:
                    break_off(connection, chance.random() < 0.5)
            upload.offset()
            link_part(server, copy)
            connection, answer = upload.send_until(content.size)
            connection.close()
        seconds = time.monotonic() - begun
        problems = list(acknowledged.violations)
        if upload.needless:
            problems.append(f"{upload.needless} acknowledged bytes were sent again")
        if answer is None or answer.get("status") != "accepted":
            problems.append(f"the upload was not accepted: {answer}")
        elif acknowledged.ask().get("task_id") != answer["task_id"]:
            problems.append("upload_status names another task")
        if copy.stat().st_size != content.size or file_sha256(copy) != expected:
            problems.append("the file that arrived is not the file that was sent")
    finally:
        server.kill()
    again = upload.sent - content.size
    print(
        f"{'with a checksum' if checksum else 'without checksum':16}  {format_size(content.size)},"
        f" {cuts} cuts, {len(kills)} of them SIGKILL: {format_size(upload.sent)} sent,"
        f" {format_size(again)} ({again / content.size:.2%}) of it unacknowledged and sent again,"
        f" {acknowledged.answers} times asked, {seconds:.1f} s"
    )
    return problems


def main() -> None:
    """Run the benchmark; exit status 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=parse_size, default=SIZE, help="default: 2 GB")
    parser.add_argument("--cuts", type=int, default=CUTS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="200 MB instead of 2 GB")
    parser.add_argument("--folder", type=Path, help="default: a new one in /dev/shm")
    options = parser.parse_args()
    size = SIZE // 10 if options.quick else options.size
    content = Content(size, options.seed)
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    problems = []
    for checksum in (None, content.sha256()):
        with tempfile.TemporaryDirectory(
            prefix="vidproc-resume-", dir=options.folder or shm
        ) as folder:
            problems += run(Path(folder), content, options.seed, options.cuts, checksum)
    for problem in problems:
        print(f"BROKEN: {problem}")
    print(
        "A PROMISE IS BROKEN" if problems else "arrived whole; nothing acknowledged was sent again"
    )
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
