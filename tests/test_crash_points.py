"""A server that is killed at named steps keeps its promises after the next start.

In each test a server reaches one of `tests.crashing_server.POINTS`, where it dies as by `kill -9`,
and is started again. Whatever was accepted must complete, once; nothing incomplete may be left; the
store and the disk must agree; the address must be able to send its next task.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SkipTest, TestCase

from support.server_process import (
    START_TIMEOUT,
    TASK_TIMEOUT,
    PlainClient,
    ServerProcess,
    has_ended,
    receive,
    send,
    wait_for,
)
from tests.crashing_server import SAID
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.mmp.codec import encode_head

MEDIA = Path(__file__).parent / "media"
CLIP = MEDIA / "screencast-480p-vp9-opus.webm"
LARGE = MEDIA / "flower-540p-aac.mp4"
SHORT_GIF = {"start_time": 0, "duration": 0.5, "width": 160}
CRASHING_SERVER = str(Path(__file__).with_name("crashing_server.py"))


ENDING = (
    "result: before fsync",
    "result: before rename",
    "result: after rename",
    "result: before commit",
    "result: after commit",
)
"""The points while a task's result becomes its only file."""


def tiny_clip(kind: str, *options: str) -> Path:
    """Return a film of 64 x 48 pixels and 1.5 s, made here; `options` are FFmpeg's for x264."""
    folder = Path(tempfile.mkdtemp(dir="."))
    clip = folder / f"tiny.{kind}"
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1.5"]
    argv = [find_ffmpeg().path, "-nostdin", "-loglevel", "error", *source, "-c:v", "libx264"]
    subprocess.run([*argv, *options, "-pix_fmt", "yuv420p", str(clip)], check=True)
    return clip


class CrashingServer(ServerProcess):
    """A server that dies when it reaches the point that was set last."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__(root, *options)
        self.clean = False
        self.arm("")

    def arm(self, point: str) -> None:
        """Set the point; an empty name means none."""
        self.point = point
        (self.root / "crash-at").write_text(point)

    def command(self) -> list[str]:
        return [
            sys.executable,
            CRASHING_SERVER,
            str(self.root / "crash-at"),
            *super().command()[1:],
        ]

    def wait_for_crash(self) -> None:
        """Wait until it has died at the point."""
        assert self._popen is not None
        status = self._popen.wait(TASK_TIMEOUT)
        self._popen = None
        self._check_crash(status)

    def crash_at_start(self, point: str) -> None:
        """Start it, and wait until it has died at `point`."""
        self.arm(point)
        with (self.root / "output.txt").open("ab") as output:
            done = subprocess.run(
                self.command(),
                cwd=self.root,
                stdout=output,
                stderr=output,
                timeout=START_TIMEOUT,
            )
        self._check_crash(done.returncode)

    def _check_crash(self, status: int) -> None:
        said = (self.root / "output.txt").read_text()
        if status != -signal.SIGKILL or f"{SAID} {self.point}\n" not in said:
            raise AssertionError(f"it ended with {status} and not at {self.point}: {said[-2000:]}")
        self.pid_file.unlink(missing_ok=True)
        self.arm("")

    def rows(self) -> list[dict[str, Any]]:
        """Return the store's rows, read by this process."""
        store = sqlite3.connect(f"file:{self.data_dir}/tasks.sqlite?mode=ro", uri=True)
        store.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in store.execute("SELECT * FROM tasks ORDER BY seq")]
        finally:
            store.close()


_spare: list[CrashingServer] = []
"""An empty server that a test has left, because starting one takes long."""


@atexit.register
def stop_spare() -> None:
    while _spare:
        _spare.pop().stop()


class CrashPointTests(TestCase):
    def setUp(self) -> None:
        if not Path("/proc/self/fd").exists():
            raise SkipTest("the points are found by /proc")
        self.upload_id = str(uuid.uuid4())

    # --- acts ----------------------------------------------------------------------------------

    def server(self, point: str, *options: str) -> CrashingServer:
        """Return a running empty server that will die at `point`."""
        if _spare and not options:
            server = _spare.pop()
        else:
            server = CrashingServer(Path(self.mktemp()), *options).start()
        self.known = {row["task_id"] for row in server.rows()}
        self.addCleanup(self.put_back, server)
        server.clean = False
        server.arm(point)
        return server

    def put_back(self, server: CrashingServer) -> None:
        """Keep a server that is known to be empty for the next test."""
        if server.clean and not server.options and not _spare:
            _spare.append(server)
        else:
            server.stop()

    def again(self, server: CrashingServer) -> PlainClient:
        """Wait until a server has died at its point, and restart it."""
        server.wait_for_crash()
        return PlainClient(server.start().port)

    def rows(self, server: CrashingServer) -> list[dict[str, Any]]:
        """Return the rows that this test has created."""
        return [row for row in server.rows() if row["task_id"] not in self.known]

    def send(
        self,
        server: CrashingServer,
        clip: Path = CLIP,
        type: str = "extract_audio",
        parameters: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Send a plain upload; return the answer, None if the server died before."""
        try:
            return PlainClient(server.port).upload(clip, type, parameters or {})
        except (OSError, json.JSONDecodeError):
            return None

    def request_resumable(self, clip: Path, offset: int = 0) -> dict[str, Any]:
        data = clip.read_bytes()
        return {
            "action": "upload",
            "type": "extract_audio",
            "parameters": {},
            "upload_id": self.upload_id,
            "size": len(data),
            "offset": offset,
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def send_resumable(
        self, server: CrashingServer, clip: Path = CLIP, offset: int = 0
    ) -> dict[str, Any] | None:
        """Send a resumable upload from `offset` on; return the answer, None without one."""
        request = self.request_resumable(clip, offset)
        payload = clip.read_bytes()[offset:]
        try:
            return PlainClient(server.port).request(request, payload, clip.suffix[1:])[0]
        except (OSError, json.JSONDecodeError):
            return None

    def resume(self, server: CrashingServer, clip: Path = CLIP) -> tuple[int, str]:
        """Resume an upload as a client does; return the offset and the task ID."""
        client = PlainClient(server.port)
        known = client.request({"action": "upload_status", "upload_id": self.upload_id})[0]
        if known["status"] == "accepted":
            return clip.stat().st_size, known["task_id"]
        self.assertEqual(known["status"], "partial", known)
        self.assertHolds(server, [f for f in server.files() if f.startswith("uploads/")])
        answer = self.send_resumable(server, clip, known["offset"])
        assert answer is not None
        self.assertEqual(answer.get("status"), "accepted", answer)
        return known["offset"], answer["task_id"]

    # --- promises ------------------------------------------------------------------------------

    def assertHolds(self, server: CrashingServer, files: list[str]) -> None:
        """The data folder contains exactly these files, and no child process is left."""
        self.assertEqual(server.files(), sorted(files))
        self.assertEqual(server.commands_at_work(), [])

    def assertCompletes(self, server: CrashingServer, task_id: str) -> None:
        """The only task completes with a valid result, and nothing else is left or counted."""
        client = PlainClient(server.port)
        status = client.wait(task_id)
        self.assertEqual(status["status"], "completed", status)
        head, kind, payload = client.download(task_id)
        self.assertEqual(head["sha256"], hashlib.sha256(payload).hexdigest())
        self.assertEqual(head["size"], len(payload))
        self.assertHolds(server, [f"results/{task_id}.{kind}"])
        self.assertEqual([row["task_id"] for row in self.rows(server)], [task_id])
        client.request({"action": "cancel", "task_id": task_id})
        self.assertEnds(server)

    def assertEnds(self, server: CrashingServer) -> None:
        """Nothing is left, waiting or running, and the address's slot is free."""
        self.assertHolds(server, [])
        client = PlainClient(server.port)
        load = client.request({"action": "info", "detail": True})[0]["load"]
        self.assertEqual((load["queued"], load["running"]), (0, 0))
        states = {row["state"] for row in server.rows()}
        self.assertEqual(states & {"uploading", "partial", "queued", "processing"}, set())
        with client.connect() as connection:
            request = b'{"action":"upload","type":"extract_audio","parameters":{}}'
            connection.sendall(encode_head(request, "mp4", 10) + b"short")
            connection.shutdown(socket.SHUT_WR)
            # If the slot were taken this would get 429; the upload ends in the middle.
            self.assertEqual(receive(connection)[0]["error"]["code"], 400)
        wait_for(lambda: "uploading" not in [r["state"] for r in server.rows()])
        wait_for(lambda: not server.files())
        server.clean = True

    # --- an upload -----------------------------------------------------------------------------

    def test_mid_payload_of_a_plain_upload(self) -> None:
        """It was not accepted, so nothing of it is left, and its address may try again."""
        server = self.server("upload: mid-payload")
        self.assertIsNone(self.send(server, LARGE))
        self.again(server)
        self.assertEqual(self.rows(server), [])
        self.assertEnds(server)

    def test_mid_payload_of_a_resumable_upload(self) -> None:
        """The received bytes are kept, and the client resumes there."""
        server = self.server("upload: mid-payload")
        self.assertIsNone(self.send_resumable(server, LARGE))
        self.again(server)
        offset, task_id = self.resume(server, LARGE)
        self.assertGreaterEqual(offset, 200_000)
        self.assertCompletes(server, task_id)

    def test_the_payload_is_written_but_not_synced(self) -> None:
        """There was no answer; the client resumes at what the disk has."""
        server = self.server("upload: before fsync")
        self.assertIsNone(self.send_resumable(server))
        self.again(server)
        offset, task_id = self.resume(server)
        self.assertEqual(offset, CLIP.stat().st_size)
        self.assertCompletes(server, task_id)

    def test_the_payload_is_synced_but_not_renamed(self) -> None:
        """Nothing has to be sent twice."""
        server = self.server("upload: after fsync, before rename")
        self.assertIsNone(self.send_resumable(server))
        self.again(server)
        offset, task_id = self.resume(server)
        self.assertEqual(offset, CLIP.stat().st_size)
        self.assertCompletes(server, task_id)

    def test_the_input_is_renamed_but_the_store_does_not_know(self) -> None:
        """It becomes a complete interrupted upload; nothing has to be sent twice."""
        for point in ("upload: after rename", "upload: before commit"):
            self.upload_id = str(uuid.uuid4())
            server = self.server(point)
            self.assertIsNone(self.send_resumable(server))
            self.again(server)
            offset, task_id = self.resume(server)
            self.assertEqual(offset, CLIP.stat().st_size)
            self.assertCompletes(server, task_id)

    def test_a_plain_input_is_renamed_but_the_store_does_not_know(self) -> None:
        """Nothing of it is left."""
        server = self.server("upload: before commit")
        self.assertIsNone(self.send(server))
        self.again(server)
        self.assertEnds(server)

    def test_the_task_is_stored_but_its_client_does_not_know(self) -> None:
        """The task runs; a client that asks again gets its ID and sends nothing twice."""
        server = self.server("upload: after commit, before the answer")
        self.assertIsNone(self.send_resumable(server))
        self.again(server)
        offset, task_id = self.resume(server)
        self.assertEqual(offset, CLIP.stat().st_size)
        self.assertEqual(self.send_resumable(server, offset=0), self.accepted(server))
        self.assertCompletes(server, task_id)

    def accepted(self, server: CrashingServer) -> dict[str, Any]:
        request = {"action": "upload_status", "upload_id": self.upload_id}
        return PlainClient(server.port).request(request)[0]

    def test_a_broken_upload_is_not_yet_put_aside(self) -> None:
        """First the connection broke, then the server; the upload can still be resumed."""
        server = self.server("upload: broken, before it is parked")
        data = LARGE.read_bytes()
        request = self.request_resumable(LARGE)
        with PlainClient(server.port).connect() as connection:
            head = encode_head(json.dumps(request).encode(), "mp4", len(data))
            connection.sendall(head + data[:100_000])
            wait_for(lambda: [f for f in server.files() if f.startswith("uploads/")])
        self.again(server)
        offset, task_id = self.resume(server, LARGE)
        self.assertLessEqual(offset, 100_000)
        self.assertCompletes(server, task_id)

    # --- an attempt ----------------------------------------------------------------------------

    def attempt(self, point: str, type: str = "extract_audio", **parameters: Any) -> None:
        """Have an attempt's server die; the task, which was accepted, completes after a start."""
        server = self.server(point)
        answer = self.send(server, type=type, parameters=parameters)
        self.again(server)
        (row,) = self.rows(server)
        self.assertIn(answer, (None, {**(answer or {}), "task_id": row["task_id"]}))
        self.assertCompletes(server, row["task_id"])

    def test_claimed(self) -> None:
        """Only the task's row says that it is being processed."""
        self.attempt("claimed")

    def test_probing(self) -> None:
        """The probe dies with its server; the task is probed again."""
        self.attempt("probing")

    def test_encoding(self) -> None:
        """FFmpeg dies with its server; its incomplete result is removed, and the task runs
        again."""
        self.attempt("encoding", "gif", **SHORT_GIF)

    def test_verifying(self) -> None:
        """A result that was not verified is not used."""
        self.attempt("verifying")

    def test_the_result_is_not_synced(self) -> None:
        """It is made again."""
        self.attempt("result: before fsync")

    def test_the_result_is_not_renamed(self) -> None:
        """It is made again."""
        self.attempt("result: before rename")

    def test_the_result_is_renamed_but_the_store_does_not_know(self) -> None:
        """The file without a row is removed and made again."""
        for point in ("result: after rename", "result: before commit"):
            self.attempt(point)

    def test_the_task_is_completed_but_its_input_is_still_there(self) -> None:
        """It stays completed after one attempt, and the input is removed."""
        server = self.server("result: after commit")
        self.send(server)
        self.again(server)
        (row,) = self.rows(server)
        self.assertEqual((row["state"], row["attempt"]), ("completed", 1))
        self.assertCompletes(server, row["task_id"])

    def test_a_crash_does_not_fail_the_running_tasks(self) -> None:
        """After three crashes the task waits until it can run alone, and completes."""
        server = self.server("probing")
        self.send(server)
        server.wait_for_crash()
        server.crash_at_start("probing")
        server.crash_at_start("probing")
        server.start()
        (row,) = self.rows(server)
        self.assertEqual(row["crashes"], 3)
        self.assertIsNotNone(row["not_before"])
        self.assertNotEqual(row["state"], "failed")
        self.assertCompletes(server, row["task_id"])

    # --- every kind of product -----------------------------------------------------------------

    def walk(self, kind: str, clip: Path, type: str, **parameters: Any) -> dict[str, Any]:
        """Kill the server at each step of a task's end; return how the task ended.

        Until the row says that the task has ended, its input must be there, complete.
        """
        sent = clip.read_bytes()
        server = self.server(ENDING[0])
        self.send(server, clip, type, parameters)
        server.wait_for_crash()
        for point in ENDING[1:]:
            (row,) = self.rows(server)
            self.assertEqual(row["state"], "processing", point)
            self.assertEqual((server.data_dir / row["input_key"]).read_bytes(), sent, point)
            server.crash_at_start(point)
        (row,) = self.rows(server)
        self.assertEqual(row["state"], "completed")
        client = PlainClient(server.start().port)
        detail = {"action": "status", "task_id": row["task_id"], "detail": True}
        output: dict[str, Any] = client.request(detail)[0]["output"]
        head, found, payload = client.download(row["task_id"])
        self.assertEqual((found, len(payload)), (kind, head["size"]))
        if output.get("already_optimal") and kind not in ("mkv", "mp4"):
            self.assertEqual(payload, sent)
        self.assertCompletes(server, row["task_id"])
        return output

    def test_the_source_is_the_result(self) -> None:
        """It is published as a second name of the input, which stays until the task has ended."""
        clip = tiny_clip("nut", "-crf", "45")
        output = self.walk("nut", clip, "compress")
        self.assertEqual((output["already_optimal"], output["bytes"]), (True, clip.stat().st_size))

    def test_the_result_is_the_source_in_another_file(self) -> None:
        """The streams are copied."""
        output = self.walk("mkv", tiny_clip("mkv", "-crf", "45"), "compress")
        self.assertTrue(output["already_optimal"])

    def test_the_result_is_one_of_several_trials(self) -> None:
        """The others go."""
        self.walk("mp4", tiny_clip("mp4", "-preset", "ultrafast", "-crf", "5"), "compress")

    def test_the_result_is_the_last_of_several_that_were_too_large(self) -> None:
        """The others go."""
        clip = tiny_clip("mp4", "-preset", "ultrafast", "-crf", "5")
        self.walk("gif", clip, "gif", start_time=0, duration=1, max_size=1500)

    def test_the_result_was_joined_from_segments(self) -> None:
        """The segments go."""
        self.walk("webm", LARGE, "webm", start_time=0, duration=4, width=160)

    # --- results -------------------------------------------------------------------------------

    def test_downloading(self) -> None:
        """The client resumes where it was interrupted, and gets the whole result."""
        server = self.server("downloading")
        parameters = {"start_time": 0, "duration": 0.2, "fps": 25, "width": 960}
        answer = self.send(server, LARGE, "gif", parameters)
        assert answer is not None
        task_id = answer["task_id"]
        self.assertEqual(PlainClient(server.port).wait(task_id)["status"], "completed")
        with PlainClient(server.port).connect() as connection:
            send(connection, {"action": "download", "task_id": task_id})
            start = receive_rest(connection)
        client = self.again(server)
        head, _, rest = client.download(task_id, offset=len(start))
        self.assertEqual(hashlib.sha256(start + rest).hexdigest(), head["sha256"])
        self.assertCompletes(server, task_id)

    def test_pruning(self) -> None:
        """File and row agree on whether there is a result."""
        server = self.server("", "--retention=1s")
        answer = self.send(server)
        assert answer is not None
        task_id = answer["task_id"]
        status = PlainClient(server.port).wait(task_id, ("completed", "expired"))
        server.stop()
        completed = server.rows()[0]["completed_at"]
        self.assertIsNotNone(status["completed_at"])
        wait_for(lambda: time.time() > completed + 1)
        server.crash_at_start("pruning: before commit")
        self.assertHolds(server, [f"results/{task_id}.mp3"])
        self.assertEqual([row["state"] for row in server.rows()], ["completed"])
        server.crash_at_start("pruning: between row and file")
        self.assertHolds(server, [f"results/{task_id}.mp3"])
        self.assertEqual([row["state"] for row in server.rows()], ["expired"])
        client = PlainClient(server.start().port)
        self.assertEqual(client.status(task_id)["status"], "expired")
        self.assertEqual(client.download(task_id)[0]["error"]["code"], 410)
        self.assertEnds(server)

    # --- cancelling and stopping ---------------------------------------------------------------

    def cancel(self, point: str) -> tuple[CrashingServer, str]:
        """Kill a server while it cancels a task that is being encoded."""
        server = self.server(point)
        parameters = {"start_time": 0, "duration": 2, "quality": 4}
        answer = self.send(server, LARGE, "webm", parameters)
        assert answer is not None
        task_id = answer["task_id"]
        client = PlainClient(server.port)
        with client.connect() as watch:
            send(watch, {"action": "watch", "task_id": task_id, "interval": 0.1})
            while receive(watch)[0]["stage"] != "encoding":
                pass
        self.assertRaises(
            (OSError, json.JSONDecodeError),
            client.request,
            {"action": "cancel", "task_id": task_id},
        )
        self.again(server)
        return server, task_id

    def test_cancelled_but_the_store_does_not_know(self) -> None:
        """The cancel was not answered; the task continues, and a second cancel ends it."""
        server, task_id = self.cancel("cancelling: before commit")
        client = PlainClient(server.port)
        self.assertIn(client.status(task_id)["status"], ("queued", "processing"))
        answer = client.request({"action": "cancel", "task_id": task_id})[0]
        self.assertEqual(answer["status"], "cancelled")
        self.assertEnds(server)

    def test_cancelled_but_its_files_are_still_there(self) -> None:
        """It stays cancelled, and the files are removed."""
        server, task_id = self.cancel("cancelling: after commit")
        self.assertEqual(PlainClient(server.port).status(task_id)["status"], "cancelled")
        self.assertEnds(server)

    def test_stopping(self) -> None:
        """Killed while stopping; the interrupted task completes after the next start."""
        for point in ("stopping: before commit", "stopping: after commit"):
            server = self.server(point)
            answer = self.send(server, type="webm", parameters=SHORT_GIF)
            assert answer is not None
            wait_for(server.children)
            os.kill(server.pid, signal.SIGTERM)
            self.again(server)
            self.assertCompletes(server, answer["task_id"])

    def test_starting(self) -> None:
        """Killed while recovering from a kill; the second start completes the recovery."""
        server = self.server("result: before rename")
        self.send(server)
        server.wait_for_crash()
        server.crash_at_start("starting: after the recovery's commit")
        server.start()
        (row,) = self.rows(server)
        self.assertCompletes(server, row["task_id"])

    def test_children_die_with_their_server(self) -> None:
        """No media process outlives a kill of its server."""
        server = self.server("encoding")
        self.send(server, LARGE, "gif", {"start_time": 0, "duration": 1})
        seen: list[psutil.Process] = []

        def dead() -> bool:
            seen.extend(p for p in server.descendants() if p not in seen)
            return server._popen is None or server._popen.poll() is not None

        wait_for(dead)
        self.assertNotEqual(seen, [])
        wait_for(lambda: all(map(has_ended, seen)))
        self.again(server)
        (row,) = self.rows(server)
        self.assertCompletes(server, row["task_id"])


def receive_rest(connection: socket.socket) -> bytes:
    """Return what arrives of an answer's payload until the connection ends."""
    data = b""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except ConnectionResetError:
        pass
    return data[8 + int.from_bytes(data[:2], "big") + data[2] :] if len(data) > 8 else b""
