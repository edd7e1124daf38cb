"""The HTTP frontend of a real twistd, on a real socket."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from support.http_server import HTTPServerProcess


class RealServerTests(SynchronousTestCase):
    def test_it_answers_and_stops_with_an_idle_connection(self) -> None:
        """Requests go over one connection, which a stop closes."""
        server = HTTPServerProcess(Path(self.mktemp())).start()
        self.addCleanup(server.stop)
        client = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
        self.addCleanup(client.close)
        for path in ("/healthz", "/readyz", "/api/v1/info"):
            client.request("GET", path)
            answer = client.getresponse()
            self.assertEqual(answer.status, 200)
            self.assertIn("status", json.loads(answer.read()))
        server.stop()
        assert client.sock is not None
        self.assertEqual(client.sock.recv(1), b"")
