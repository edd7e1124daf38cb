"""The whole system: a real twistd process, real sockets, real FFmpeg, real kills."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import resource
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import psutil
from twisted.trial.unittest import SkipTest, TestCase

from support.certificates import write_certificate
from support.server_process import (
    BUSY,
    START_TIMEOUT,
    PlainClient,
    ServerProcess,
    has_ended,
    receive,
    send,
    wait_for,
)

MEDIA = Path(__file__).parent / "media"
CLIP = MEDIA / "flower-540p-aac.mp4"
LONG: dict[str, Any] = {"start_time": 0, "duration": 5, "quality": 4, "width": 640}
"""Parameters of a WebM that takes some seconds, long enough to kill something."""


@cache
def shared_server() -> ServerProcess:
    """Start the server that most tests use; it ends with the test run."""
    server = ServerProcess(Path(f"shared-server-{os.getpid()}")).start()
    atexit.register(server.stop)
    return server


def codecs(path: Path) -> dict[str, Any]:
    """Return the codecs in a file, according to FFmpeg's libraries."""
    import av

    with av.open(str(path)) as container:
        video = container.streams.video
        return {
            "video": video[0].codec_context.name if video else None,
            "size": (video[0].width, video[0].height) if video else None,
            "audio": [stream.codec_context.name for stream in container.streams.audio],
            "duration": (container.duration or 0) / 1e6,
        }


class SharedServerTests(TestCase):
    """Tests that share a server; each has its own address."""

    addresses: ClassVar[int] = 10

    def setUp(self) -> None:
        cls = type(self)
        cls.addresses += 1
        self.server = shared_server()
        self.client = PlainClient(self.server.port, f"127.0.0.{cls.addresses}")
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def process(self, type: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Upload, wait, download; return the result."""
        accepted = self.client.upload(CLIP, type, parameters)
        self.assertEqual(accepted.get("status"), "accepted", accepted)
        status = self.client.wait(accepted["task_id"])
        self.assertEqual(status["status"], "completed", status)
        head, media_type, payload = self.client.download(accepted["task_id"])
        self.assertEqual(head["sha256"], hashlib.sha256(payload).hexdigest())
        path = self.folder / f"result.{media_type}"
        path.write_bytes(payload)
        return {"kind": media_type, **codecs(path)}

    def test_compress_with_a_plain_socket(self) -> None:
        """H.264 and AAC in MP4, smaller than the source."""
        found = self.process("compress", {"preset": "fast"})
        self.assertEqual((found["kind"], found["video"], found["audio"]), ("mp4", "h264", ["aac"]))
        self.assertLess((self.folder / "result.mp4").stat().st_size, CLIP.stat().st_size)

    def test_resolution_with_a_plain_socket(self) -> None:
        """The requested size."""
        found = self.process("resolution", {"width": 320, "height": 240})
        self.assertEqual((found["kind"], found["size"]), ("mp4", (320, 240)))

    def test_aspect_ratio_with_a_plain_socket(self) -> None:
        """The requested aspect ratio, with the whole frame."""
        found = self.process("aspect_ratio", {"aspect_ratio": "4:3"})
        self.assertEqual(found["size"], (960, 720))

    def test_extract_audio_with_a_plain_socket(self) -> None:
        """MP3 of the whole length."""
        found = self.process("extract_audio", {})
        self.assertEqual((found["kind"], found["video"]), ("mp3", None))
        self.assertLess(abs(found["duration"] - 5.055), 0.1)

    def test_gif_with_a_plain_socket(self) -> None:
        """At most 480 pixels wide, with the aspect ratio kept."""
        found = self.process("gif", {"start_time": 0, "duration": 1})
        self.assertEqual((found["kind"], found["size"]), ("gif", (480, 270)))

    def test_webm_with_a_plain_socket(self) -> None:
        """VP9 and Opus."""
        found = self.process("webm", {"start_time": 1, "duration": 1, "width": 320})
        self.assertEqual((found["video"], found["audio"]), ("vp9", ["opus"]))
        self.assertLess(abs(found["duration"] - 1.0), 0.1)

    def test_one_task_per_address(self) -> None:
        """A second upload gets 429 while the first runs; another address is served."""
        first = self.client.upload(CLIP, "webm", LONG)
        refused = self.client.upload(CLIP, "gif", {"start_time": 0, "duration": 1})
        self.assertEqual(refused["error"]["code"], 429)
        other = PlainClient(self.server.port, "127.0.0.2")
        accepted = other.upload(CLIP, "extract_audio", {})
        self.assertEqual(other.wait(accepted["task_id"])["status"], "completed")
        cancelled, _, _ = self.client.request({"action": "cancel", "task_id": first["task_id"]})
        self.assertEqual(cancelled["status"], "cancelled")

    def test_cancel_stops_ffmpeg_and_removes_the_files(self) -> None:
        """Both are done, and the slot is free, when the answer arrives."""
        task_id = self.client.upload(CLIP, "webm", LONG)["task_id"]
        self.client.wait_for_stage(task_id, "encoding")
        answer, _, _ = self.client.request({"action": "cancel", "task_id": task_id})
        self.assertEqual(answer["status"], "cancelled")
        self.assertEqual([f for f in self.server.files() if task_id in f], [])
        commands = self.server.commands_at_work()
        self.assertEqual([words for words in commands if task_id in " ".join(words)], [])
        self.assertEqual(self.client.status(task_id)["status"], "cancelled")
        self.assertEqual(self.client.upload(CLIP, "extract_audio", {})["status"], "accepted")

    def test_many_requests_on_one_connection(self) -> None:
        """Sent all at once, answered in order, even after an error in between."""
        with self.client.connect() as connection:
            for number in range(50):
                send(connection, {"action": "info", "id": number})
            send(connection, {"action": "dance", "id": 50})
            send(connection, {"action": "info", "id": 51})
            answers = [receive(connection)[0] for _ in range(52)]
        self.assertEqual([answer["id"] for answer in answers], list(range(52)))
        self.assertEqual(answers[50]["error"]["code"], 400)

    def test_a_half_closed_connection_gets_its_answer(self) -> None:
        """A client may shut its sending side down right after its upload."""
        with self.client.connect() as connection:
            request = {"action": "upload", "type": "extract_audio", "parameters": {}}
            send(connection, request, CLIP.read_bytes(), "mp4")
            connection.shutdown(socket.SHUT_WR)
            task_id = receive(connection)[0]["task_id"]
            self.assertEqual(connection.recv(1), b"")
        self.assertEqual(self.client.wait(task_id)["status"], "completed")

    def test_a_watch_sees_the_whole_life_of_a_task(self) -> None:
        """Progress only rises, the last message is terminal."""
        task_id = self.client.upload(CLIP, "resolution", {"width": 640, "height": 360})["task_id"]
        with self.client.connect() as connection:
            send(connection, {"action": "watch", "task_id": task_id, "interval": 0.1})
            seen = [receive(connection)[0]]
            while seen[-1]["status"] in ("queued", "processing"):
                seen.append(receive(connection)[0])
            send(connection, {"action": "info"})
            self.assertEqual(receive(connection)[0]["status"], "ok")
        self.assertEqual(seen[-1]["status"], "completed")
        progress = [status["progress"] for status in seen]
        self.assertEqual(progress, sorted(progress))
        self.assertIn("encoding", [status["stage"] for status in seen])

    def test_a_client_that_writes_before_it_reads_sees_its_refusal(self) -> None:
        """32 MB of payload behind a request that is refused from its JSON."""
        request = {"action": "upload", "type": "gif", "parameters": {}}
        answer, _, _ = self.client.request(request, bytes(32 << 20), "mp4")
        self.assertEqual(answer["error"]["code"], 422)

    def test_anything_that_is_not_mmp_gets_400_at_once(self) -> None:
        """For HTTP and TLS, long before any timeout."""
        for foreign in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            bytes.fromhex("1603010200010001fc0303") + bytes(512),
        ):
            with self.client.connect() as connection:
                connection.settimeout(30)  # the idle timeout is 60 s
                connection.sendall(foreign)
                self.assertEqual(receive(connection)[0]["error"]["code"], 400)
                self.assertEqual(connection.recv(1), b"")

    def test_a_client_that_writes_on_after_its_400_still_reads_it(self) -> None:
        """The end of the connection is a FIN after the answer, not a reset before it."""
        with self.client.connect() as connection:
            connection.sendall(b"POST /film HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for _ in range(40):
                connection.sendall(bytes(100_000))
            self.assertEqual(receive(connection)[0]["error"]["code"], 400)

    def test_a_cable_pulled_within_an_upload_frees_the_slot(self) -> None:
        """With a reset. The next upload of the address is accepted."""
        import struct

        connection = self.client.connect()
        data = CLIP.read_bytes()
        request = b'{"action":"upload","type":"extract_audio","parameters":{}}'
        from vidproc.mmp.codec import encode_head

        connection.sendall(encode_head(request, "mp4", len(data)) + data[:500_000])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        accepted = wait_for(
            lambda: (a := self.client.upload(CLIP, "extract_audio", {})).get("status") and a
        )
        self.assertEqual(self.client.wait(accepted["task_id"])["status"], "completed")

    def test_a_large_upload_stays_small_in_memory(self) -> None:
        """The server's peak memory does not depend on the file's size."""
        if not Path("/proc/self/status").exists():
            raise SkipTest("needs /proc")
        request = {"action": "upload", "type": "extract_audio", "parameters": {}}
        accepted, _, _ = self.client.request(request, bytes(300 << 20), "mp4")
        status = self.client.wait(accepted["task_id"])
        self.assertEqual((status["status"], status["error_code"]), ("failed", 415))
        text = Path(f"/proc/{self.server.pid}/status").read_text()
        peak = int(text.split("VmHWM:")[1].split()[0]) >> 10
        self.assertLess(peak, 150)

    def test_the_performance_log_has_a_line_of_figures(self) -> None:
        """The first one at startup."""
        self.assertRegex(
            self.server.log("performance.log").splitlines()[0],
            r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO cpu_ffmpeg=.* packets_in=.* queued=",
        )

    def test_what_a_client_sends_stays_on_one_line_of_the_log(self) -> None:
        """A line break in a file name does not start another line."""
        request = {
            "action": "upload",
            "type": "extract_audio",
            "parameters": {},
            "filename": "a\n2026-01-01T00:00:00.000Z INFO forged",
        }
        accepted, _, _ = self.client.request(request, b"no film", "mp4")
        self.client.wait(accepted["task_id"])
        for name in ("server.log", "video_processor.log"):
            for line in self.server.log(name).splitlines():
                self.assertRegex(line, r"^\d{4}-\d\d-\d\dT.{12,14}Z [A-Z]+ ")
                self.assertNotRegex(line, r"^2026-01-01T00:00:00.000Z INFO forged")


class OwnServerTests(TestCase):
    """Tests that start, stop and kill servers."""

    def server(self, *options: str, **keywords: Any) -> ServerProcess:
        server = ServerProcess(Path(self.mktemp()), *options, **keywords)
        self.addCleanup(server.stop)
        return server

    def encoding(
        self, server: ServerProcess, parameters: dict[str, Any] = LONG
    ) -> tuple[str, list[psutil.Process]]:
        """Start a long encode; return its task ID and processes once it is running."""
        client = PlainClient(server.port)
        task_id = client.upload(CLIP, "webm", parameters)["task_id"]
        client.wait_for_stage(task_id, "encoding")
        self.assertNotEqual(server.children(), [])
        return task_id, server.descendants()

    def assertGone(self, processes: list[psutil.Process]) -> None:
        wait_for(lambda: all(map(has_ended, processes)))

    def test_a_daemon_stops_within_ten_seconds_and_leaves_nothing(self) -> None:
        """SIGTERM during an encode leaves no FFmpeg, result or pid file; later it is done again."""
        server = self.server(daemon=True).start()
        self.assertEqual(psutil.Process(server.pid).ppid(), 1)
        task_id, children = self.encoding(server)
        start = time.monotonic()
        process = psutil.Process(server.pid)
        process.send_signal(signal.SIGTERM)
        self.assertGone([process])
        self.assertLess(time.monotonic() - start, 10 + BUSY)
        self.assertGone(children)
        self.assertFalse(server.pid_file.exists())
        self.assertEqual(server.files(), [f"inputs/{task_id}"])
        self.assertIn("stopped", server.log())

        server.start()
        status = PlainClient(server.port).status(task_id)
        self.assertIn(status["status"], ("queued", "processing"))

    def test_kill_9_during_an_encode_loses_nothing(self) -> None:
        """FFmpeg dies with its server; after a restart the task runs again and completes."""
        server = self.server().start()
        # Long enough to be killed, but not for longer, because it is made to the end afterwards.
        task_id, children = self.encoding(server, {**LONG, "width": 480, "quality": 8})
        server.kill()
        self.assertGone(children)
        server.start()
        client = PlainClient(server.port)
        self.assertEqual(client.wait(task_id)["status"], "completed")
        self.assertEqual(client.download(task_id)[1], "webm")
        self.assertEqual(server.files(), [f"results/{task_id}.webm"])

    def test_a_second_sigterm_stops_at_once(self) -> None:
        """Even though an upload in progress has its grace period."""
        server = self.server("--grace=1h").start()
        client = PlainClient(server.port)
        from vidproc.mmp.codec import encode_head

        with client.connect() as connection:
            request = b'{"action":"upload","type":"extract_audio"}'
            connection.sendall(encode_head(request, "mp4", 1 << 20) + bytes(1000))
            wait_for(lambda: "starts: extract_audio" in server.log())
            process = psutil.Process(server.pid)
            os.kill(server.pid, signal.SIGTERM)
            wait_for(lambda: "stopping" in server.log())
            self.assertTrue(process.is_running())
            os.kill(server.pid, signal.SIGTERM)
            server.kill(signal.SIGCONT)
        self.assertIn("stopped", server.log())
        self.assertEqual(server.files(), [])

    def seconds_to_end(self, process: psutil.Process) -> float:
        """Send SIGTERM; return the seconds until the process has ended."""
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(START_TIMEOUT)
        return time.monotonic() - start

    def with_a_failing_store(
        self, fail: Any, grace: int = 1
    ) -> tuple[ServerProcess, psutil.Process, str]:
        """Start an encode and let the store fail during the attempt."""
        server = self.server(f"--grace={grace}s", "--tasks-per-ip=2").start()
        task_id, _ = self.encoding(server)
        fail(server)
        return server, psutil.Process(server.pid), task_id

    def lock(self, server: ServerProcess) -> None:
        other = sqlite3.connect(server.data_dir / "tasks.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        self.addCleanup(other.close)
        self.locked = other

    def fill_the_disk(self, server: ServerProcess) -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def test_a_locked_store_does_not_hold_up_a_stop(self) -> None:
        """It ends within the grace period and 5 s, and the next start has the task."""
        server, process, task_id = self.with_a_failing_store(self.lock)
        self.assertLess(self.seconds_to_end(process), 6 + BUSY)
        self.assertFalse(server.pid_file.exists())
        self.locked.close()
        server.start()
        status = PlainClient(server.port).status(task_id)["status"]
        self.assertIn(status, ("queued", "processing"))

    def test_a_second_sigterm_ends_it_though_the_store_is_locked(self) -> None:
        server, process, _ = self.with_a_failing_store(self.lock, grace=60)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping" in server.log())
        self.assertLess(self.seconds_to_end(process), 1.5 + BUSY)

    def test_a_full_disk_does_not_hold_up_a_stop(self) -> None:
        if not hasattr(resource, "prlimit"):
            raise SkipTest("needs prlimit")
        _, process, _ = self.with_a_failing_store(self.fill_the_disk)
        self.assertLess(self.seconds_to_end(process), 6 + BUSY)

    def test_all_that_it_writes_is_for_its_user_alone(self) -> None:
        """Whatever the umask, because an ID in a log or the store gives access to a result."""
        for daemon in (False, True):
            server = self.server(daemon=daemon, umask=0).start()
            client = PlainClient(server.port)
            client.wait(client.upload(CLIP, "extract_audio", {})["task_id"])
            open_to_others = [
                str(path)
                for path in server.root.rglob("*")
                if path.name != "output.txt" and path.stat().st_mode & 0o077
            ]
            self.assertEqual(open_to_others, [])

    def test_what_an_older_run_left_open_is_closed_at_the_start(self) -> None:
        """Logs and the store of a server that ran without a umask."""
        server = self.server(umask=0).start()
        server.stop()
        for path in server.root.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        server.start()
        written = [*server.data_dir.rglob("*"), server.data_dir, *server.log_dir.iterdir()]
        self.assertEqual([str(path) for path in written if path.stat().st_mode & 0o077], [])

    def test_strangers_write_nothing_into_twistds_log(self) -> None:
        """Only the topic files, which are bounded, record what they do."""
        server = self.server(daemon=True).start()
        for _ in range(20):
            with PlainClient(server.port).connect() as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                receive(connection)
        log = server.root / "twistd.log"
        wait_for(lambda: server.log().count(" INFO peer ") >= 20)
        self.assertNotIn("peer", log.read_text())
        self.assertIn(" serves tcp ", log.read_text())

    def test_a_finished_task_survives_a_restart(self) -> None:
        """Its result can still be downloaded."""
        server = self.server().start()
        client = PlainClient(server.port)
        task_id = client.upload(CLIP, "extract_audio", {})["task_id"]
        client.wait(task_id)
        before = client.download(task_id)
        server.kill()
        server.start()
        self.assertEqual(PlainClient(server.port).download(task_id), before)

    def test_a_second_server_on_the_same_data_folder_refuses_to_start(self) -> None:
        """The message names the folder and says what to do."""
        server = self.server().start()
        second = ServerProcess(Path(self.mktemp()), f"--data-dir={server.data_dir}")
        done = self.run_to_end(second)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(str(server.data_dir), done.stderr + done.stdout)

    def test_a_port_in_use_is_said_and_ends_the_start(self) -> None:
        """Even of a daemon, whose parent process waits for that."""
        server = self.server().start()
        for daemon in (False, True):
            second = ServerProcess(Path(self.mktemp()), f"--port={server.port}", daemon=daemon)
            done = self.run_to_end(second)
            self.assertEqual(done.returncode, 1)
            self.assertIn("can't listen on", done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_a_wrong_option_is_one_line_and_status_1(self) -> None:
        """Before the daemon is forked."""
        for options in (
            ("--retention=soon",),
            ("--port=http:80",),
            ("--tasks-per-ip=0",),
            ("--nonsense",),
            ("--ffmpeg=/nonexistent",),
        ):
            wrong = ServerProcess(Path(self.mktemp()), *options, daemon=True)
            done = self.run_to_end(wrong)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn(options[0].split("=")[0].lstrip("-"), done.stderr)
            self.assertFalse(wrong.pid_file.exists())

    def run_to_end(self, server: ServerProcess) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            server.command(), cwd=server.root, capture_output=True, text=True, timeout=START_TIMEOUT
        )

    def test_behind_a_proxy_slots_go_by_the_proxied_address(self) -> None:
        """The PROXY header says who the client is."""
        server = self.server("--port=haproxy:tcp:0:interface=127.0.0.1").start()
        ports = [int(port) for port in re.findall(r"port (\d+)", server.log().splitlines()[0])]
        request = {"action": "upload", "type": "webm", "parameters": LONG}
        answers = []
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
            with socket.create_connection(("127.0.0.1", ports[-1])) as connection:
                connection.sendall(f"PROXY TCP4 {address} 10.0.0.9 1000 80\r\n".encode())
                send(connection, request, CLIP.read_bytes(), "mp4")
                answers.append(receive(connection)[0])
        self.assertEqual([a.get("status") for a in answers], ["accepted", "accepted", None])
        self.assertEqual(answers[2]["error"]["code"], 429)

    def test_tls_by_endpoint_string(self) -> None:
        """Upload, watch and download over TLS; the client checks the certificate."""
        root = Path(self.mktemp()).absolute()
        root.mkdir(parents=True)
        certificate, key = write_certificate(root, "localhost")
        server = self.server(f"--port=ssl:0:privateKey={key}:certKey={certificate}").start()
        port = int(re.findall(r"port (\d+)", server.log().splitlines()[0])[-1])
        film = root / "film.mp4"
        film.write_bytes(CLIP.read_bytes())
        arguments = [str(film), "--type=extract_audio", f"--port={port}", "--tls"]
        arguments += ["--host=localhost", f"--log-dir={root / 'logs'}"]
        command = [sys.executable, "-m", "vidproc.client", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT)
        self.assertEqual(done.returncode, 3, done.stderr)
        command.append(f"--ca={certificate}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(codecs(root / "film_processed.mp3")["video"], None)

    def test_the_client_lists_the_tasks_of_its_token_alone(self) -> None:
        """The list of another token stays empty."""
        root = Path(self.mktemp()).absolute()
        root.mkdir(parents=True)
        film = root / "film.mp4"
        film.write_bytes(CLIP.read_bytes())
        tokens = {name: secrets.token_hex(16) for name in ("ann", "bob")}
        for name, token in tokens.items():
            (root / name).write_text(f"{name} {token}\n")
        known = root / "known"
        known.write_text("".join((root / name).read_text() for name in tokens))
        server = self.server(f"--token-file={known}").start()

        def run(name: str, *words: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "vidproc.client", *words, "--host=127.0.0.1"]
            command += [f"--port={server.port}", f"--token-file={root / name}"]
            command += [f"--log-dir={root / 'logs'}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT)
            return done.returncode, done.stdout

        status, task_id = run("ann", str(film), "--type=extract_audio", "--detach")
        self.assertEqual(status, 0)
        status, listed = run("ann", "--list")
        self.assertEqual(status, 0)
        self.assertEqual(listed.split()[:2], [task_id.strip(), "extract_audio"])
        self.assertEqual(listed.count("\n"), 1)
        self.assertEqual(run("bob", "--list"), (0, ""))

    def test_the_client_carries_a_film_there_and_back(self) -> None:
        """The command as people use it: exit status 0, and the result is next to the input."""
        server = self.server().start()
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        film = folder / "film.mp4"
        film.write_bytes(CLIP.read_bytes())
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "vidproc.client",
                str(film),
                "--type=resolution",
                "--width=320",
                "--height=180",
                f"--port={server.port}",
                "--host=127.0.0.1",
                f"--log-dir={folder / 'logs'}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(codecs(folder / "film_processed.mp4")["size"], (320, 180))
        self.assertTrue((folder / "logs" / "client.log").exists())
