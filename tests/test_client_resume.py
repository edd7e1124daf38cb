"""An interrupted upload is resumed by the next run of the client, if it is the same upload."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from support.server_process import ServerProcess
from tests.client_harness import (
    COMMAND,
    TASK,
    Collector,
    Peer,
    ScriptedServer,
    ServerCase,
    SessionCase,
    refusal,
    status,
)
from vidproc import resume
from vidproc.client import cli
from vidproc.client.log import Log
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.mmp.codec import Decoder, MessageStarted, NeedData, PayloadChunk
from vidproc.resume import KEEP_SECONDS, REMEMBER_FROM, ResumeFile, state_folder
from vidproc.transport import IStreamTransport

SIZE = REMEMBER_FROM + 4321
BREAK = 5_000_000
"""Bytes that the server has when the first run ends."""


class KeepingServer(ScriptedServer):
    """Keeps uploads as the real server does. Calls `at_break` once, when it has `BREAK` bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.at_break: Any = None
        self.accepted: set[str] = set()

    def chunk(self, peer: Peer, data: bytes) -> None:
        super().chunk(peer, data)
        stored = self.uploads.get(peer.fields["upload_id"], bytearray())
        if self.at_break is not None and len(stored) >= BREAK:
            del stored[BREAK:]
            peer.deaf = True
            at_break, self.at_break = self.at_break, None
            at_break(peer)

    def do_upload(self, peer: Peer) -> None:
        self.accepted.add(peer.fields["upload_id"])
        super().do_upload(peer)

    def do_upload_status(self, peer: Peer) -> None:
        upload_id = peer.fields["upload_id"]
        if upload_id not in self.uploads:
            peer.answer(refusal(404))
        elif upload_id in self.accepted:
            ScriptedServer.do_upload(self, peer)
        else:
            super().do_upload_status(peer)


class ResumeCase(SessionCase):
    """Runs of the client with a film that is large enough to be remembered."""

    line = "FILM --type compress"

    def setUp(self) -> None:
        super().setUp()
        self.server: KeepingServer = KeepingServer()
        self.port = self.listen(self.server)
        # No two parts are alike, so that bytes in the wrong place are noticed.
        self.path.write_bytes(os.urandom(SIZE))
        self.server.plan = [status("completed")]

    def remembered(self) -> list[Path]:
        """The files in the state folder."""
        return sorted(state_folder().iterdir()) if state_folder().exists() else []

    async def break_off(self, line: str = line, **client: Any) -> dict[str, Any]:
        """Interrupt a run in the middle of its upload; return the upload's request."""
        session = self.session(line, **client)
        self.server.at_break = lambda peer: session.interrupt(signal.SIGINT)
        self.assertEqual(await session.start(), 130)
        await self.settle()
        [request] = self.server.requests
        self.server.requests.clear()
        self.err.truncate(0)
        return request

    async def finish(self, line: str = line, **client: Any) -> list[dict[str, Any]]:
        """Run to the end; return the requests up to the last upload. The file must be there."""
        self.assertEqual(await self.run_command(line, **client), 0, self.errors)
        actions = self.server.actions()
        last = len(actions) - 1 - actions[::-1].index("upload")
        request = self.server.requests[last]
        self.assertEqual(self.server.uploads[request["upload_id"]], self.path.read_bytes())
        self.assertEqual(self.remembered(), [])
        return self.server.requests[: last + 1]

    def rest(self) -> dict[str, Any]:
        """The additional fields of a request for the rest of the film."""
        return {"offset": BREAK, "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}

    async def begins_anew(self, line: str = line, **client: Any) -> None:
        """Run to the end; the whole file must be sent again, with another upload_id."""
        [old] = self.server.uploads or [""]
        *_, request = await self.finish(line, **client)
        self.assertNotEqual(request["upload_id"], old)
        self.assertNotIn("offset", request)
        self.assertNotIn("Going on", self.errors)


class NextRunTests(ResumeCase):
    """The same command once more."""

    async def test_the_rest_is_sent(self) -> None:
        """After asking the server for its offset, and with a notice; nothing is remembered in the
        end."""
        first = await self.break_off()
        asked, second = await self.finish()
        self.assertEqual(asked["action"], "upload_status")
        self.assertEqual(second, {**first, **self.rest()})
        self.assertIn("Resuming the upload at 4.8 MiB of 8.0 MiB.\n", self.errors)
        self.assertIn("uploading: 59 % ", self.errors)
        self.assertIn(f"Accepted as task {TASK}", self.errors)

    async def test_an_interrupt_says_that_it_can_go_on(self) -> None:
        """There is no task yet, but the upload can be resumed."""
        session = self.session(self.line)
        self.server.at_break = lambda peer: session.interrupt(signal.SIGINT)
        await session.start()
        self.assertIn("Run the same command again to resume the upload.", self.errors)

    async def test_a_connection_lost_for_good_loses_nothing(self) -> None:
        """Exit status 3 says so, and the next run goes on."""

        def gone(peer: Peer) -> None:
            self.server.cut_always = True
            peer.cut()

        self.server.at_break = gone
        self.assertEqual(await self.run_command(self.line), 3)
        self.assertIn("the upload continues where it stopped", self.errors)
        self.server.cut_always = False
        self.assertEqual((await self.finish())[-1]["offset"], BREAK)

    async def test_it_breaks_off_more_than_once(self) -> None:
        """The id stays the same from run to run."""
        first = await self.break_off()
        session = self.session(self.line)
        self.server.uploads[first["upload_id"]] = self.server.uploads[first["upload_id"]][:1000]
        self.server.at_break = lambda peer: session.interrupt(signal.SIGINT)
        self.assertEqual(await session.start(), 130)
        await self.settle()
        self.assertEqual((await self.finish())[-1], {**first, **self.rest()}, self.server.requests)

    async def test_an_upload_that_was_complete_gives_its_task(self) -> None:
        """If the client was killed before the answer arrived. A deliberate second run is a new
        task."""
        first = await self.break_off()
        self.server.accepted.add(first["upload_id"])
        self.assertEqual(await self.run_command(self.line), 0, self.errors)
        self.assertEqual(self.server.actions()[:3], ["upload_status", "status", "watch"])
        self.assertIn("The upload is already complete. Continuing with its task.\n", self.errors)
        self.assertIn(f"Accepted as task {TASK}", self.errors)
        self.err.truncate(0)
        self.server.requests.clear()
        await self.begins_anew()

    async def test_an_upload_whose_task_came_to_nothing_begins_anew(self) -> None:
        """Its failure is of no interest any more."""
        first = await self.break_off()
        self.server.accepted.add(first["upload_id"])
        self.server.plan = [status("failed"), status("completed")]
        await self.begins_anew()

    async def test_a_token_is_not_written(self) -> None:
        """It may differ between runs; the upload is resumed nevertheless."""
        first = await self.break_off(token="s3cret")
        [file] = self.remembered()
        self.assertNotIn("s3cret", file.read_text())
        asked, second = await self.finish(token="other")
        self.assertEqual([asked["token"], second["token"]], ["other"] * 2)
        self.assertEqual(second["upload_id"], first["upload_id"])

    async def test_a_small_upload_writes_nothing(self) -> None:
        """Not even a folder."""
        self.path.write_bytes(bytes(REMEMBER_FROM - 1))
        self.assertEqual(await self.run_command(self.line), 0)
        self.assertFalse(self.state.exists())


class AnotherUploadTests(ResumeCase):
    """A different upload starts anew, and so does one that the server will not resume."""

    async def begins_beside(self, line: str = ResumeCase.line, **client: Any) -> None:
        """As `begins_anew`, but the interrupted upload is still remembered, until it is too old."""
        [kept] = self.remembered()
        with mock.patch.object(self, "remembered", list):
            await self.begins_anew(line, **client)
        self.assertEqual(self.remembered(), [kept])

    async def test_a_changed_file(self) -> None:
        """Another modification time, the same size."""
        await self.break_off()
        os.utime(self.path, ns=(1, 1))
        await self.begins_beside()

    async def test_a_replaced_file(self) -> None:
        """Another file with the same name, size and time."""
        await self.break_off()
        times = self.path.stat()
        other = self.path.with_name("other")
        other.write_bytes(os.urandom(SIZE))
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        other.replace(self.path)
        await self.begins_beside()

    async def test_other_parameters(self) -> None:
        """The first upload can still be resumed."""
        first = await self.break_off()
        await self.begins_beside(f"{self.line} --quality 90")
        self.server.requests.clear()
        self.assertEqual((await self.finish())[-1], {**first, **self.rest()})

    async def test_another_type(self) -> None:
        """Of the same file."""
        await self.break_off()
        await self.begins_beside("FILM --type extract_audio")

    async def test_another_server(self) -> None:
        """By its port."""
        await self.break_off()
        await self.begins_beside(port=self.listen(self.server))

    async def test_a_server_that_forgot(self) -> None:
        """The query gets 404, as after the server's retention."""
        await self.break_off()
        self.server.uploads.clear()
        await self.begins_anew()

    async def test_a_refused_question(self) -> None:
        """Any 4xx about the id."""
        for code in (400, 403, 409, 410, 422):
            await self.break_off()
            self.server.refuse["upload_status"] = refusal(code)
            await self.begins_anew()
            self.server.refuse.clear()
            self.server.uploads.clear()
            self.server.requests.clear()

    async def test_a_refused_rest(self) -> None:
        """The ID belongs to someone else, or to other parameters."""
        for code in (404, 409, 422):
            first = await self.break_off()
            real = self.server.do_upload

            def refuse(peer: Peer, code: int = code, real: Any = real) -> None:
                self.server.do_upload = real  # type: ignore[method-assign]
                self.server.uploads.clear()
                peer.answer(refusal(code))

            self.server.do_upload = refuse  # type: ignore[method-assign]
            _, refused, last = await self.finish()
            self.assertEqual(refused, {**first, **self.rest()})
            self.assertNotEqual(last["upload_id"], first["upload_id"])
            self.assertNotIn("offset", last)
            self.server.uploads.clear()
            self.server.requests.clear()

    async def test_what_is_refused_for_now_is_kept(self) -> None:
        """The next run may have a token, a slot or space."""
        await self.break_off()
        for action in ("upload_status", "upload"):
            for code in (401, 429, 507):
                self.server.refuse = {action: refusal(code)}
                stored = dict(self.server.uploads)
                self.assertEqual(await self.run_command(self.line), 5)
                self.assertEqual(len(self.remembered()), 1, (action, code))
                for upload_id in stored:  # the scripted server has taken what it refused
                    del self.server.uploads[upload_id][BREAK:]
        self.server.refuse.clear()
        self.assertEqual((await self.finish())[-1]["offset"], BREAK)

    async def test_what_is_refused_for_good_is_forgotten(self) -> None:
        """It would be refused again."""
        self.server.refuse_head = refusal(413)
        self.assertEqual(await self.run_command(self.line), 5)
        self.assertEqual(self.remembered(), [])

    async def test_a_file_that_changes_meanwhile_is_forgotten(self) -> None:
        """It is another file from then on."""

        def change(peer: Peer) -> None:
            os.utime(self.path, ns=(1, 1))
            peer.cut()

        self.server.at_break = change
        self.assertEqual(await self.run_command(self.line), 2)
        self.assertEqual(self.remembered(), [])


class NoMemoryTests(ResumeCase):
    """If nothing can be remembered, uploads work as usual."""

    async def test_an_unwritable_folder(self) -> None:
        """There is a line in the log and no other effect."""
        self.state.write_bytes(b"")
        self.assertEqual(await self.run_command(self.line), 0, self.errors)
        self.assertEqual(self.server.actions()[0], "upload")
        self.assertIn("not remembered", self.logged.getvalue())
        self.assertNotIn("remembered", self.errors)

    async def test_an_interrupt_promises_nothing_then(self) -> None:
        """The next run starts anew, so the message must not promise more."""
        self.state.write_bytes(b"")
        session = self.session(self.line)
        self.server.at_break = lambda peer: session.interrupt(signal.SIGINT)
        await session.start()
        self.assertEqual(self.errors.splitlines()[-1], "Interrupted.")

    async def test_two_at_once(self) -> None:
        """The second run has its own ID and leaves the first one's alone."""
        first = self.session(self.line)
        held: Deferred[Peer] = Deferred()
        self.server.at_break = held.callback
        running = first.start()
        await held
        self.err.truncate(0)
        self.assertEqual(await self.run_command(self.line), 0, self.errors)
        one, two = (r["upload_id"] for r in self.server.requests if r["action"] == "upload")
        self.assertNotEqual(one, two)
        self.assertEqual(self.server.uploads[two], self.path.read_bytes())
        self.assertNotIn("upload_status", self.server.actions())
        first.interrupt(signal.SIGINT)
        self.assertEqual(await running, 130)
        await self.settle()
        [file] = self.remembered()
        self.assertEqual(json.loads(file.read_text())["upload_id"], one)


class ResumeFileTests(SynchronousTestCase):
    """The file itself."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp()).absolute()
        self.patch_environment(XDG_STATE_HOME=str(self.state))
        self.upload_id = str(uuid.uuid4())
        self.lines: list[str] = []

    def patch_environment(self, **variables: str) -> None:
        patch = mock.patch.dict(os.environ, variables)
        patch.start()
        self.addCleanup(patch.stop)

    def file(self, **identity: Any) -> ResumeFile:
        """Return an open resume file."""
        log = mock.Mock(spec=Log)
        log.info.side_effect = log.warning.side_effect = lambda text, *args: self.lines.append(
            text % args
        )
        file = ResumeFile({"path": "film\udcff.mp4", **identity}, log)
        file.open()
        self.addCleanup(file.close)
        return file

    def left(self) -> list[str]:
        """The suffixes of what is in the folder."""
        return sorted(path.suffix for path in state_folder().iterdir())

    def leave(self, **identity: Any) -> Path:
        """Remember an upload and end; return the file."""
        before = set(state_folder().iterdir()) if state_folder().exists() else set()
        file = self.file(**identity)
        file.remember(self.upload_id)
        file.close()
        [path] = set(state_folder().iterdir()) - before
        return path

    def test_what_was_remembered_is_there_until_it_is_forgotten(self) -> None:
        """Only for the same identity; only the user can read the file."""
        path = self.leave()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertIsNone(self.file(path="other").upload_id)
        file = self.file()
        self.assertEqual(file.upload_id, self.upload_id)
        self.assertTrue(file.kept)
        file.forget()
        self.assertFalse(file.kept)
        file.close()
        self.assertIsNone(self.file().upload_id)
        self.assertEqual(self.lines, [])

    def test_one_process_has_it(self) -> None:
        """Another one gets nothing, and changes nothing."""
        first = self.file()
        first.remember(self.upload_id)
        second = self.file()
        self.assertIsNone(second.upload_id)
        second.remember(str(uuid.uuid4()))
        second.forget()
        second.close()
        self.assertIn("another process", self.lines[0])
        first.close()
        self.assertEqual(self.file().upload_id, self.upload_id)

    def test_a_lock_whose_file_was_removed_counts_for_nothing(self) -> None:
        """The file is created again, so that the next process sees the lock."""
        real = resume._lock
        removed: list[Path] = []

        def lock(descriptor: int) -> None:
            real(descriptor)
            if not removed:
                removed.extend(state_folder().glob("*.lock"))
                removed[0].unlink()

        self.patch(resume, "_lock", lock)
        self.file().remember(self.upload_id)
        self.assertEqual(self.left(), [".json", ".lock"])
        self.assertIsNone(self.file().upload_id)

    def test_a_process_that_was_killed_leaves_no_lock(self) -> None:
        """The kernel releases it; the ID is kept."""
        program = (
            "import logging, os, signal\n"
            "from vidproc.resume import ResumeFile\n"
            "file = ResumeFile({'path': 'film\\udcff.mp4'}, logging.getLogger())\n"
            f"file.open()\nfile.remember('{self.upload_id}')\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        root = str(Path(cli.__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": root}, timeout=60
        )
        self.assertEqual(done.returncode, -signal.SIGKILL)
        self.assertEqual(self.left(), [".json", ".lock"])
        self.assertEqual(self.file().upload_id, self.upload_id)

    def test_what_is_damaged_is_as_nothing(self) -> None:
        """Truncated, in another format, or with an ID that no server accepts."""
        path = self.leave()
        whole = path.read_text()
        for text in ("", whole[:-9], "[]", "{}", whole.replace(self.upload_id, "x"), "\udcff"):
            path.write_text(text, errors="surrogateescape")
            file = self.file()
            self.assertIsNone(file.upload_id, text)
            file.remember(self.upload_id)
            file.close()
            self.assertEqual(path.read_text(), whole)

    def test_what_is_old_is_removed(self) -> None:
        """So are leftovers of killed processes, but not files that are new, in use or not ours."""
        old, used, new = (self.leave(path=name) for name in ("old", "used", "new"))
        in_use = self.file(path="used")
        leftover = old.with_suffix(".lock")
        foreign = state_folder() / "notes.txt"
        for path in (leftover, foreign):
            path.touch()
        long_ago = time.time() - KEEP_SECONDS - 60
        for path in (old, leftover, used, used.with_suffix(".lock"), foreign):
            os.utime(path, (long_ago, long_ago))
        self.file(path="another").close()
        kept = {new, used, used.with_suffix(".lock"), foreign}
        self.assertEqual(set(state_folder().iterdir()), kept)
        in_use.close()

    def test_a_file_that_cannot_be_removed_is_ignored(self) -> None:
        """The log has it."""
        state_folder().mkdir(parents=True)
        stuck = state_folder() / "stuck.lock"
        stuck.mkdir()
        os.utime(stuck, (1, 1))
        self.file().remember(self.upload_id)
        self.assertIn("cannot be removed", self.lines[0])
        self.assertEqual(self.left(), [".json", ".lock", ".lock"])

    def test_a_full_disk_is_noted(self) -> None:
        """Nothing is promised then."""
        file = self.file()
        self.patch(os, "fsync", mock.Mock(side_effect=OSError(28, "No space left on device")))
        file.remember(self.upload_id)
        self.assertFalse(file.kept)
        self.assertIn("No space left", self.lines[0])

    def test_the_folder_is_where_the_system_wants_it(self) -> None:
        """XDG's, or the default when that is unset, empty or relative."""
        self.assertEqual(state_folder(), self.state / "vidproc" / "uploads")
        home = Path("/home/someone")
        for value in ("", "relative/path"):
            self.patch_environment(XDG_STATE_HOME=value, HOME=str(home))
            self.assertEqual(state_folder(), home / ".local" / "state" / "vidproc" / "uploads")

    def test_a_user_without_a_home_is_noted(self) -> None:
        """No folder, no error."""
        self.patch_environment(XDG_STATE_HOME="")
        self.patch(Path, "home", mock.Mock(side_effect=RuntimeError("no home")))
        self.file().remember(self.upload_id)
        self.assertIn("no home", self.lines[0])


class Relay(Protocol):
    """Passes a connection's bytes on to the server: all, or only the first `limit` of the gate.

    `seen` is what it handed on.
    """

    transport: IStreamTransport
    upstream: Upstream

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.seen = bytearray()
        self.shut = False

    def connectionMade(self) -> None:
        self.gate.relays.append(self)
        self.transport.pauseProducing()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.gate.server_port)
        connectProtocol(endpoint, Upstream(self)).addCallback(self.open)

    def open(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        if self.shut:
            return
        limit = self.gate.limit
        if limit is not None and len(self.seen) + len(data) >= limit:
            data = data[: limit - len(self.seen)]
            self.shut = True
            self.transport.pauseProducing()
            self.gate.limit = None
            self.gate.reached.callback(None)
        self.seen += data
        self.upstream.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.upstream.transport.loseConnection()

    def requests(self) -> list[tuple[dict[str, Any], bytes]]:
        """Return what went through as (JSON, payload)."""
        decoder = Decoder()
        decoder.receive_data(bytes(self.seen))
        found: list[tuple[dict[str, Any], bytearray]] = []
        while not isinstance(event := decoder.next_event(), NeedData):
            if isinstance(event, MessageStarted):
                found.append((json.loads(event.json), bytearray()))
            elif isinstance(event, PayloadChunk):
                found[-1][1].extend(event.data)
        return [(fields, bytes(payload)) for fields, payload in found]


class Upstream(Protocol):
    """The relay's connection to the server."""

    transport: IStreamTransport

    def __init__(self, relay: Relay) -> None:
        self.relay = relay

    def dataReceived(self, data: bytes) -> None:
        self.relay.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.relay.transport.loseConnection()


class Gate(ServerFactory):
    """Stands between clients and the server; passes `limit` bytes of the first connection."""

    def __init__(self, server_port: int, limit: int) -> None:
        self.server_port = server_port
        self.limit: int | None = limit
        self.reached: Deferred[None] = Deferred()
        self.relays: list[Relay] = []

    @property
    def peers(self) -> list[Relay]:
        """What is to be closed when the test ends."""
        return self.relays

    def buildProtocol(self, address: Any) -> Relay:
        return Relay(self)


class KilledClientTests(ServerCase):
    """The real command, killed, against the real server."""

    timeout = 120

    def spawn(self, line: str) -> tuple[Any, Deferred[tuple[int, str, str]]]:
        collector = Collector()
        root = str(Path(cli.__file__).parents[2])
        # Set here as well: a process started after a timeout has the user's environment again.
        environment = {**os.environ, "PYTHONPATH": root, "XDG_STATE_HOME": str(self.state)}
        words = [*COMMAND, *shlex.split(line)]
        process = reactor.spawnProcess(
            collector, sys.executable, words, environment, str(self.folder)
        )
        return process, collector.done

    def raw_film(self) -> bytes:
        """Make a film of 4 s that is large for its length, so that its end is in the unsent
        rest."""
        source = ["-f", "lavfi", "-i", "testsrc=size=320x240:rate=25:duration=4"]
        command = [find_ffmpeg().path, "-nostdin", "-loglevel", "error", *source]
        path = self.folder / "film.mkv"
        subprocess.run([*command, "-pix_fmt", "yuv420p", "-c:v", "rawvideo", path], check=True)
        return path.read_bytes()

    async def log_has(self, server: ServerProcess, text: str) -> None:
        while text not in server.log():
            await deferLater(reactor, 0.02)

    async def kill_and_run_again(self, *, noticed: bool) -> None:
        """Kill the client in the middle of an upload, and run it to the end."""
        film = self.raw_film()
        server = ServerProcess(Path(self.mktemp()))
        self.addCleanup(server.stop)
        server.start()
        gate = Gate(server.port, BREAK)
        line = "film.mkv --type gif --start-time 3 --duration 0.5 --width 64 --host 127.0.0.1"
        line += f" --port {self.listen(gate)}"
        process, done = self.spawn(line)
        await gate.reached
        process.signalProcess("KILL")
        await done
        if noticed:
            # Bytes that are still in flight are discarded; the end of the connection follows.
            gate.relays[0].transport.resumeProducing()
            await self.log_has(server, "broke off at")
        code, out, err = await self.spawn(line)[1]
        self.assertEqual((code, out), (0, "film_processed.gif\n"), err)
        self.assertEqual((self.folder / "film_processed.gif").read_bytes()[:6], b"GIF89a")
        [(first, sent)] = gate.relays[0].requests()
        (asked, _), (second, rest), *_ = gate.relays[1].requests()
        self.assertEqual(asked["action"], "upload_status")
        digest = hashlib.sha256(film).hexdigest()
        self.assertEqual(second, {**first, "offset": len(sent), "sha256": digest})
        self.assertGreater(len(sent), BREAK - 1000)
        self.assertEqual(sent + rest, film)
        self.assertIn("Resuming the upload at 4.8 MiB of", err)
        self.assertEqual(list((self.state / "vidproc" / "uploads").iterdir()), [])

    async def test_the_next_run_sends_what_the_killed_one_did_not(self) -> None:
        """kill -9: every byte crosses the wire once."""
        await self.kill_and_run_again(noticed=True)

    async def test_a_server_that_still_waits_for_the_killed_client(self) -> None:
        """As after a power cut: the old connection is open and occupies the address's only slot."""
        await self.kill_and_run_again(noticed=False)
