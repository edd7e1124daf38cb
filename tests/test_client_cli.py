"""The command ``vidproc`` as a separate process."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.protocol import ServerFactory

from tests.client_harness import (
    COMMAND,
    TASK,
    Collector,
    ServerCase,
)
from tests.ports import port_of
from vidproc.client import cli


class SubprocessTests(ServerCase):
    """The real command as a separate process."""

    timeout = 60

    def command(self, *words: str) -> Deferred[tuple[int, str, str]]:
        collector = Collector()
        # The package is found whether it is installed or not.
        root = str(Path(cli.__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root}
        reactor.spawnProcess(
            collector, sys.executable, [*COMMAND, *words], environment, str(self.folder)
        )
        return collector.done

    async def test_a_whole_run(self) -> None:
        """Exit status 0, only the path on standard output, a log in logs/."""
        self.film(100_000)
        code, out, err = await self.command(
            *shlex.split(f"film.mp4 --type gif --start-time 0 --duration 5 --port {self.port}"),
            "--host",
            "127.0.0.1",
        )
        self.assertEqual((code, out), (0, "film_processed.gif\n"), err)
        self.assertEqual((self.folder / out.strip()).read_bytes(), self.server.result)
        self.assertIn("accepted as task", (self.folder / "logs" / "client.log").read_text())

    async def test_wrong_usage_exits_with_2_and_leaves_nothing(self) -> None:
        """Two lines and nothing else, before anything is sent or written."""
        self.film(1000)
        results = await gatherResults(
            [
                self.command("film.mp4", "--type", "resolution", "--width", "1280"),
                self.command("absent.mp4", "--type", "compress"),
            ]
        )
        code, out, err = results[0]
        self.assertEqual((code, out), (2, ""))
        self.assertEqual(
            err.splitlines(),
            [
                "Resolution change requires both --width and --height",
                "Example: --width 1280 --height 720",
            ],
        )
        self.assertEqual(results[1][0], 2)
        self.assertFalse((self.folder / "logs").exists())

    async def test_a_refused_connection_exits_with_3(self) -> None:
        """At once, without a traceback, and with a hint on starting a server."""
        self.film(1000)
        listening = reactor.listenTCP(0, ServerFactory(), interface="127.0.0.1")
        port = port_of(listening)
        await maybeDeferred(listening.stopListening)
        code, _, err = await self.command(
            "film.mp4", "--type", "compress", "--host", "127.0.0.1", "--port", str(port)
        )
        self.assertEqual(code, 3)
        self.assertIn(f"127.0.0.1 port {port}", err)
        self.assertIn(f"twistd -n vidproc --port {port}", err)
        self.assertNotIn("Traceback", err)

    async def test_ctrl_c_exits_with_130(self) -> None:
        """With the real signal, while the server is working."""
        self.film(1000)
        self.server.silent_watch = True
        collector = Collector()
        real = self.server.whole

        def whole(peer: Any) -> None:
            real(peer)
            if peer.fields["action"] == "watch":
                process.signalProcess("INT")

        self.server.whole = whole  # type: ignore[method-assign]
        words = [*COMMAND, "film.mp4", "--type", "compress", "--port", str(self.port)]
        root = str(Path(cli.__file__).parents[2])
        process = reactor.spawnProcess(
            collector,
            sys.executable,
            [*words, "--host", "127.0.0.1"],
            {**os.environ, "PYTHONPATH": root},
            str(self.folder),
        )
        code, _, err = await collector.done
        self.assertEqual(code, 130, err)
        self.assertIn(f"vidproc --cancel {TASK}", err)
        self.assertNotIn("Traceback", err)
