"""What tests of the fork server share."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from vidproc.ffmpeg.sandbox import Sandbox, find_layers, fork_server, job_of
from vidproc.runners import forking
from vidproc.runners.forking import ForkedProcess, ForkServer

reactor: Any = installed
LIMIT = 60.0


async def until(true: Callable[[], object]) -> None:
    """Wait until `true` returns something true."""
    end = time.monotonic() + LIMIT
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"still not after {LIMIT:g} s")
        await deferLater(reactor, 0.01)


class Child:
    """What a forked child says and does."""

    def __init__(self) -> None:
        self.pid = 0
        self.words = b""
        self.said = {1: b"", 2: b""}
        self.ended: Deferred[Any] = Deferred()
        self.lost = False

    def childForked(self, pid: int) -> None:
        self.pid = pid

    def childReady(self, word: bytes) -> None:
        self.words += word

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.said[childFD] += data

    def childEnding(self) -> float:
        return float(sum(psutil.Process(self.pid).cpu_times()[:2]))

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value)

    def childLost(self) -> None:
        self.lost = True
        self.ended.callback(RuntimeError("lost"))


class ForkingCase(TestCase):
    timeout = 240

    def setUp(self) -> None:
        self.layers = find_layers("auto") if sys.platform == "linux" else frozenset[str]()
        if "seccomp" not in self.layers:
            raise SkipTest("needs seccomp")
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir(parents=True)
        self.patch(forking, "_RESTART", 0.05)
        self.sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers)

    def script(self, source: str) -> str:
        path = self.root / "script.py"
        path.write_text(textwrap.dedent(source))
        return str(path)

    def serve(self, script: str) -> ForkServer:
        server = ForkServer(reactor, lambda: fork_server(script))
        server.start()
        self.addCleanup(server.stop)
        return server

    def fork(
        self, server: ForkServer, script: str, *arguments: str, reads: tuple[str, ...] = ()
    ) -> tuple[Child, ForkedProcess]:
        child = Child()
        argv = self.sandbox.wrap_script([script, *arguments], reads)
        forked = server.fork(child, job_of(argv))
        assert forked is not None
        return child, forked

    async def output_of(self, server: ForkServer, script: str, *arguments: str) -> str:
        child, _ = self.fork(server, script, *arguments)
        await child.ended
        self.assertEqual(child.said[2], b"")
        return child.said[1].decode()
