"""A cluster on this machine: a real scheduler and real workers."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

START_TIMEOUT = 180.0
FRUGAL = (
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL=1s",
)
"""The scheduler's environment that docs/cluster.md recommends."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

Found = TypeVar("Found")


def wait_until(
    look: Callable[[], Found | None], timeout: float = START_TIMEOUT, what: str = ""
) -> Found:
    """Return the first true thing that `look` returns; raises `AssertionError` after `timeout`."""
    give_up_at = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {timeout:g} s: {what or look}")
        time.sleep(0.05)
    return found


class Program:
    """A child process with its output in a file below `root`."""

    def __init__(
        self, root: Path, name: str, argv: Sequence[str], cpus: Sequence[int] = ()
    ) -> None:
        self.root = root.absolute()
        self.root.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.argv = list(argv)
        self.cpus = set(cpus)
        self.file_size: int | None = None
        """The most bytes of a file that it can write; stands for a full disk."""
        self.output = self.root / f"{name}.out"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """Start it."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.argv,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=self._prepare,
            )
        return self

    def _prepare(self) -> None:
        """In the new process: die with whoever started it, and stay on its cores."""
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)
        if self.file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_size, self.file_size))

    def said(self) -> str:
        """Return what it has written."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it as `kill -9` does, and reap it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout: float = 60.0) -> int:
        """End it with SIGTERM; return its exit status."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end; return its exit status. After `timeout` it is killed."""
        if self.process is None:
            return 0
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end:\n{self.said()}") from None


class Scheduler(Program):
    """`dask scheduler` on a loopback port; a second `start` takes the same port."""

    def __init__(
        self, root: Path, *options: str, host: str = "127.0.0.1", tls: bool = False
    ) -> None:
        self._scheme = "tls" if tls else "tcp"
        self._host = host
        self._options = options
        self.port = 0
        super().__init__(root, "scheduler", [])

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://{self._host}:{self.port}"

    def start(self) -> Self:
        """Start it and wait until it listens."""
        before = len(self.said())
        self.argv = [
            *("env", *FRUGAL),
            *(sys.executable, "-m", "distributed.cli.dask_scheduler"),
            *("--host", f"{self._scheme}://{self._host}", "--port", str(self.port)),
            *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
            *self._options,
        ]
        super().start()
        listening = re.compile(rf"Scheduler at: +{self._scheme}://[\d.]+:(\d+)")
        match = wait_until(lambda: listening.search(self.said(), before), what="a scheduler")
        self.port = int(match[1])
        return self


class Worker(Program):
    """`vidproc-worker` with its scratch and its log below `root`."""

    def __init__(
        self,
        root: Path,
        name: str,
        address: str,
        store: str,
        *options: str,
        cores: int = 1,
        cpus: Sequence[int] = (),
    ) -> None:
        self.scratch = root.absolute() / name / "scratch"
        self.log = root.absolute() / name / "logs" / "worker.log"
        argv = [sys.executable, "-m", "vidproc.app.worker_command", address]
        argv += ["--object-store", store, "--scratch", str(self.scratch), "--cores", str(cores)]
        argv += ["--log-dir", str(self.log.parent), *options]
        super().__init__(root, name, argv, cpus)

    def logged(self) -> str:
        """Return its log."""
        return self.log.read_text() if self.log.exists() else ""

    def start(self) -> Self:
        """Start it and wait until it serves."""
        super().start()
        self.wait_until_serving()
        return self

    def wait_until_serving(self) -> None:
        """Wait until the process that was started serves."""
        ours = f"-{self.pid}-"
        wait_until(
            lambda: (
                any(" serves " in line and ours in line for line in self.logged().splitlines())
                or self._fail_if_ended()
            ),
            what=f"{self.name}: {self.said()}",
        )

    def _fail_if_ended(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"{self.name} has ended:\n{self.said()}\n{self.logged()}")
        return False
