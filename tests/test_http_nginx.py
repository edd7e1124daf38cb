"""nginx in front of the HTTP frontend: with TLS and a prefix, configured as in
docs/deployment.md."""

from __future__ import annotations

import hashlib
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
from tusclient.client import TusClient
from twisted.trial.unittest import SynchronousTestCase

from support.http_server import HTTPServerProcess
from support.nginx import Nginx
from support.programs import need_program
from support.server_process import wait_for
from tests.test_http_clients import CLIP, GIF, GIF_METADATA, encode_metadata

TUS = {"Tus-Resumable": "1.0.0"}


class NginxTests(SynchronousTestCase):
    def setUp(self) -> None:
        need_program("nginx", "nginx-light")  # before the server is started
        options = ("--trusted-proxy=127.0.0.1", "--tasks-per-ip=3")
        self.server = HTTPServerProcess(Path(self.mktemp()), *options).start()
        self.addCleanup(self.server.stop)
        root = Path(self.mktemp())
        root.mkdir()
        self.nginx = Nginx(root, self.server.http_port)
        self.addCleanup(self.nginx.stop)
        self.session = requests.Session()
        self.session.trust_env = False  # its proxies and certificates are not ours
        self.session.verify = str(self.nginx.certificate)
        self.addCleanup(self.session.close)
        self.api = f"{self.nginx.url}/api/v1"

    def test_programs_see_no_difference(self) -> None:
        """Uploads, refusals within a body, events and results."""
        self.submits_and_follows()
        self.tus_goes_on_after_a_cut()
        with self.large() as body:
            answer = self.session.put(f"{self.api}/tasks?type=dance", data=body, timeout=60)
        self.assertEqual(answer.status_code, 400)
        self.assertTrue(answer.json()["solution"])

    def submits_and_follows(self) -> None:
        """All URLs are relative, so they work below the prefix; events arrive at once."""
        answer = self.session.put(f"{self.api}/tasks?{GIF}", data=CLIP.read_bytes(), timeout=60)
        self.assertEqual(answer.status_code, 201)
        task = urljoin(answer.url, answer.headers["Location"])
        self.assertTrue(task.startswith(f"{self.api}/tasks/"), task)
        events = self.session.get(f"{task}/events", stream=True, timeout=60)
        text = b"".join(events.iter_content(None)).decode()
        self.assertIn('"status":"completed"', text)
        status = self.session.get(task, timeout=60).json()
        result = self.session.get(f"{task}/result", timeout=60)
        self.assertEqual(result.headers["ETag"], f'"{hashlib.sha256(result.content).hexdigest()}"')
        self.assertEqual(len(result.content), status["output"]["bytes"])

    def tus_goes_on_after_a_cut(self) -> None:
        """Bytes received before a break are kept, even behind nginx."""
        data = CLIP.read_bytes()
        created = self.session.post(
            f"{self.api}/uploads",
            headers=TUS
            | {"Upload-Length": str(len(data)), "Upload-Metadata": encode_metadata(GIF_METADATA)},
            timeout=60,
        )
        url = urljoin(created.url, created.headers["Location"])
        self.assertTrue(url.startswith(f"{self.api}/uploads/"), url)
        self.cut_off_patch(url, data)
        client: Any = TusClient(f"{self.api}/uploads")
        client.uploader(str(CLIP), url=url, verify_tls_cert=False).upload()
        self.assertIn("Vidproc-Task", self.session.head(url, headers=TUS, timeout=60).headers)

    def cut_off_patch(self, url: str, data: bytes) -> None:
        """Send half of a part, and disconnect once some of it has arrived."""

        def some() -> bool:
            head = self.session.head(url, headers=TUS, timeout=60)
            return int(head.headers["Upload-Offset"]) >= 50_000

        context = ssl.create_default_context(cafile=str(self.nginx.certificate))
        with (
            socket.create_connection(("127.0.0.1", self.nginx.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            path = url.partition(f":{self.nginx.port}")[2]
            head = (
                f"PATCH {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\n"
                f"Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
                f"Content-Length: {len(data)}\r\n\r\n"
            )
            secure.sendall(head.encode() + data[: len(data) // 2])
            wait_for(some)

    def large(self) -> Any:
        path = Path(self.mktemp())
        path.write_bytes(bytes(16 << 20))
        return path.open("rb")
