"""Third-party clients against a real server: curl, requests, aiohttp and tuspy."""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from twisted.trial.unittest import SynchronousTestCase

from support.folders import files_below
from support.http_server import HTTPServerProcess
from support.programs import need_program
from support.server_process import PlainClient, wait_for

MEDIA = Path(__file__).parent / "media"
CLIP = MEDIA / "screencast-480p-vp9-opus.webm"
GIF = "type=gif&start_time=0&duration=0.2&width=16&fps=5"
GIF_METADATA = {
    "type": "gif",
    "parameters": json.dumps({"start_time": 0, "duration": 0.2, "width": 16, "fps": 5}),
    "filename": "naïve film.webm",
}
KEY = "6f2d4a9e-1111-4222-8333-123456789abc"


@cache
def one_server() -> HTTPServerProcess:
    """Return the server for all tests that do not stop it."""
    folder = tempfile.mkdtemp(dir=".")
    server = HTTPServerProcess(Path(folder), "--tasks-per-ip=50").start()
    atexit.register(server.stop)
    return server


class ClientTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = self.serve()
        self.url = f"http://127.0.0.1:{self.server.http_port}"
        self.tasks = f"{self.url}/api/v1/tasks"
        self.session = requests.Session()
        self.session.trust_env = False  # its proxies are not ours
        self.addCleanup(self.session.close)

    def serve(self) -> HTTPServerProcess:
        return one_server()

    def assert_completes(self, task_id: str) -> None:
        """The task completes, according to MMP: both frontends have the same tasks."""
        self.assertEqual(PlainClient(self.server.port).wait(task_id)["status"], "completed")

    def large(self, size: int = 3 << 20) -> Path:
        """Return a file that is not a film."""
        path = Path(self.mktemp())
        path.write_bytes(bytes(size))
        return path


class CurlTests(ClientTestCase):
    def curl(self, *arguments: str, stdin: bytes | None = None) -> tuple[int, Any]:
        """Run curl; return the status and the JSON of the answer."""
        output = Path(self.mktemp())
        done = subprocess.run(
            [
                need_program("curl"),
                "-sS",
                "-m",
                "60",
                "-o",
                str(output),
                "-w",
                "%{http_code}",
                *arguments,
            ],
            input=stdin,
            capture_output=True,
            check=True,
        )
        self.assertEqual(done.stderr, b"")
        text = output.read_bytes() if output.exists() else b""
        return int(done.stdout), json.loads(text) if text else None

    def test_every_way_to_send_a_film(self) -> None:
        """A file by PUT, a pipe in chunks, POST with a key, and a form."""
        target = f"{self.tasks}?{GIF}"
        data = CLIP.read_bytes()
        for arguments, stdin in (
            (["-T", str(CLIP), target], None),
            (["-T", "-", target], data),
            (["--data-binary", f"@{CLIP}", "-H", f"Idempotency-Key: {KEY}", target], None),
            (
                ["-F", "type=gif", "-F", "start_time=0", "-F", "duration=0.2", "-F", "width=16"],
                None,
            ),
        ):
            if "-F" in arguments:
                arguments += ["-F", f"file=@{CLIP}", self.tasks]
            status, answer = self.curl(*arguments, stdin=stdin)
            self.assertEqual((status, answer["status"]), (201, "accepted"), answer)
        self.assert_completes(answer["task_id"])

    def test_refusals_can_be_read(self) -> None:
        """Both before the body, if curl asks before sending it, and within it."""
        large = str(self.large())
        for arguments, status in (
            (["-T", large, f"{self.tasks}?type=gif"], 422),
            (["-H", "Expect:", "-T", large, f"{self.tasks}?type=dance"], 400),
            (["-F", f"file=@{large}", self.tasks], 400),
            (["-X", "BREW", self.tasks], 405),
            ([f"{self.url}/nothing"], 404),
            (["-H", "Host: evil.example", self.tasks], 421),
            (["-H", "Origin: https://evil.example", f"{self.url}/healthz"], 403),
        ):
            got, problem = self.curl(*arguments)
            self.assertEqual(got, status, arguments)
            self.assertEqual(problem["status"], status)
            self.assertTrue(problem["solution"])


class RequestsTests(ClientTestCase):
    def test_a_file_and_a_generator(self) -> None:
        """With a length, and in chunks."""

        def parts() -> Iterator[bytes]:
            data = CLIP.read_bytes()
            for start in range(0, len(data), 10_000):
                yield data[start : start + 10_000]

        for body in (CLIP.read_bytes(), parts()):
            answer = self.session.put(f"{self.tasks}?{GIF}", data=body, timeout=60)
            self.assertEqual(answer.status_code, 201)
            location = urljoin(answer.url, answer.headers["Location"])
            self.assertEqual(location, f"{self.tasks}/{answer.json()['task_id']}")

    def test_a_refusal_can_be_read_by_a_client_that_sends_all_first(self) -> None:
        """Otherwise it would see a reset."""
        with self.large(32 << 20).open("rb") as body:
            answer = self.session.post(f"{self.tasks}?type=dance", data=body, timeout=60)
        self.assertEqual(answer.status_code, 400)
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")

    def test_aiohttp_sends_a_form(self) -> None:
        """Its parts have their own headers."""

        async def send() -> tuple[int, Any]:
            form = aiohttp.FormData()
            for pair in GIF.split("&"):
                form.add_field(*pair.split("="))
            form.add_field("file", CLIP.read_bytes(), filename="film.webm")
            async with (
                aiohttp.ClientSession() as session,
                session.post(self.tasks, data=form) as answer,
            ):
                return answer.status, await answer.json()

        status, answer = asyncio.run(send())
        self.assertEqual(status, 201, answer)


class TuspyTests(ClientTestCase):
    def uploader(self, path: Path, **options: Any) -> Any:
        client = TusClient(f"{self.url}/api/v1/uploads")
        return client.uploader(str(path), metadata=GIF_METADATA, retries=2, **options)

    def head(self, url: str) -> Any:
        return self.session.head(url, headers={"Tus-Resumable": "1.0.0"}, timeout=60).headers

    def test_a_film_in_parts(self) -> None:
        """With and without checksums; the last part names the task."""
        for checksum in (False, True):
            uploader = self.uploader(CLIP, chunk_size=50_000, upload_checksum=checksum)
            uploader.upload()
            headers = self.head(uploader.url)
            self.assertEqual(int(headers["Upload-Offset"]), CLIP.stat().st_size)
        self.assert_completes(headers["Vidproc-Task"])

    def test_another_client_goes_on(self) -> None:
        """With the upload's URL, from where the first one stopped."""
        first = self.uploader(CLIP, chunk_size=50_000)
        first.upload_chunk()
        second = self.uploader(CLIP, url=first.url)
        self.assertEqual(second.get_offset(), 50_000)
        second.upload()
        self.assertIn("Vidproc-Task", self.head(first.url))

    def test_a_refused_creation(self) -> None:
        """The client library raises its error with our status."""
        client = TusClient(f"{self.url}/api/v1/uploads")
        with self.assertRaises(TusCommunicationError) as caught:
            client.uploader(str(CLIP), metadata={"type": "dance"}).upload()
        self.assertEqual(caught.exception.status_code, 400)


class KillTests(ClientTestCase):
    def serve(self) -> HTTPServerProcess:
        server = HTTPServerProcess(Path(self.mktemp())).start()
        self.addCleanup(server.stop)
        return server

    def test_kill_9_within_a_tus_upload(self) -> None:
        """The client resumes at the offset of HEAD; no acknowledged byte is sent again or lost."""
        film = CLIP.read_bytes() + bytes(24 << 20)
        digest = hashlib.sha256(film).hexdigest()
        created = self.session.post(
            f"{self.url}/api/v1/uploads",
            headers={
                "Tus-Resumable": "1.0.0",
                "Upload-Length": str(len(film)),
                "Upload-Metadata": encode_metadata(GIF_METADATA | {"sha256": digest}),
            },
            timeout=60,
        )
        path = "/api/v1/uploads/" + created.headers["Location"].rpartition("/")[2]
        acknowledged = kills = 0
        task_id = None
        while task_id is None:
            offset = int(self.head(path)["Upload-Offset"])
            self.assertGreaterEqual(offset, acknowledged)
            acknowledged = offset
            last = offset + (5 << 20) + 12_345
            for end in (min(len(film), last - (1 << 20)), min(len(film), last)):
                killed = end == last and kills < 4
                part = film[acknowledged:end]
                body: Any = self.killing(part) if killed else part
                try:
                    answer = self.patch(path, acknowledged, body)
                except requests.ConnectionError:
                    kills += 1
                    self.server.start()
                    self.url = f"http://127.0.0.1:{self.server.http_port}"
                    break
                self.assertEqual(answer.status_code, 204, answer.text)
                acknowledged = int(answer.headers["Upload-Offset"])
                self.assertEqual(acknowledged, end)
                task_id = answer.headers.get("Vidproc-Task")
        self.assertEqual(kills, 4)
        self.assert_completes(task_id)

    def test_kill_9_within_a_part_with_a_checksum(self) -> None:
        """Bytes that can no longer be verified do not count as received."""
        film, part = CLIP.read_bytes() + bytes(4 << 20), 1 << 20
        created = self.session.post(
            f"{self.url}/api/v1/uploads",
            headers={
                "Tus-Resumable": "1.0.0",
                "Upload-Length": str(len(film)),
                "Upload-Metadata": encode_metadata(GIF_METADATA),
            },
            timeout=60,
        )
        path = "/api/v1/uploads/" + created.headers["Location"].rpartition("/")[2]

        def damaged() -> Iterator[bytes]:
            yield bytes(part)
            wait_for(lambda: self.bytes_on_disk() >= 2 * part)
            self.server.kill()
            yield bytes(part)

        self.assertEqual(self.patch(path, 0, film[:part], check=film[:part]).status_code, 204)
        with self.assertRaises(requests.ConnectionError):
            self.patch(path, part, damaged(), check=film[part:])
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.http_port}"
        self.assertEqual(int(self.head(path)["Upload-Offset"]), part)
        answer = self.patch(path, part, film[part:], check=film[part:])
        self.assert_completes(answer.headers["Vidproc-Task"])

    def bytes_on_disk(self) -> int:
        """Return the size of the files of incomplete uploads."""
        return sum(file.stat().st_size for file in files_below(self.server.data_dir / "uploads"))

    def killing(self, part: bytes) -> Iterator[bytes]:
        """Send a part, and kill the server in the middle of it."""
        half = len(part) // 2
        yield part[:half]
        self.server.kill()
        for start in range(half, len(part), 4096):
            yield part[start : start + 4096]

    def head(self, path: str) -> Any:
        answer = self.session.head(self.url + path, headers={"Tus-Resumable": "1.0.0"}, timeout=60)
        self.assertEqual(answer.status_code, 200)
        return answer.headers

    def patch(
        self, path: str, offset: int, body: Any, check: bytes | None = None
    ) -> requests.Response:
        """Send `body`; with `check`, promise the checksum of those bytes."""
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
        }
        if check is not None:
            digest = base64.b64encode(hashlib.sha256(check).digest()).decode()
            headers["Upload-Checksum"] = f"sha256 {digest}"
        return self.session.patch(self.url + path, data=body, headers=headers, timeout=60)


def encode_metadata(pairs: dict[str, str]) -> str:
    """Return the value of Upload-Metadata for `pairs`."""
    return ",".join(f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in pairs.items())
