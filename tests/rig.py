"""The server's real parts, without threads, processes and real time.

Store, data folder, task service and protocol are real; the clock is a `Clock`, threads run in
place, and `StubRunner` implements `Runner` but runs nothing: the test decides how each command
ends. Probe answers come from the real probe.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from support.job import run_probe
from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.ffmpeg.command import (
    SOURCE,
    Command,
    CommandFailed,
    CommandStopped,
    Completed,
    FailureKind,
    OnProgress,
    Workspace,
)
from vidproc.files.data_folder import DataFolder
from vidproc.files.threads import WorkerThreads
from vidproc.frontends.gate import Gate
from vidproc.frontends.interface import Backend
from vidproc.frontends.mmp.frontend import MMPFactory
from vidproc.frontends.mmp.protocol import MMPServerProtocol
from vidproc.frontends.server_info import ServerInfo
from vidproc.frontends.tokens import Tokens
from vidproc.mmp.codec import NEED_DATA, Decoder, MessageEnded, PayloadChunk, encode_head
from vidproc.tasks.facade import Tasks
from vidproc.tasks.foundation import Foundation
from vidproc.tasks.settings import Settings
from vidproc.tasks.store.store import TaskStore

CLIP = str(Path(__file__).parent / "media" / "flower-540p-aac.mp4")


class InPlace(WorkerThreads):
    """`WorkerThreads` without threads: `call` makes the call at once.

    After `hold`, calls wait until the test runs them.
    """

    def __init__(self) -> None:
        self._held: ByHand | None = None

    def hold(self) -> ByHand:
        """Let further calls wait."""
        self._held = ByHand()
        return self._held

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Deferred[Any]:
        if self._held is not None:
            return self._held.call(function, *arguments, **keywords)
        return maybeDeferred(function, *arguments, **keywords)


class ByHand(WorkerThreads):
    """`WorkerThreads` whose calls wait until the test runs them."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        self.waiting.append((result, lambda: function(*arguments, **keywords)))
        return result

    def run_all(self) -> None:
        while self.waiting:
            result, call = self.waiting.pop(0)
            maybeDeferred(call).chainDeferred(result)


class StubCommand:
    """A command that runs until the test ends it."""

    def __init__(self, runner: StubRunner, command: Command, path_of: Callable[[str], Path]):
        self.command = command
        self.threads = 1
        self.here = True
        self.workspace = Workspace("", "")
        self.result: Deferred[Completed] = Deferred()
        self.stops = 0
        self.peak_memory = 0
        self.cpu_time = 0.0
        self.on_progress: OnProgress = lambda progress: None
        self._runner = runner
        self._path_of = path_of

    def stop(self) -> None:
        if self not in self._runner.running:
            return
        self.stops += 1
        if self._runner.stops_at_once:
            self.end(CommandStopped("stopped on request"))

    def complete(self, stdout: bytes = b"", content: bytes = b"result") -> None:
        """Succeed, with its outputs written."""
        for name in self.command.outputs:
            self._path_of(name).write_bytes(content)
        self.end(Completed(stdout, "", 0.1))

    def fail(self, kind: FailureKind = FailureKind.INPUT) -> None:
        """Fail."""
        self.end(CommandFailed(self.command, "exit status 1", kind=kind))

    def end(self, outcome: Completed | Exception) -> None:
        self._runner.running.remove(self)
        if isinstance(outcome, Completed):
            self.result.callback(outcome)
        else:
            self.result.errback(outcome)

    def measure(self) -> None:
        pass

    def kill(self) -> None:
        self.stop()


class StubRunner:
    """Implements `Runner`; `running` are the commands that the test must end."""

    def __init__(self, path_of_key: Callable[[str], Path]) -> None:
        self.running: list[StubCommand] = []
        self.capabilities = AllCapabilities()
        self.stops_at_once = True
        self._path_of_key = path_of_key

    def start(
        self, command: Command, workspace: Workspace, threads: int, on_progress: OnProgress
    ) -> StubCommand:
        running = StubCommand(self, command, lambda name: self._path_of_key(workspace.key_of(name)))
        running.threads = threads
        running.workspace = workspace
        running.on_progress = on_progress
        self.running.append(running)
        return running

    def release(self, workspace: Workspace) -> None:
        pass


class AllCapabilities:
    """An FFmpeg build with every feature that we use."""

    encoders = frozenset({"libx264", "aac", "libmp3lame", "gif", "libvpx-vp9", "libopus"})
    filters = frozenset({"zscale", "tonemap", "bwdif", "palettegen", "paletteuse"})
    spare_cores = 0


class Rig:
    """A server in `root`."""

    def __init__(
        self,
        root: Path,
        *,
        settings: Settings | None = None,
        limit: int = 1 << 40,
        tokens: Tokens | None = None,
        **gate: Any,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.storage = DataFolder(root, limit)
        self.storage.open()
        self.store = TaskStore(root / "tasks.sqlite")
        self.store.open()
        self.disk = InPlace()
        self.store_thread = InPlace()
        self.lookup_thread = InPlace()
        self.runner = StubRunner(self.storage.path)
        self.settings = settings or Settings()
        self.tasks = Tasks(
            Foundation(
                self.clock, self.settings, self.storage, self.disk, self.store, self.store_thread
            ),
            writers=self.disk,
            lookup_thread=self.lookup_thread,
            runner=self.runner,
            cores=2,
        )
        self.gate = Gate(self.clock, tokens=tokens, **gate)
        self.backend = Backend(
            self.clock,
            self.gate,
            self.tasks,
            self.disk,
            lambda: ServerInfo(
                self.settings,
                "9.0",
                ("rlimits",),
                self.tasks.queue.queued,
                self.tasks.queue.running,
                2,
            ),
        )
        self.factory = MMPFactory(self.backend)

    def close(self) -> None:
        self.store.close()
        self.storage.close()

    def connect(self, host: str = "192.0.2.1") -> Client:
        return Client(self.factory, host)


class Client:
    """One connection to a rig's server, in memory."""

    def __init__(self, factory: MMPFactory, host: str) -> None:
        self.transport = Transport(peerAddress=IPv4Address("TCP", host, 40000))
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        self.protocol: MMPServerProtocol = protocol
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)
        self._decoder = Decoder()

    def send(self, data: bytes) -> None:
        """Deliver bytes to the server."""
        self.protocol.dataReceived(data)

    def request(
        self, request: dict[str, Any], payload: bytes = b"", media_type: str = ""
    ) -> list[tuple[dict[str, Any], str, bytes]]:
        """Send a complete request and return the answers to it."""
        self.send(message(request, payload, media_type))
        return self.answers()

    def answers(self) -> list[tuple[dict[str, Any], str, bytes]]:
        """Return the messages since the last call: (JSON, media type, payload)."""
        self._decoder.receive_data(self.transport.value())
        self.transport.clear()
        found: list[tuple[dict[str, Any], str, bytes]] = []
        parts: list[bytes] = []
        head: Any = None
        while (event := self._decoder.next_event()) is not NEED_DATA:
            if isinstance(event, PayloadChunk):
                parts.append(bytes(event.data))
            elif isinstance(event, MessageEnded):
                found.append((json.loads(head.json), head.media_type, b"".join(parts)))
                parts = []
            else:
                head = event
        return found

    def answer(self) -> dict[str, Any]:
        """Return the JSON of the only answer since the last call."""
        answers = self.answers()
        if len(answers) != 1:
            raise AssertionError(f"expected one answer, got {answers}")
        return answers[0][0]

    def half_close(self) -> None:
        """Close the sending side."""
        self.protocol.readConnectionLost()

    def lose(self) -> None:
        """Lose the connection."""
        from twisted.internet.error import ConnectionLost
        from twisted.python.failure import Failure

        self.protocol.connectionLost(Failure(ConnectionLost()))


class Transport(StringTransport):
    """A `StringTransport` that records how the server ends it."""

    bufferSize = 1 << 16
    aborted = False
    write_closed = False
    protocol: Any = None

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True
        self.protocol.connectionLost()

    def loseWriteConnection(self) -> None:
        self.write_closed = True

    @property
    def ended(self) -> bool:
        """Whether the server has closed its side."""
        return self.disconnecting or self.write_closed

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass


def message(request: dict[str, Any], payload: bytes = b"", media_type: str = "") -> bytes:
    """Return the bytes of a complete request."""
    return encode_head(json.dumps(request).encode(), media_type, len(payload)) + payload


@cache
def probe_answer(path: str) -> bytes:
    """Return what the real probe prints about a file."""
    return run_probe(Path(path))


@cache
def gif_answer(seconds: int = 1) -> bytes:
    """Return what the real probe prints about a GIF of the flower clip's size."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/result.gif"
        source = ["-f", "lavfi", "-i", f"testsrc=size=480x270:rate=12:duration={seconds}"]
        subprocess.run(
            [find_ffmpeg().path, "-nostdin", "-loglevel", "error", *source, path], check=True
        )
        return probe_answer(path)


def complete_step(running: StubCommand, content: bytes = b"GIF of the film") -> None:
    """Let a command of a GIF task on the flower clip succeed."""
    if running.command.program == "ffmpeg":
        running.complete(content=content)
    elif running.command.inputs == (SOURCE,):
        running.complete(probe_answer(CLIP))
    else:
        running.complete(gif_answer())
