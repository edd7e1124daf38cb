"""An upload that begins before Twisted is imported, and what lets the command start quickly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import ServerFactory
from twisted.trial.unittest import SynchronousTestCase

from tests.client_harness import COMMAND, Collector, ServerCase, SessionCase, refusal
from tests.ports import port_of
from vidproc.client import cli
from vidproc.client.early import EarlyUpload, begin_upload
from vidproc.resume import REMEMBER_FROM

LINE = "FILM --type gif --start-time 0 --duration 5 --output FOLDER"
ROOT = str(Path(cli.__file__).parents[2])


class EarlyTests(SessionCase):
    """The reactor runs only after the upload has begun, as in the command."""

    def begin(self, line: str = LINE) -> EarlyUpload | None:
        early = begin_upload(self.options(line))
        if early is not None:
            self.addCleanup(signal.signal, signal.SIGINT, signal.default_int_handler)
            self.addCleanup(early.connection.close)
            self.addCleanup(early.input.close)
        return early

    def begun(self) -> EarlyUpload:
        early = self.begin()
        assert early is not None
        self.assertGreater(early.file_sent, 0)
        return early

    def upload_id(self, early: EarlyUpload) -> str:
        assert early.input.begun_id is not None
        return early.input.begun_id

    def received(self, early: EarlyUpload) -> bytes:
        return bytes(self.server.uploads[self.upload_id(early)])

    async def test_a_small_file_is_gone_before_the_reactor_runs(self) -> None:
        """The request is the same as ever, it is sent once, and the run goes on with its
        connection."""
        early = self.begun()
        self.assertEqual(early.file_sent, early.input.source.size)
        status = await self.run_command(LINE, early=early)
        self.assertEqual(status, 0, self.errors)
        self.assertEqual(self.server.actions(), ["upload", "watch", "status", "download"])
        self.assertEqual(self.received(early), self.path.read_bytes())
        first = self.server.requests[0]
        self.server.requests.clear()
        self.assertEqual(await self.run_command(LINE), 0, self.errors)
        self.assertEqual({**first, "upload_id": ""}, {**self.server.requests[0], "upload_id": ""})

    async def test_the_rest_follows_wherever_sending_stopped(self) -> None:
        """In the file, in the request before it, even before its first byte."""
        self.path = self.film(3_000_000)
        for stop in ("file", "head", "nothing"):
            self.server.requests.clear()
            early = self.begun_until(stop)
            status = await self.run_command(LINE, early=early)
            self.assertEqual(status, 0, self.errors)
            self.assertEqual(self.server.actions(), ["upload", "watch", "status", "download"])
            self.assertEqual(self.received(early), self.path.read_bytes(), stop)

    def begun_until(self, stop: str) -> EarlyUpload:
        """Return an upload of which only a part was sent."""
        with mock.patch.object(EarlyUpload, "send"):
            early = self.begin()
        assert early is not None
        whole = early.head + self.path.read_bytes()
        early.sent = {"file": len(early.head) + 70_000, "head": 5, "nothing": 0}[stop]
        self.assertEqual(early.connection.send(whole[: early.sent]), early.sent)
        return early

    def test_no_more_is_sent_than_announced(self) -> None:
        """Even if the file grows."""
        with mock.patch.object(EarlyUpload, "send"):
            early = self.begin()
        assert early is not None
        size = early.input.source.size
        with self.path.open("ab") as file:
            file.write(b"more")
        early.send()
        self.assertEqual(early.file_sent, size)

    async def test_a_connection_that_breaks_is_replaced_and_resumed(self) -> None:
        self.server.cut_upload_at = 40_000
        early = self.begun()
        status = await self.run_command(LINE, early=early)
        self.assertEqual(status, 0, self.errors)
        self.assertEqual(
            self.server.actions(),
            ["upload", "upload_status", "upload", "watch", "status", "download"],
        )
        self.assertEqual(self.server.requests[2]["offset"], 40_000)
        self.assertEqual(self.received(early), self.path.read_bytes())

    async def test_a_connection_that_has_ended_already_is_replaced(self) -> None:
        """Nothing that the server has is sent again, even if it can't be adopted."""
        early = self.begun()
        early.connection.close()
        early.connection = socket.socket()
        status = await self.run_command(LINE, early=early)
        self.assertEqual(status, 0, self.errors)
        self.assertEqual(self.server.requests[-5]["action"], "upload_status")
        self.assertEqual(self.received(early), self.path.read_bytes())

    async def test_a_refusal_is_told_as_ever(self) -> None:
        self.server.refuse_head = refusal(429)
        early = self.begun()
        self.assertEqual(await self.run_command(LINE, early=early), 5)
        self.assertIn("Description of 429.", self.errors)
        self.assertEqual(self.server.actions(), ["upload"])

    async def test_a_file_that_changes_meanwhile_is_not_resumed(self) -> None:
        self.server.cut_upload_at = 40_000
        early = self.begun()
        self.path.write_bytes(b"something else")
        self.assertEqual(await self.run_command(LINE, early=early), 2)
        self.assertIn("changed while it was being sent", self.errors)

    async def test_a_large_file_is_remembered_before_anything_is_sent(self) -> None:
        """As ever, and forgotten when it was accepted."""
        self.path = self.film(REMEMBER_FROM + 123_456)
        early = self.begun()
        (record,) = self.state.rglob("*.json")
        self.assertEqual(json.loads(record.read_bytes())["upload_id"], self.upload_id(early))
        status = await self.run_command(LINE, early=early)
        self.assertEqual(status, 0, self.errors)
        self.assertEqual(self.server.actions(), ["upload", "watch", "status", "download"])
        self.assertEqual(self.received(early), self.path.read_bytes())
        self.assertEqual([*self.state.rglob("*.json"), *self.state.rglob("*.lock")], [])

    async def test_what_an_earlier_run_has_sent_is_left_to_the_session(self) -> None:
        """It resumes that, although the earlier run had begun before its reactor ran."""
        self.path = self.film(REMEMBER_FROM + 123_456)
        first = self.begun()
        first.input.resume.close()
        self.server.uploads[self.upload_id(first)] = bytearray(self.path.read_bytes()[:1_000_000])
        first.connection.close()
        self.assertIsNone(self.begin())
        self.server.requests.clear()
        self.assertEqual(await self.run_command(LINE), 0, self.errors)
        resumed = [fields for fields in self.server.requests if fields["action"] == "upload"]
        self.assertEqual(
            [fields["upload_id"] for fields in resumed if fields.get("offset")],
            [self.upload_id(first)],
        )

    async def test_events_from_before_the_log_stand_in_it(self) -> None:
        """Such as that another process sends the same file."""
        self.path = self.film(REMEMBER_FROM + 1)
        first, second = self.begun(), self.begun()
        self.assertNotEqual(self.upload_id(first), self.upload_id(second))
        self.assertEqual(await self.run_command(LINE, early=second), 0, self.errors)
        self.assertIn("another process sends the same file", self.logged.getvalue())

    def test_only_what_is_one_upload_begins_early(self) -> None:
        """Others are left to the session."""
        self.assertIsNone(self.begin("--status 0123"))
        self.assertIsNone(self.begin("FILM --type compress --skip-existing"))
        self.assertIsNone(self.begin("FILM --type compress --tls"))
        self.assertIsNone(self.begin("FOLDER --type compress"))

    async def test_without_a_server_the_session_says_so(self) -> None:
        listening = reactor.listenTCP(0, ServerFactory(), interface="127.0.0.1")
        port = port_of(listening)
        await maybeDeferred(listening.stopListening)
        self.assertIsNone(begin_upload(self.options(LINE, port)))

    def test_an_interrupt_is_kept_for_the_session(self) -> None:
        early = self.begun()
        os.kill(os.getpid(), signal.SIGINT)
        self.assertEqual(early.signal, signal.SIGINT)


class CommandTests(ServerCase):
    """The real command as a separate process."""

    timeout = 120

    async def test_ctrl_c_while_twisted_is_imported_exits_with_130(self) -> None:
        """No traceback, whenever it comes."""
        self.film(100_000)
        head = self.server.head

        def interrupt(peer: Any, payload_size: int) -> None:
            head(peer, payload_size)
            process.signalProcess("INT")

        self.server.head = interrupt  # type: ignore[method-assign]
        self.server.silent_watch = True
        collector = Collector()
        words = "film.mp4 --type gif --start-time 0 --duration 5 --host 127.0.0.1 --port"
        process = reactor.spawnProcess(
            collector,
            sys.executable,
            [*COMMAND, *words.split(), str(self.port)],
            {**os.environ, "PYTHONPATH": ROOT},
            str(self.folder),
        )
        code, _, err = await collector.done
        self.assertEqual(code, 130, err)
        self.assertIn("Interrupted.", err)
        self.assertNotIn("Traceback", err)


class StartupTests(SynchronousTestCase):
    """Each in a process of its own, because this one has imported everything."""

    def run_code(self, code: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_a_run_without_tls_loads_nothing_that_it_does_not_use(self) -> None:
        slow = ["OpenSSL", "urllib.request", "email", "zipfile", "tomllib", "rich"]
        slow += ["twisted.internet.endpoints"]
        found = self.run_code(
            "import json, sys\n"
            "from vidproc.client import startup, tls, cli\n"
            "startup.begin(); startup.before_twisted(); tls.do_without_tls()\n"
            "import vidproc.client.early, vidproc.client.run, twisted.internet.reactor\n"
            f"print(json.dumps([name for name in {slow!r} if sys.modules.get(name)]))"
        )
        self.assertEqual(found, [])

    def test_an_early_upload_needs_no_twisted(self) -> None:
        found = self.run_code(
            "import json, sys\n"
            "import vidproc.client.cli, vidproc.client.early\n"
            "print(json.dumps('twisted' in sys.modules))"
        )
        self.assertFalse(found)

    def test_a_postponed_module_works_when_it_is_used(self) -> None:
        found = self.run_code(
            "import json, sys\n"
            "from vidproc.client import startup\n"
            "startup.begin(); startup.before_twisted()\n"
            "before = 'urllib.request' in sys.modules\n"
            "from http import cookiejar\n"
            "print(json.dumps([before, cookiejar.CookieJar().__class__.__name__]))"
        )
        self.assertEqual(found, [False, "CookieJar"])
