"""Clients that use up connections, space or memory. Other clients must still be served."""

from __future__ import annotations

import atexit
import json
import os
import resource
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SkipTest, TestCase

from support.results import add_result
from support.server_process import (
    BUSY,
    PlainClient,
    ServerProcess,
    receive,
    send,
    wait_for,
)
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.mmp.codec import encode_head

MEDIA = Path(__file__).parent / "media"
CLIP = MEDIA / "screencast-480p-vp9-opus.webm"
IDLE = 3.0
SERVER_MEMORY = 150 << 20
RESULT_SIZE = 64 << 20
CROWD = 500
TERABYTE = (1 << 40) - 1

_addresses = count(1)


def next_address() -> str:
    """Return an unused address."""
    return f"127.2.0.{next(_addresses)}"


class AttackedServer(ServerProcess):
    """A server whose queue of unaccepted connections has space for the whole crowd."""

    def command(self) -> list[str]:
        port = f"--port=tcp:0:interface=127.0.0.1:backlog={2 * CROWD}"
        return [port if part == "--port=0" else part for part in super().command()]


@cache
def shared_server() -> tuple[ServerProcess, str]:
    """Start the server for all tests; return it and the ID of a task with a large result."""
    options = (f"--idle-timeout={IDLE:.0f}s", "--max-connections-per-ip=600", "--max-upload=2T")
    server = AttackedServer(Path(f"attacked-server-{os.getpid()}"), *options).start()
    server.stop()
    task_id, _ = add_result(server.data_dir, RESULT_SIZE)
    server.start()
    atexit.register(server.stop)
    return server, task_id


class AttackTests(TestCase):
    def setUp(self) -> None:
        self.server, self.large = shared_server()
        self.attacker = PlainClient(self.server.port, next_address())

    def connect(self) -> socket.socket:
        """Return a connection of the attacker."""
        connection = self.attacker.connect()
        self.addCleanup(connection.close)
        return connection

    def open_connections(self) -> int:
        """Return how many connections the server has."""
        connections = psutil.Process(self.server.pid).net_connections("tcp")
        return len([c for c in connections if c.raddr])

    def assertOthersAreServed(self) -> None:
        """`info` answers soon, and a task from another address completes."""
        other = PlainClient(self.server.port, next_address())
        start = time.monotonic()
        self.assertEqual(other.request({"action": "info"})[0]["status"], "ok")
        self.assertLess(time.monotonic() - start, 1.0 + BUSY)
        task_id = other.upload(CLIP, "extract_audio", {})["task_id"]
        self.assertEqual(other.wait(task_id)["status"], "completed")
        self.assertGreater(len(other.download(task_id)[2]), 1000)

    def assertSmall(self) -> None:
        """The server's memory does not grow with what clients send."""
        self.assertLess(psutil.Process(self.server.pid).memory_info().rss, SERVER_MEMORY)

    def assertCutOff(self, connections: list[socket.socket], within: float) -> None:
        """Every connection ends, with an answer and a close or with a reset."""
        deadline = time.monotonic() + within
        for connection in connections:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                while connection.recv(1 << 20):
                    pass
            except ConnectionResetError:
                pass

    # --- connections ---------------------------------------------------------------------------

    def test_five_hundred_connections_that_never_finish_their_request(self) -> None:
        """Half of them send nothing, half a part of a header; all are disconnected in the end."""
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * CROWD + 100:
            raise SkipTest("needs more descriptors")
        crowd = [self.connect() for _ in range(CROWD)]
        for connection in crowd[::2]:
            connection.send(b"\0\x80\3")
        wait_for(lambda: self.open_connections() == CROWD)
        self.assertOthersAreServed()
        self.assertSmall()
        self.assertCutOff(crowd, within=4 * IDLE + BUSY)
        wait_for(lambda: self.open_connections() == 0)
        self.assertOthersAreServed()

    def trickle(self, data: bytes, connections: int) -> Callable[[], None]:
        """Send `data` on many connections, a byte a second; return how they end."""
        crowd = [self.connect() for _ in range(connections)]
        over = threading.Event()

        def run() -> None:
            for byte in data:
                for connection in crowd:
                    try:
                        connection.send(bytes([byte]))
                    except OSError:
                        pass
                if over.wait(1.0):
                    return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def stop() -> None:
            over.set()
            thread.join()

        self.addCleanup(stop)
        self.crowd = crowd
        return stop

    def test_a_byte_a_second_of_a_request(self) -> None:
        """It does not disturb others."""
        stop = self.trickle(encode_head(b'{"action":"info"}'), 50)
        self.assertOthersAreServed()
        stop()

    def test_a_byte_a_second_of_an_upload(self) -> None:
        """It is too slow to keep its slot: it gets an error and is disconnected."""
        request = b'{"action":"upload","type":"extract_audio","parameters":{}}'
        connection = self.connect()
        connection.sendall(encode_head(request, "mp4", 1 << 20))
        over = time.monotonic() + 6 * IDLE + BUSY

        def answer() -> Any:
            self.assertLess(time.monotonic(), over, "it was not cut off")
            connection.settimeout(0.5)
            try:
                connection.send(b"x")
                return receive(connection)[0]
            except TimeoutError:
                return None

        self.assertOthersAreServed()
        self.assertIn("error", wait_for(answer))
        wait_for(
            lambda: (
                self.attacker.upload(CLIP, "gif", {"start_time": 0, "duration": 0.1}).get("status")
                == "accepted"
            )
        )

    # --- room ----------------------------------------------------------------------------------

    def claim(self, port: int, payload: int, **fields: Any) -> int:
        """Announce an upload of that many bytes without sending any; return the error's code."""
        client = PlainClient(port, next_address())
        request = {"action": "upload", "type": "extract_audio", "parameters": {}, **fields}
        with client.connect() as connection:
            connection.sendall(encode_head(json.dumps(request).encode(), "mp4", payload))
            code: int = receive(connection)[0]["error"]["code"]
        return code

    def test_a_claim_beyond_the_disk_is_refused_before_it_is_sent(self) -> None:
        """It gets 507, whether the upload is plain or resumable."""
        self.assertEqual(self.claim(self.server.port, TERABYTE), 507)
        fields = {"upload_id": str(uuid.uuid4()), "size": TERABYTE}
        self.assertEqual(self.claim(self.server.port, 1, **fields), 507)
        self.assertOthersAreServed()

    def test_a_claim_beyond_the_limit_is_refused_before_it_is_sent(self) -> None:
        """It gets 413 with the default limits."""
        server = ServerProcess(Path(self.mktemp())).start()
        self.addCleanup(server.stop)
        self.assertEqual(self.claim(server.port, TERABYTE), 413)
        fields = {"upload_id": str(uuid.uuid4()), "size": TERABYTE}
        self.assertEqual(self.claim(server.port, 1, **fields), 413)

    def test_a_claim_that_cannot_be_met_costs_nobody_a_result(self) -> None:
        """Results are evicted for uploads that fit, not for false claims."""
        other = PlainClient(self.server.port, next_address())
        task_id = other.upload(CLIP, "extract_audio", {})["task_id"]
        self.assertEqual(other.wait(task_id)["status"], "completed")
        self.assertEqual(self.claim(self.server.port, TERABYTE), 507)
        self.assertEqual(other.status(task_id)["status"], "completed")
        self.assertEqual(other.status(self.large)["status"], "completed")

    def test_one_address_cannot_hold_all_the_space(self) -> None:
        """More than half of it is refused. While the address holds a large part, others can
        continue."""
        server = ServerProcess(Path(self.mktemp()), "--storage-limit=200M", "--tasks-per-ip=4")
        self.addCleanup(server.start().stop)
        self.assertEqual(self.claim(server.port, 150 << 20), 507)
        greedy = PlainClient(server.port, next_address())
        request = b'{"action":"upload","type":"extract_audio","parameters":{}}'
        for _ in range(4):
            connection = greedy.connect()
            self.addCleanup(connection.close)
            connection.sendall(encode_head(request, "mp4", 40 << 20))
        other = PlainClient(server.port, next_address())
        self.assertEqual(other.upload(CLIP, "extract_audio", {}).get("status"), "accepted")

    def test_small_files_that_grow_do_not_pass_the_storage_limit(self) -> None:
        """Three minutes of silence are 20 KB as FLAC and 8 MB as MP3, so the second task waits."""
        folder = Path(self.mktemp())
        server = ServerProcess(folder, "--storage-limit=14M")
        self.addCleanup(server.start().stop)
        silence = server.root / "silence.flac"
        subprocess.run(
            [find_ffmpeg().path, "-v", "error", "-nostdin", "-f", "lavfi", "-i", "anullsrc",
             "-t", "200", str(silence)],
            check=True,
        )  # fmt: skip
        stranger = PlainClient(server.port, next_address())
        kept = stranger.upload(CLIP, "extract_audio", {})["task_id"]
        self.assertEqual(stranger.wait(kept)["status"], "completed")

        def held() -> int:
            folders = ("inputs", "uploads", "work", "results")
            paths = [path for name in folders for path in (server.data_dir / name).rglob("*")]
            return sum(path.stat().st_size for path in paths if path.is_file())

        clients = [PlainClient(server.port, next_address()) for _ in range(2)]
        tasks = [
            client.upload(silence, "extract_audio", {"bitrate": 320_000})["task_id"]
            for client in clients
        ]
        most = 0

        def one_waits() -> bool:
            nonlocal most
            try:
                most = max(most, held())
            except FileNotFoundError:
                pass  # it was moved after the listing
            found = [clients[n].status(tasks[n]) for n in range(2)]
            waits = any(status["stage"] == "waiting for storage" for status in found)
            return waits and any(status["status"] == "completed" for status in found)

        wait_for(one_waits)
        self.assertLess(most, 14 << 20)
        self.assertEqual(stranger.status(kept)["status"], "completed")
        done = next(n for n in range(2) if clients[n].status(tasks[n])["status"] == "completed")
        clients[done].request({"action": "cancel", "task_id": tasks[done]})
        status = clients[1 - done].wait(tasks[1 - done])
        self.assertEqual(status["status"], "completed", status)
        self.assertEqual(stranger.status(kept)["status"], "completed")

    # --- answers -------------------------------------------------------------------------------

    def test_a_client_that_does_not_read_its_download(self) -> None:
        """Nothing accumulates for it, others are served, and in the end it is disconnected."""
        crowd = [self.connect() for _ in range(30)]
        for connection in crowd:
            send(connection, {"action": "download", "task_id": self.large})
        self.assertOthersAreServed()
        self.assertSmall()
        wait_for(lambda: self.open_connections() == 0, timeout=6 * IDLE + BUSY)
        received = 0
        try:
            while data := crowd[0].recv(1 << 20):
                received += len(data)
        except ConnectionResetError:
            pass
        self.assertLess(received, RESULT_SIZE)

    def test_a_client_that_asks_and_asks_and_never_reads(self) -> None:
        """Its answers do not accumulate, because its requests wait in its own buffers."""
        connection = self.connect()
        connection.settimeout(1.0)
        request = encode_head(b'{"action":"info","detail":true}') * 1000
        try:
            for _ in range(2000):
                connection.sendall(request)
        except (TimeoutError, ConnectionError):
            pass
        else:
            self.fail("the server took 80 MB of requests that it can't have answered")
        self.assertSmall()
        self.assertOthersAreServed()
