"""Confining media processes: how they are started, and what they may use.

Only `Sandbox.wrap` and `wrap_script` know this. `vidproc.ffmpeg.launcher` applies the layers from
inside the new process; `find_layers` tests each at startup. A script can also run in a child of
`vidproc.ffmpeg.fork_server`, in the same layers. docs/security.md says what each layer is for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vidproc.ffmpeg.program_files import find_program_files
from vidproc.ffmpeg.system_calls import filter_program

NICE = 5
"""The nice value of media processes: the server needs little CPU time, but needs it at once. It
reduced the p99 of a status during ten uploads by a third, and FFmpeg's share of the CPU stayed
the same (benchmarks/reserve.py)."""

_PYTHON = (sys.executable, "-I", "-S", "-B")
_START = (*_PYTHON, str(Path(__file__).with_name("launcher.py")))
_FILTER = filter_program(os.uname().machine) if sys.platform == "linux" else None
_REPORT_TIMEOUT = 20.0

# Files that codecs read; they contain no secrets. Files that do not exist are skipped.
_READ = (
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
)
_WRITE = ("/dev/null",)


LAYERS = {
    "landlock": "Landlock (files)",
    "seccomp": "seccomp (system calls)",
    "namespaces": "namespaces (network)",
    "ipc": "IPC namespace (shared memory, message queues)",
    "memory": "RLIMIT_AS (memory)",
}
"""The layers that a machine may lack, and what each confines."""


def missing_layers(layers: frozenset[str]) -> list[str]:
    """Return the missing layers, with names for operators."""
    return [words for name, words in LAYERS.items() if name not in layers]


class SandboxIncomplete(Exception):
    """`--sandbox strict` was requested, but this machine lacks a layer. The text says which."""


def find_layers(mode: str) -> frozenset[str]:
    """Return the names of the kernel layers to use: those that work on this machine.

    `mode` is auto, strict or off. Blocks for about 50 ms. In strict mode it raises
    `SandboxIncomplete` unless at least one layer confines each of files, network and memory.
    """
    if mode == "off":
        return frozenset()
    done = subprocess.run(
        [*_START, "--report", *((_FILTER.hex(),) if _FILTER is not None else ())],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_REPORT_TIMEOUT,
        check=False,
        env={},
    )
    layers = frozenset(done.stdout.decode().split())
    if mode == "strict":
        lacking = [
            what
            for what, any_of in (
                ("files (Landlock)", {"landlock"}),
                ("network (seccomp or namespaces)", {"seccomp", "namespaces"}),
                ("memory (RLIMIT_AS)", {"memory"}),
            )
            if not layers & any_of
        ]
        if lacking:
            raise SandboxIncomplete(
                f"--sandbox strict: nothing on this machine holds {', '.join(lacking)};"
                " use another kernel, or --sandbox auto"
            )
    return layers


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Limits for every media process.

    `address_space` and `file_size` (of one file) are in bytes, `cpu_time` in seconds. `processes`
    includes threads, and is counted only in a separate user namespace. `layers` are names that
    `find_layers` returned.
    """

    address_space: int
    file_size: int
    cpu_time: int = 7 * 86400
    open_files: int = 256
    processes: int = 1024
    layers: frozenset[str] = frozenset()
    ready: int | None = None
    """The descriptor that is told when the program starts."""

    @property
    def description(self) -> tuple[str, ...]:
        """The active layers, for `info` and the log."""
        linux = ("no_new_privs", "dies with the server") if sys.platform == "linux" else ()
        always = ("own session", "empty environment", "resource limits", *linux)
        return (*always, *sorted(self.layers - {"memory"}))

    def wrap(
        self,
        argv: Sequence[str],
        reads: Sequence[str] = (),
        folder: str | None = None,
        writes: Sequence[str] = (),
    ) -> list[str]:
        """Return the argv that starts the program `argv` (an absolute path and its arguments).

        It starts in `folder`. It may read the files `reads`, and read and write below `folder`, but
        access no other data.
        """
        files = find_program_files(argv[0])
        return self._launch(
            argv,
            chdir=[folder] if folder else [],
            create=writes,
            read=[*_READ, *files.read, *reads, *((folder,) if folder else ())],
            write=[*_WRITE, *writes],
            execute=files.execute,
        )

    def wrap_script(
        self,
        argv: Sequence[str],
        reads: Sequence[str] = (),
        package: str | None = None,
        writes: Sequence[str] = (),
    ) -> list[str]:
        """Return the argv that calls ``main`` of the Python script `argv` (its path and arguments).

        The script is imported before the layers are applied, with all its imports; besides the
        standard library it can import `package`. After that it may read the files `reads` and those
        of `package` (which imports parts of itself late), write only to its pipes and to the files
        `writes`, and start no program.
        """
        folder = _folder_of(package) if package is not None else None
        return self._launch(
            argv,
            read=[
                *_READ,
                *reads,
                *([f"{folder}/{package}", f"{folder}/{package}.libs"] if folder else ()),
            ],
            create=writes,
            write=[*_WRITE, *writes],
            chdir=["/"],
            script=["yes"],
            **{"import": [folder] if folder is not None else []},
        )

    def _launch(self, argv: Sequence[str], **settings: Sequence[str]) -> list[str]:
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_CPU": self.cpu_time,
            "RLIMIT_FSIZE": self.file_size,
            "RLIMIT_NOFILE": self.open_files,
        }
        if sys.platform == "linux":
            limits["RLIMIT_AS"] = self.address_space
        if "namespaces" in self.layers:
            limits["RLIMIT_NPROC"] = self.processes
        common = {
            "parent": [str(os.getpid())],
            "nice": [str(NICE)],
            "ready": [] if self.ready is None else [str(self.ready)],
            "limit": [f"{name}:{value}" for name, value in limits.items()],
            "layer": sorted(self.layers),
            "seccomp": [_FILTER.hex()] if _FILTER is not None and "seccomp" in self.layers else [],
        }
        written = [
            f"{name}={value}" for name, values in (common | settings).items() for value in values
        ]
        return [*_START, *written, "--", *argv]


def fork_server(script: str, package: str | None = None) -> list[str]:
    """Return the argv of a fork server of this process, whose children run the Python `script`.

    It can import `package` besides the standard library.
    """
    folder = _folder_of(package) if package is not None else None
    imports = [f"import={folder}"] if folder is not None else []
    server = str(Path(__file__).with_name("fork_server.py"))
    return [*_PYTHON, server, f"parent={os.getpid()}", *imports, "--", script]


def job_of(argv: Sequence[str]) -> bytes:
    """Return the fork server's job that does what the argv of `Sandbox.wrap_script` would."""
    return b"".join(os.fsencode(word) + b"\0" for word in argv[len(_START) :])


@cache
def _folder_of(package: str) -> str | None:
    """Return the folder of an installed package."""
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent.parent)
