"""A real twistd process for whole-system tests, and a client made of a plain socket."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import psutil

from support.folders import files_below
from vidproc.mmp.codec import encode_head

START_TIMEOUT = 120.0
TASK_TIMEOUT = 300.0
BUSY = 20.0
"""Seconds that a busy machine may add to what takes a promised time."""

Found = TypeVar("Found")


class ServerProcess:
    """`twistd vidproc` with everything it writes below `root`."""

    def __init__(self, root: Path, *options: str, daemon: bool = False, umask: int = -1) -> None:
        self.root = root.absolute()
        self.root.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.daemon = daemon
        self.umask = umask
        self.log_dir = self.root / "logs"
        self.data_dir = self.root / "data"
        self.pid_file = self.root / "twistd.pid"
        self.port = 0
        self.pid = 0
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it is ready."""
        log = self.log_dir / "server.log"
        seen = len(log.read_text()) if log.exists() else 0
        with (self.root / "output.txt").open("ab") as output:
            popen = subprocess.Popen(
                self.command(),
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                umask=self.umask,
            )
        if self.daemon:
            if popen.wait(START_TIMEOUT) != 0:
                raise AssertionError((self.root / "output.txt").read_text())
        else:
            self._popen = popen
            self.pid = popen.pid
        match = wait_for(
            lambda: (
                log.exists() and re.search(r" serves tcp \S+ port (\d+)", log.read_text()[seen:])
            ),
            alive=lambda: self.daemon or popen.poll() is None,
        )
        self.port = int(match[1])
        self.pid = int(self.pid_file.read_text())
        return self

    def command(self) -> list[str]:
        """Return its command line."""
        foreground = [] if self.daemon else ["-n"]
        return [
            str(Path(sys.executable).with_name("twistd")),
            *foreground,
            f"--pidfile={self.pid_file}",
            "vidproc",
            "--port=0",
            f"--data-dir={self.data_dir}",
            f"--log-dir={self.log_dir}",
            *self.options,
        ]

    @property
    def ports(self) -> list[int]:
        """Its ports, in the order of the frontends and of their options."""
        line = re.findall(r"vidproc \S+ serves (.*); FFmpeg", self.log())[-1]
        return [int(port) for port in re.findall(r" port (\d+)", line)]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal and wait for its end."""
        try:
            process = psutil.Process(self.pid)
            process.send_signal(number)
        except psutil.NoSuchProcess:
            process = None  # it has ended by itself
        if self._popen is not None:
            self._popen.wait(START_TIMEOUT)
            self._popen = None
        elif process is not None:
            psutil.wait_procs([process], timeout=START_TIMEOUT)
        self.pid_file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop it gracefully, if it is running."""
        if self.pid:
            self.kill(signal.SIGTERM)
            self.pid = 0

    def children(self) -> list[psutil.Process]:
        """Return its media processes that are at work, without the fork server and ended ones."""

        def works(process: psutil.Process) -> bool:
            try:
                command = process.cmdline()
                if not command:
                    return False  # it is ending: its memory is gone, and soon it is a zombie
                waits = process.ppid() == self.pid and "fork_server.py" in "".join(command)
                return not waits and process.status() not in (
                    psutil.STATUS_ZOMBIE,
                    psutil.STATUS_DEAD,  # about to be forgotten
                )
            except psutil.NoSuchProcess:
                return False

        return [process for process in self.descendants() if works(process)]

    def commands_at_work(self) -> list[list[str]]:
        """Return the command lines of its media processes that are at work."""
        found = []
        for process in self.children():
            try:
                found.append(process.cmdline())
            except psutil.NoSuchProcess:
                pass  # it ended just now
        return [command for command in found if command]

    def descendants(self) -> list[psutil.Process]:
        """Return all its descendants."""
        try:
            found: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return found

    def files(self) -> list[str]:
        """Return its media files, relative to the data folder."""
        return sorted(
            str(path.relative_to(self.data_dir))
            for path in files_below(self.data_dir)
            if path.parent != self.data_dir
        )

    def log(self, name: str = "server.log") -> str:
        """Return the contents of a log file."""
        return (self.log_dir / name).read_text()


def wait_for(
    condition: Callable[[], Found | Literal[False] | None],
    timeout: float = START_TIMEOUT,
    alive: Callable[[], bool] = lambda: True,
) -> Found:
    """Wait until `condition` returns a true value, and return that."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline or not alive():
            raise AssertionError("what the test waits for did not come")
        time.sleep(0.02)


def has_ended(process: psutil.Process | int) -> bool:
    """Return whether a process, or the one with that number, has ended, reaped or not."""
    try:
        if isinstance(process, int):
            process = psutil.Process(process)
        ended = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return not process.is_running() or process.status() in ended
    except psutil.NoSuchProcess:
        return True


class PlainClient:
    """A client like those of the protocol's first users: a socket, and nothing of ours but the
    header.

    Opens a connection for each request unless one is given; reads an answer by one recv(8), one
    recv(json_size), one recv(type_size) and then the payload.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.port = port
        self.address = address

    def connect(self) -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=60, source_address=(self.address, 0)
        )

    def request(
        self, request: dict[str, Any], payload: bytes = b"", media_type: str = ""
    ) -> tuple[dict[str, Any], str, bytes]:
        with self.connect() as connection:
            send(connection, request, payload, media_type)
            return receive(connection)

    def upload(self, path: Path, type: str, parameters: dict[str, Any]) -> dict[str, Any]:
        request = {"action": "upload", "type": type, "parameters": parameters}
        return self.request(request, path.read_bytes(), path.suffix[1:])[0]

    def status(self, task_id: str, **fields: Any) -> dict[str, Any]:
        return self.request({"action": "status", "task_id": task_id, **fields})[0]

    def wait(
        self, task_id: str, until: tuple[str, ...] = ("completed", "failed", "cancelled")
    ) -> dict[str, Any]:
        """Poll the status until the task is in one of the states; return the status."""
        return wait_for(
            lambda: (status := self.status(task_id))["status"] in until and status, TASK_TIMEOUT
        )

    def wait_for_stage(self, task_id: str, stage: str) -> dict[str, Any]:
        """Watch a task until it has reached a stage."""
        with self.connect() as connection:
            send(connection, {"action": "watch", "task_id": task_id, "interval": 0.1})
            while True:
                status = receive(connection)[0]
                if status["stage"] == stage and status["progress"] > 0:
                    return status
                if status["status"] not in ("queued", "processing"):
                    raise AssertionError(f"the task ended before {stage}: {status}")

    def download(self, task_id: str, **fields: Any) -> tuple[dict[str, Any], str, bytes]:
        return self.request({"action": "download", "task_id": task_id, **fields})


def send(
    connection: socket.socket, request: dict[str, Any], payload: bytes = b"", media_type: str = ""
) -> None:
    """Send a complete request."""
    connection.sendall(
        encode_head(json.dumps(request).encode(), media_type, len(payload)) + payload
    )


def receive(connection: socket.socket) -> tuple[dict[str, Any], str, bytes]:
    """Read one answer."""
    header = connection.recv(8)
    if not header:
        raise ConnectionError("the server closed the connection")
    json_size, type_size = int.from_bytes(header[:2], "big"), header[2]
    payload_size = int.from_bytes(header[3:], "big")
    fields = json.loads(connection.recv(json_size))
    media_type = connection.recv(type_size).decode() if type_size else ""
    payload: list[bytes] = []
    while payload_size:
        data = connection.recv(min(payload_size, 1 << 20))
        if not data:
            raise ConnectionError("the server closed the connection within a payload")
        payload.append(data)
        payload_size -= len(data)
    return fields, media_type, b"".join(payload)
