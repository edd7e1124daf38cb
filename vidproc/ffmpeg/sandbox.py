"""What holds a media process: how it is started, and what it may use.

`Sandbox.wrap` is the only place that knows. The layers are applied by `vidproc.ffmpeg.launcher`
from inside the new process; `find_layers` tries each for real at the server's start.
docs/security.md says what each layer is for.
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
"""By how much the server itself goes first: it needs little CPU time, but at once. With it the
status' p99 under ten uploads fell by a third, and FFmpeg's share stayed (benchmarks/reserve.py)."""

_START = (sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("launcher.py")))
_FILTER = filter_program(os.uname().machine) if sys.platform == "linux" else None
_REPORT_TIMEOUT = 20.0

# What the codecs read; no secrets there. Those that do not exist are left out.
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
"""The layers that a machine may lack, and what each holds."""


def missing_layers(layers: frozenset[str]) -> list[str]:
    """Return what `find_layers` did not find, as an operator would call it."""
    return [words for name, words in LAYERS.items() if name not in layers]


class SandboxIncomplete(Exception):
    """`--sandbox strict` was asked for, and this machine lacks a layer. The text says which."""


def find_layers(mode: str) -> frozenset[str]:
    """Return the names of the kernel's layers to use: those that were tried and hold here.

    `mode` is auto, strict or off. Blocks for some 50 ms. Raises `SandboxIncomplete` in strict mode
    unless files, network and memory are each held by some layer.
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
    """Limits of every media process.

    `address_space` and `file_size` (of one file) in bytes, `cpu_time` in seconds, `open_files` and
    `processes` (threads included; counted only in a namespace of its own). `layers` are names that
    `find_layers` returned.
    """

    address_space: int
    file_size: int
    cpu_time: int = 7 * 86400
    open_files: int = 256
    processes: int = 1024
    layers: frozenset[str] = frozenset()

    @property
    def description(self) -> tuple[str, ...]:
        """What is active, for `info` and the log."""
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

        It may read the files `reads` and those below `folder`, and read and write the files
        `writes`, which are made empty; nothing else of anybody's. It can make no file and remove
        none, so `file_size` times their number is all that it can take of the disk.
        """
        files = find_program_files(argv[0])
        return self._launch(
            argv,
            create=writes,
            read=[*_READ, *files.read, *reads, *((folder,) if folder else ())],
            write=[*_WRITE, *writes],
            execute=files.execute,
        )

    def wrap_script(
        self, argv: Sequence[str], reads: Sequence[str] = (), package: str | None = None
    ) -> list[str]:
        """Return the argv that calls ``main`` of the Python script `argv` (its path and arguments).

        It is imported before the layers hold, with all that it imports; `package` is importable
        then, besides the standard library. After that it may read the files `reads` and those of
        `package` (which imports parts of itself late), write only to its pipes, and start no
        program.
        """
        folder = _folder_of(package) if package is not None else None
        return self._launch(
            argv,
            read=[
                *_READ,
                *reads,
                *([f"{folder}/{package}", f"{folder}/{package}.libs"] if folder else ()),
            ],
            write=_WRITE,
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
            "limit": [f"{name}:{value}" for name, value in limits.items()],
            "layer": sorted(self.layers),
            "seccomp": [_FILTER.hex()] if _FILTER is not None and "seccomp" in self.layers else [],
        }
        written = [
            f"{name}={value}" for name, values in (common | settings).items() for value in values
        ]
        return [*_START, *written, "--", *argv]


@cache
def _folder_of(package: str) -> str | None:
    """Return the folder that an installed package is in."""
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent.parent)
