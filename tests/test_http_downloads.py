"""Results from a real server: by sendfile and over TLS, to clients that pause, and by links."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import sqlite3
import ssl
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from support.certificates import write_certificate
from support.http_server import HTTPServerProcess
from support.results import add_result
from support.server_process import wait_for
from vidproc.files.data_folder import DataFolder
from vidproc.tasks.store.store import TaskStore

SIZE = 24 << 20


class Server(HTTPServerProcess):
    """Serves HTTP at `http_port`, and over TLS at `tls_port`."""

    def command(self) -> list[str]:
        certificate, key = write_certificate(self.root / "tls")
        tls = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        return [*super().command(), f"--http={tls}"]

    @property
    def tls_port(self) -> int:
        return self.ports[2]


def place_result(server: HTTPServerProcess, content: bytes) -> str:
    """Add a finished task with a result to the folder of a future server; return its ID."""
    folder = DataFolder(server.data_dir, 1 << 40)
    folder.open()
    task_id, path = add_result(server.data_dir, len(content), filename="film.mov")
    path.write_bytes(content)
    store = TaskStore(server.data_dir / "tasks.sqlite")
    store.open()
    store.update(task_id, output_sha256=hashlib.sha256(content).hexdigest())
    store.close()
    folder.close()
    return task_id


class DownloadTests(SynchronousTestCase):
    def serve(self, *options: str) -> None:
        """Start a server that has a result."""
        self.server = Server(Path(self.mktemp()), *options)
        self.content = os.urandom(1 << 20) * (SIZE >> 20)
        self.task_id = place_result(self.server, self.content)
        self.server.start()
        self.addCleanup(self.server.stop)
        self.path = f"/api/v1/tasks/{self.task_id}/result"

    def connect(self, *, tls: bool = False) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if tls:
            context = ssl.create_default_context(
                cafile=str(self.server.root / "tls/certificate.pem")
            )
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.server.tls_port, timeout=60, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=60)
        self.addCleanup(connection.close)
        return connection

    def get(self, connection: http.client.HTTPConnection, **headers: str) -> tuple[int, bytes]:
        connection.request(
            "GET", self.path, headers={name.replace("_", "-"): headers[name] for name in headers}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()

    def fetched(self) -> Any:
        """Return when the result was completely fetched, None if it was not."""
        store = sqlite3.connect(f"file:{self.server.data_dir}/tasks.sqlite?mode=ro", uri=True)
        try:
            return store.execute("SELECT downloaded_at FROM tasks").fetchone()[0]
        finally:
            store.close()

    def test_plain_and_over_tls_a_connection_serves_ranges_and_then_the_whole(self) -> None:
        """The same bytes, on one connection; only the whole file counts as fetched."""
        self.serve()
        for tls in (False, True):
            connection = self.connect(tls=tls)
            for start, end in ((0, 1), (1000, 5 << 20), (SIZE - 3, SIZE)):
                got = self.get(connection, Range=f"bytes={start}-{end - 1}")
                self.assertEqual(got[0], 206)
                self.assertTrue(got[1] == self.content[start:end], (tls, start, end))
            self.assertEqual(self.get(connection, Range=f"bytes={SIZE}-")[0], 416)
            if not tls:
                self.assertIsNone(self.fetched())
            status, whole = self.get(connection)
            self.assertEqual((status, whole == self.content), (200, True))
            wait_for(self.fetched)

    def test_a_player_that_pauses_for_long_is_cut_and_goes_on_by_a_range(self) -> None:
        """The bytes that it has are right; the rest follows on another connection."""
        self.serve("--idle-timeout=5s")  # a client on a busy machine may pause for less
        with socket.socket() as player:
            player.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            player.settimeout(60)
            player.connect(("127.0.0.1", self.server.http_port))
            player.sendall(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            got = player.recv(1 << 16)
            wait_for(lambda: "idle, cut off" in self.server.log() or self.is_too_slow())
            try:
                while data := player.recv(1 << 20):
                    got += data
            except ConnectionResetError:
                pass  # bytes that the kernel still had may be lost
        have = got.partition(b"\r\n\r\n")[2]
        self.assertLess(len(have), SIZE)
        self.assertTrue(self.content.startswith(have))
        status, rest = self.get(self.connect(), Range=f"bytes={len(have)}-")
        self.assertEqual(status, 206)
        self.assertTrue(have + rest == self.content)
        self.assertIsNone(self.fetched())

    def is_too_slow(self) -> bool:
        return "bytes a second" in self.server.log()

    def test_a_link_is_in_no_log(self) -> None:
        """Neither when it is created nor when it is used, valid or not."""
        self.serve()
        connection = self.connect()
        connection.request("POST", f"/api/v1/tasks/{self.task_id}/link")
        answer = connection.getresponse()
        token = answer.read().decode().partition("link=")[2].partition('"')[0]
        self.assertGreater(len(token), 64)
        for query, status in ((token, 200), (token[:-1], 200), (f"{token}0", 200)):
            connection.request("HEAD", f"{self.path}?link={query}")
            answer = connection.getresponse()
            answer.read()
            self.assertEqual(answer.status, status)
        connection.request("GET", f"/nothing?link={token}")
        connection.getresponse().read()
        self.server.stop()
        logs = [path.read_text() for path in self.server.root.rglob("*.log")]
        logs.append((self.server.root / "output.txt").read_text())
        self.assertGreater(len(logs), 3)
        self.assertFalse(any(token[:40] in log for log in logs))
