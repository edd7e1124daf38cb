"""The HTTP frontend of a real twistd, on a real socket."""

from __future__ import annotations

import http.client
import json
import stat
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

    def test_a_link_outlives_a_restart(self) -> None:
        """Its key stays in the data folder, for the server alone, which knows it for its own."""
        server = HTTPServerProcess(Path(self.mktemp())).start()
        self.addCleanup(server.stop)
        key = server.data_dir / "link.key"
        first = key.read_bytes()
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        server.stop()
        server.start()
        self.assertEqual(key.read_bytes(), first)
