"""The HTTP frontend of a real twistd, on real sockets, plain and over TLS."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from support.certificates import write_certificate
from support.http_server import HTTPServerProcess
from support.server_process import PlainClient
from tests.http_rig import Response, request
from vidproc.mmp.codec import encode_head

GIF = "/api/v1/tasks?type=gif&start_time=0&duration=1"
ENOUGH = 32 << 20
"""Bytes that no socket buffers hold."""


class TLSServer(HTTPServerProcess):
    """Serves HTTP over TLS, too."""

    def command(self) -> list[str]:
        self.certificate, key = write_certificate(self.root / "tls")
        where = "ssl:0:interface=127.0.0.1"
        return [*super().command(), f"--http={where}:privateKey={key}:certKey={self.certificate}"]

    @property
    def tls_port(self) -> int:
        return self.ports[2]


class RealServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = TLSServer(Path(self.mktemp()), "--tasks-per-ip=9", "--grace=20s").start()
        self.addCleanup(self.server.stop)

    def connect(self, tls: bool) -> socket.socket:
        port = self.server.tls_port if tls else self.server.http_port
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        if tls:
            context = ssl.create_default_context(cafile=str(self.server.certificate))
            connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
        self.addCleanup(connection.close)
        return connection

    def read_answer(self, connection: socket.socket) -> Response:
        """Read until one answer is whole."""
        data = b""
        while True:
            got = connection.recv(1 << 16)
            data += got
            try:
                return Response(data)
            except (AssertionError, TypeError):
                if not got:
                    raise

    def test_a_connection(self) -> None:
        """Plain and over TLS: requests in turn, a large upload, a refusal that a client can read
        although it sends all of its body first, and an end in good order at a stop."""
        for tls in (False, True):
            self.serves_requests_in_turn(tls)
            self.takes_a_large_upload(tls)
            self.refuses_within_a_body(tls)
        self.takes_over_from_mmp()
        self.stops_with_an_upload_under_way()

    def serves_requests_in_turn(self, tls: bool) -> None:
        connection = self.connect(tls)
        for path in ("/healthz", "/readyz", "/api/v1/info"):
            connection.sendall(request("GET", path))
            answer = self.read_answer(connection)
            self.assertEqual(answer.status, 200)
            self.assertIn("status", answer.json)

    def takes_a_large_upload(self, tls: bool) -> None:
        """Past the reactor where the kernel can; the next request is found behind it."""
        connection = self.connect(tls)
        body = bytes(range(256)) * (ENOUGH >> 8)
        connection.sendall(request("PUT", GIF, body) + request("GET", "/healthz"))
        answer = self.read_answer(connection)
        self.assertEqual(answer.status, 201, answer.body)
        following = Response(answer.rest) if answer.rest else self.read_answer(connection)
        self.assertEqual(following.status, 200)

    def refuses_within_a_body(self, tls: bool) -> None:
        connection = self.connect(tls)
        connection.sendall(request("PUT", "/api/v1/tasks?type=dance", bytes(ENOUGH)))
        answer = self.read_answer(connection)
        self.assertEqual((answer.status, answer.closes), (400, True))

    def takes_over_from_mmp(self) -> None:
        """An upload that MMP has begun goes on by tus, while its connection still stands."""
        upload_id = "6f2d4a9e-1111-4222-8333-123456789abc"
        parameters = {"start_time": 0, "duration": 1}
        mmp = PlainClient(self.server.port).connect()
        self.addCleanup(mmp.close)
        message = {
            "action": "upload",
            "type": "gif",
            "parameters": parameters,
            "upload_id": upload_id,
            "size": 8,
        }
        mmp.sendall(encode_head(json.dumps(message).encode(), "mp4", 8) + b"film")
        path = f"/api/v1/uploads/{upload_id}"
        connection = self.connect(tls=False)
        offset = None
        while offset != "4":
            connection.sendall(request("HEAD", path, Tus_Resumable="1.0.0"))
            head = connection.recv(1 << 16)
            offset = Response(head, head_only=True).headers["Upload-Offset"]
        patch = request(
            "PATCH",
            path,
            b"film",
            Tus_Resumable="1.0.0",
            Upload_Offset="4",
            Content_Type="application/offset+octet-stream",
        )
        connection.sendall(patch)
        answer = Response(connection.recv(1 << 16))
        self.assertEqual(answer.status, 204)
        self.assertIn(b'"code":409', mmp.recv(1 << 16))
        client = PlainClient(self.server.port)
        known, _, _ = client.request({"action": "upload_status", "upload_id": upload_id})
        self.assertEqual(known["task_id"], answer.headers["Vidproc-Task"])

    def stops_with_an_upload_under_way(self) -> None:
        """It is finished and told; idle connections end at once."""
        idle = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=60)
        self.addCleanup(idle.close)
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        busy = self.connect(tls=True)
        data = request("PUT", GIF, bytes(1 << 20), Expect="100-continue")
        busy.sendall(data[: -(1 << 20)])
        self.assertIn(b"100 Continue", busy.recv(100))
        os.kill(self.server.pid, signal.SIGTERM)
        assert idle.sock is not None
        self.assertEqual(idle.sock.recv(1), b"")
        busy.sendall(data[-(1 << 20) :])
        answer = self.read_answer(busy)
        self.assertEqual((answer.status, answer.closes), (201, True))
