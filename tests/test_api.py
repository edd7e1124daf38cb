"""vidproc.api: the calls against scripted answers, both drivers and the docs' examples against a
real server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import trio
from twisted.trial.unittest import SynchronousTestCase

from support.http_server import HTTPServerProcess
from vidproc.api import (
    AsyncClient,
    Client,
    Progress,
    Refused,
    ResultDamaged,
    Status,
    TaskCancelled,
    TaskFailed,
    TimedOut,
    Unreachable,
    VidprocError,
    downloads,
    process,
    processing,
    tasks,
    uploads,
)
from vidproc.api.drivers import BlockingDriver
from vidproc.api.effects import Broken, Call, FilePart, InThread, Reply, Send, Sleep
from vidproc.api.settings import Settings
from vidproc.resume import REMEMBER_FROM

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "tests" / "media" / "friday-480p-aac.mp4"
CONTENT = b"the film " * 1000
RESULT = b"the result " * 1000
ETAG = f'"{hashlib.sha256(RESULT).hexdigest()}"'


class Server:
    """A driver that acts as a server: an upload, its task, and the result.

    `script` answers the first requests instead, each with a reply or an exception. `sent` has the
    requests, `slept` the total time of waiting.
    """

    def __init__(self, *script: Reply | Exception | None) -> None:
        self.script = list(script)
        self.sent: list[Send] = []
        self.slept = 0.0
        self.received = bytearray()
        self.statuses: list[dict[str, Any]] = [
            {"status": "completed", "task_id": "t1", "warnings": ["w"]}
        ]
        self.cut_body: list[int] = []
        self.result = RESULT
        self.gone = False

    def now(self) -> float:
        return self.slept

    def run(self, call: Call[T]) -> T:
        answer: Any = None
        problem: Exception | None = None
        while True:
            try:
                effect = call.send(answer) if problem is None else call.throw(problem)
            except StopIteration as stop:
                result: T = stop.value
                return result
            answer = problem = None
            if isinstance(effect, Sleep):
                self.slept += effect.seconds
            elif isinstance(effect, InThread):
                answer = effect.function()
            else:
                self.sent.append(effect)
                try:
                    answer = self.answer(effect)
                except (Broken, OSError) as error:
                    problem = error

    def answer(self, send: Send) -> Reply:
        scripted = self.script.pop(0) if self.script else None
        if isinstance(scripted, Exception):
            raise scripted
        if scripted is not None:
            return scripted
        if send.method == "POST":
            self.received.clear()
            self.gone = False
            return Reply(201, {"location": "uploads/u1"})
        if send.method == "HEAD":
            if self.gone:
                return Reply(404, {})
            return Reply(200, {"upload-offset": str(len(self.received))})
        if send.method == "PATCH":
            return self.take(send)
        if send.url.endswith("/events"):
            return self.tell(send)
        return self.give(send)

    def take(self, send: Send) -> Reply:
        assert isinstance(send.body, FilePart)
        assert send.body.offset == len(self.received) == int(send.headers["Upload-Offset"])
        send.body.file.seek(send.body.offset)
        data = send.body.file.read(send.body.size)
        if self.cut_body:
            data = data[: self.cut_body.pop(0)]
            self.received += data
            raise Broken("cut")
        self.received += data
        send.body.on_sent(len(data))
        return Reply(204, {"vidproc-task": "t1"})

    def tell(self, send: Send) -> Reply:
        reply = Reply(200, {"content-type": "text/event-stream"})
        assert send.receiver is not None and send.receiver.wants(reply)
        text = "".join(f": hello\nevent: status\ndata: {json.dumps(s)}\n\n" for s in self.statuses)
        for number in range(0, len(text), 7):
            if not send.receiver.write(text[number : number + 7].encode()):
                break
        return reply

    def give(self, send: Send) -> Reply:
        start = 0
        headers = {"etag": ETAG, "content-type": "video/mp4"}
        if "Range" in send.headers and send.headers["If-Range"] == ETAG:
            start = int(send.headers["Range"].removeprefix("bytes=").rstrip("-"))
            whole = len(self.result)
            headers["content-range"] = f"bytes {start}-{whole - 1}/{whole}"
        headers["content-length"] = str(len(self.result) - start)
        reply = Reply(206 if start else 200, headers)
        assert send.receiver is not None and send.receiver.wants(reply)
        data = self.result[start:]
        if self.cut_body:
            send.receiver.write(data[: self.cut_body.pop(0)])
            raise Broken("cut")
        send.receiver.write(data)
        return reply


def problem(code: int, **headers: str) -> Reply:
    body = {"title": "T", "status": code, "detail": f"Detail {code}.", "solution": f"Do {code}."}
    return Reply(code, headers, json.dumps(body).encode())


class CallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.film = self.folder / "film.mov"
        self.film.write_bytes(CONTENT)
        self.progress: list[Progress] = []

    def process(self, server: Server, **more: Any) -> Any:
        settings = Settings("http://x/root/", "s3cret", clock=server.now, slot_timeout=100)
        return server.run(
            processing.process(
                settings,
                self.film,
                "gif",
                {"fps": 5},
                more.get("output"),
                self.progress.append,
                more.get("timeout"),
            )
        )

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def test_a_film_there_and_back(self) -> None:
        server = Server()
        result = self.process(server)
        self.assertEqual(bytes(server.received), CONTENT)
        self.assertEqual(result.path, self.folder / "film_processed.mp4")
        self.assertEqual(result.path.read_bytes(), RESULT)
        self.assertEqual((result.size, result.sha256), (len(RESULT), ETAG.strip('"')))
        self.assertEqual(result.warnings, ("w",))
        self.assertEqual(self.left(), ["film.mov", "film_processed.mp4"])
        self.assertEqual({one.step for one in self.progress}, {"uploading", "downloading"})
        self.assertEqual(server.sent[0].url, "http://x/root/api/v1/uploads")
        self.assertEqual(server.sent[1].url, "http://x/root/api/v1/uploads/u1")
        for send in server.sent:
            self.assertEqual(send.headers["Authorization"], "Bearer s3cret")

    def test_a_default_name_that_is_taken_stays_what_it_is(self) -> None:
        self.process(Server())
        self.assertEqual(self.process(Server()).path.name, "film_processed_2.mp4")
        named = self.folder / "x.mp4"
        named.write_bytes(b"old")
        self.assertEqual(self.process(Server(), output=named).path.read_bytes(), RESULT)

    def test_the_video_is_never_overwritten(self) -> None:
        server = Server()
        self.assertRaises(VidprocError, self.process, server, output=self.film)
        self.assertEqual(server.sent, [])

    def test_an_upload_goes_on_at_the_byte_that_the_server_has(self) -> None:
        server = Server()
        server.cut_body = [100, 0, 2000]
        self.process(server)
        self.assertEqual(bytes(server.received), CONTENT)
        offsets = [s.headers["Upload-Offset"] for s in server.sent if s.method == "PATCH"]
        self.assertEqual(offsets, ["0", "100", "100", "2100"])

    def test_what_an_earlier_process_has_sent(self) -> None:
        """It is asked for first. A refusal for good is forgotten, one that may pass is not."""
        self.patch(uploads, "REMEMBER_FROM", 0)
        self.patch(os, "environ", {**os.environ, "XDG_STATE_HOME": str(self.folder.absolute())})
        first = Server(problem(401))
        self.assertRaises(Refused, self.process, first)
        upload_id = first.sent[0].headers["Idempotency-Key"]
        second = Server(problem(422))
        self.assertRaises(Refused, self.process, second)
        asked = [(send.method, send.url) for send in second.sent]
        self.assertEqual(asked, [("HEAD", f"http://x/root/api/v1/uploads/{upload_id}")])
        third = Server()
        self.process(third)
        self.assertEqual(third.sent[0].method, "POST")
        self.assertNotEqual(third.sent[0].headers["Idempotency-Key"], upload_id)
        self.assertEqual(list(self.folder.glob("vidproc/uploads/*.json")), [])

    def test_an_upload_that_has_expired_begins_anew(self) -> None:
        server = Server()
        server.cut_body = [100]
        server.gone = True
        self.process(server)
        self.assertEqual(bytes(server.received), CONTENT)

    def test_a_lost_answer_to_the_last_byte_is_found_again(self) -> None:
        """The film was accepted, so nothing is sent again."""
        server = Server(None, Broken("lost"), Reply(200, {"vidproc-task": "t9"}))
        self.process(server)
        self.assertEqual([s.method for s in server.sent].count("PATCH"), 1)
        self.assertTrue(server.sent[-1].url.endswith("/tasks/t9/result"))

    def test_429_and_503_wait_and_cost_no_try(self) -> None:
        refusals = [problem(429, **{"retry-after": "2"}), problem(503)] * 4
        script: list[Reply | None] = [None]
        for refusal in refusals:
            script += [refusal, None]  # a PATCH, then a HEAD
        server = Server(*script)
        self.process(server)
        self.assertIn("Detail 429.", [one.detail for one in self.progress])
        self.assertGreater(server.slept, 5.0)

    def test_a_retry_after_that_is_no_number_of_seconds(self) -> None:
        """It may be a date, and `str.isdigit` says yes to more than Python reads as a number."""
        odd = ("Fri, 31 Dec 1999 23:59:59 GMT", "\u00b2", "-1", "")
        server = Server(*[problem(503, **{"retry-after": value}) for value in odd])
        self.process(server)
        self.assertGreater(server.slept, 0.0)

    def test_waiting_for_a_slot_ends(self) -> None:
        server = Server(*[problem(429)] * 100)
        error = self.assertRaises(Refused, self.process, server)
        self.assertEqual((error.code, error.solution), (429, "Do 429."))
        self.assertGreater(server.slept, 80.0)

    def test_a_refusal_is_final(self) -> None:
        server = Server(problem(422))
        error = self.assertRaises(Refused, self.process, server)
        self.assertEqual((error.code, error.description), (422, "Detail 422."))
        self.assertEqual((len(server.sent), server.slept), (1, 0.0))

    def test_a_server_that_is_gone_is_given_up(self) -> None:
        """The error says where the upload can be resumed, if it had begun."""
        error = self.assertRaises(Unreachable, self.process, Server(*[Broken("no")] * 100))
        self.assertIsNone(error.upload_url)
        error = self.assertRaises(Unreachable, self.process, Server(None, *[Broken("no")] * 100))
        self.assertEqual(error.upload_url, "http://x/root/api/v1/uploads/u1")

    def test_a_download_goes_on_where_it_stopped(self) -> None:
        server = Server()
        server.run(uploads.upload(self.settings(), self.film, "gif", {}, self.progress.append))
        server.cut_body = [1000, 2000]
        target = self.folder / "x.mp4"
        done = Status.of({"status": "completed"})
        call = downloads.download(self.settings(), "t1", target, self.progress.append, done)
        self.assertEqual(server.run(call).path.read_bytes(), RESULT)
        ranges = [s.headers.get("Range") for s in server.sent if s.url.endswith("/result")]
        self.assertEqual(ranges, [None, "bytes=1000-", "bytes=3000-"])

    def settings(self) -> Settings:
        return Settings("http://x")

    def test_another_run_goes_on_with_the_download(self) -> None:
        """Unless the result has changed since."""
        target = self.folder / "x.mp4"
        done = Status.of({"status": "completed"})
        for etag in (ETAG, '"' + "0" * 64 + '"'):
            server = Server(None, *[Broken("gone")] * 9)
            server.cut_body = [1000]
            call = downloads.download(self.settings(), "t1", target, self.progress.append, done)
            self.assertRaises(Unreachable, server.run, call)
            [tag] = self.folder.glob("*.etag")
            tag.write_text(etag)
            server = Server()
            call = downloads.download(self.settings(), "t1", target, self.progress.append, done)
            self.assertEqual(server.run(call).path.read_bytes(), RESULT)
            self.assertEqual(server.sent[0].headers["Range"], "bytes=1000-")
        self.assertEqual(self.left(), ["film.mov", "x.mp4"])

    def test_a_damaged_result_gets_no_name(self) -> None:
        server = Server()
        server.result = b"x" + RESULT[1:]
        self.assertRaises(ResultDamaged, self.process, server)
        self.assertEqual(self.left(), ["film.mov"])

    def test_a_hostile_server_names_no_program(self) -> None:
        for disposition in ('attachment; filename="x.sh"', 'attachment; filename="../../x.py"'):
            server = Server()
            give = server.give

            def hostile(
                send: Send,
                give: Callable[[Send], Reply] = give,
                disposition: str = disposition,
            ) -> Reply:
                assert send.receiver is not None
                data = give(send)
                headers = {**data.headers, "content-type": "x", "content-disposition": disposition}
                send.receiver.wants(Reply(200, headers))
                send.receiver.write(RESULT)
                return data

            server.give = hostile  # type: ignore[method-assign]
            self.assertEqual(self.process(server).path.suffix, ".bin")

    def test_tasks_that_end_without_a_result(self) -> None:
        server = Server()
        failed = {"status": "failed", "error": "No.", "error_code": 415, "solution": "Do."}
        server.statuses = [{"status": "queued", "queue_position": 2}, failed]
        error = self.assertRaises(TaskFailed, self.process, server)
        self.assertEqual((error.code, error.solution, error.task_id), (415, "Do.", "t1"))
        self.assertIn("position 2", [one.detail for one in self.progress])
        server.statuses = [{"status": "expired"}]
        self.assertRaises(TaskCancelled, self.process, server)

    def test_a_wait_that_is_over_says_which_task(self) -> None:
        server = Server()
        server.statuses = [{"status": "processing", "progress": 0.5, "stage": "encoding"}]
        tell = server.tell

        def slow(send: Send) -> Reply:
            server.slept += 10
            return tell(send)

        server.tell = slow  # type: ignore[method-assign]
        error = self.assertRaises(TimedOut, self.process, server, timeout=30)
        self.assertEqual(error.task_id, "t1")

    def test_a_video_that_is_not_there(self) -> None:
        self.film.unlink()
        self.assertRaises(VidprocError, self.process, Server())

    def test_what_is_no_vidproc_is_named_as_such(self) -> None:
        server = Server(Reply(200, {}, b"<html>"))
        error = self.assertRaises(
            VidprocError, server.run, tasks.request(self.settings(), "GET", "info")
        )
        self.assertIn("Check the URL", error.solution)


SCRIPT = """
import os, signal, sys
from vidproc.api import Client

url, film, kill_at = sys.argv[1], sys.argv[2], float(sys.argv[3])
seen = []

def progress(now):
    if now.step == "uploading":
        seen.append(now.fraction)
        if now.fraction > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

task_id = Client(url).upload(film, "extract_audio", on_progress=progress)
print(seen[0], seen[-1], task_id)
"""
"""Uploads a film, and kills itself after a share of it."""


class RealServerTests(SynchronousTestCase):
    def test_the_page_and_both_clients(self) -> None:
        """Every example of docs/api.md, and the same calls with both drivers, on one server."""
        folder = Path(self.mktemp()).absolute()
        server = HTTPServerProcess(folder / "server").start()
        self.addCleanup(server.stop)
        film = folder / "film.mp4"
        film.write_bytes(CLIP.read_bytes())
        self.run_the_page(folder, server.http_port)
        self.compare_the_drivers(folder, server.http_port)

    def run_the_page(self, folder: Path, port: int) -> None:
        page = (ROOT / "docs" / "api.md").read_text()
        blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        self.assertGreater(len(blocks), 4)
        home = Path.cwd()
        self.addCleanup(os.chdir, home)
        os.chdir(folder)
        printed: list[str] = []
        url = f"http://localhost:{port}"

        def note(*words: object) -> None:
            printed.append(" ".join(map(str, words)))

        names: dict[str, Any] = {"print": note}
        self.patch(process, "__kwdefaults__", {**(process.__kwdefaults__ or {}), "url": url})
        for kind in (Client, AsyncClient):
            self.patch(kind.__init__, "__defaults__", (url, None))
        for block in blocks:
            exec(compile(block.replace("http://localhost:9980", url), "docs/api.md", "exec"), names)
        os.chdir(home)
        there = {path.name for path in folder.iterdir()}
        wanted = {"film_processed.gif", "small.mp4", "film.mp3", "film.webm"}
        self.assertEqual(wanted - there, set())
        self.assertTrue(printed[0].startswith("film_processed.gif "), printed)
        self.assertTrue(any(line.startswith("processing ") for line in printed), printed)
        self.assertIn("fps", printed[-1])

    def compare_the_drivers(self, folder: Path, port: int) -> None:
        url = f"http://127.0.0.1:{port}"
        parameters: dict[str, Any] = {"start_time": 0, "duration": 0.5, "width": 64}
        with Client(url) as client:
            one = client.process(folder / "film.mp4", "gif", output=folder / "1.gif", **parameters)
            self.assertEqual(client.status(one.status.task_id).status, "completed")
            self.assertEqual(self.assertRaises(Refused, client.tasks).code, 401)

        async def other() -> bytes:
            async with AsyncClient(url) as client:
                film, target = folder / "film.mp4", folder / "2.gif"
                result = await client.process(film, "gif", output=target, **parameters)
                await client.cancel(result.status.task_id)
                return result.path.read_bytes()

        self.assertEqual(asyncio.run(other()), one.path.read_bytes())
        self.assertEqual(trio.run(other), one.path.read_bytes())
        self.assertEqual(one.path.read_bytes()[:3], b"GIF")

    def test_a_script_that_was_killed(self) -> None:
        """Started again, it goes on at the byte that the server has; and nothing stays behind."""
        folder = Path(self.mktemp()).absolute()
        server = HTTPServerProcess(folder / "server").start()
        self.addCleanup(server.stop)
        film = folder / "film.mp4"
        data = CLIP.read_bytes()
        filling = REMEMBER_FROM - len(data) + (1 << 20)
        film.write_bytes(data + struct.pack(">I4s", filling, b"free").ljust(filling, b"\0"))
        state = folder / "state"
        environment = {**os.environ, "XDG_STATE_HOME": str(state)}
        url = f"http://127.0.0.1:{server.http_port}"

        def run(kill_at: float) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", SCRIPT, url, str(film), str(kill_at)],
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=120,
            )

        self.assertEqual(run(0.5).returncode, -signal.SIGKILL)
        (kept,) = (state / "vidproc" / "uploads").glob("*.json")
        done = run(2.0)
        self.assertEqual(done.returncode, 0, done.stderr)
        first, last, task_id = done.stdout.split()
        self.assertGreater(float(first), 0.2)
        self.assertEqual(float(last), 1.0)
        self.assertFalse(kept.exists())
        with Client(url) as client:
            self.assertEqual(client.wait(task_id).input["bytes"], film.stat().st_size)

    def test_nobody_listens(self) -> None:
        settings = Settings("http://127.0.0.1:1", tries=0)
        with httpx.Client() as http:
            call = tasks.request(settings, "GET", "info")
            self.assertRaises(Unreachable, BlockingDriver(http).run, call)
