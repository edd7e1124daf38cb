"""A batch with the real client and a real server, both of which are killed in the middle."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

from support.clips import length_of, make_clips
from support.folders import files_below
from support.ports import free_port
from support.server_process import ServerProcess, wait_for

TOLERANCE = 0.09
"""Seconds by which an MP3 may be longer than its source: less than half the difference of two
clips."""

PATIENCE = 3600.0
"""Seconds for a part of a long batch on a busy machine; a test has its own limit."""


class BatchJob:
    """`count` clips in a folder, a server, and the command that extracts the audio of all clips."""

    def __init__(self, root: Path, count: int, *options: str) -> None:
        self.root = root.absolute()
        self.films = self.root / "films"
        self.results = self.root / "results"
        self.lengths = make_clips(self.films, count)
        self.port = free_port()
        address = f"--port=tcp:{self.port}:interface=127.0.0.1"
        self.server = ServerProcess(self.root / "server", address, *options).start()
        self.output = self.root / "client.txt"

    def start_client(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the command."""
        with self.output.open("ab") as output:
            return subprocess.Popen(
                [
                    *[sys.executable, "-m", "vidproc.client", str(self.films)],
                    *["--type=extract_audio", f"--output={self.results}", f"--port={self.port}"],
                    *["--host=127.0.0.1", f"--log-dir={self.root / 'logs'}", *options],
                ],
                env={**os.environ, "XDG_STATE_HOME": str(self.root / "state")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill_both_at(self, client: subprocess.Popen[bytes], results: int) -> None:
        """Kill client and server once that many results exist, and restart the server."""
        wait_for(
            lambda: self.count() >= results,
            timeout=PATIENCE,
            alive=lambda: client.poll() is None,
        )
        client.kill()
        client.wait()
        self.restart_server_at(results)

    def restart_server_at(self, results: int) -> None:
        """Kill the server once that many results exist, and restart it on the same port."""
        wait_for(lambda: self.count() >= results, timeout=PATIENCE)
        self.server.kill()
        self.server.start()

    def count(self) -> int:
        """Return how many results exist."""
        return len(list(self.results.glob("*.mp3")))

    def problems(self) -> list[str]:
        """Return what is missing, wrong or duplicated."""
        found = []
        expected = {f"{Path(name).stem}_processed.mp3": name for name in self.lengths}
        there = {path.name: path for path in self.results.iterdir()}
        found += [f"missing: {name}" for name in expected.keys() - there.keys()]
        found += [f"too many: {name}" for name in there.keys() - expected.keys()]
        for name in expected.keys() & there.keys():
            length, right = length_of(there[name]), self.lengths[expected[name]]
            if not -0.01 <= length - right <= TOLERANCE:
                found.append(f"{name} has {length:.2f} s instead of {right:.2f} s")
        with sqlite3.connect(self.server.data_dir / "tasks.sqlite") as store:
            tasks = Counter(name for (name,) in store.execute("SELECT filename FROM tasks"))
        found += [f"{count} tasks of {name}" for name, count in tasks.items() if count != 1]
        return found

    def remembered(self) -> list[Path]:
        """Return what the client keeps for its next run."""
        return files_below(self.root / "state")
