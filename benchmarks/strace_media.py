"""What media processes access, according to strace.

Runs a probe and an encode in the sandbox under strace, as the server does, and prints each file
opened outside the allowed set, each file written outside the task's folder and each socket call,
with the kernel's answer. None may have succeeded: the exit status is 1 if one did, and 2 if there
is no strace on the PATH. Then it runs encodes that try to read and write other files and to
connect, without FFmpeg's own limits, to check that the kernel's layers alone refuse them.
``python -m benchmarks.strace_media``; Linux only.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidproc.ffmpeg.binary import find_ffmpeg
from vidproc.ffmpeg.command import Command, Workspace
from vidproc.ffmpeg.probe import PROBE_CHILD, PROBE_PACKAGE, probe_command
from vidproc.ffmpeg.sandbox import Sandbox, find_layers

CLIP = Path(__file__).parent.parent / "tests" / "media" / "friday-480p-aac.mp4"
FILE_CALLS = "openat,open,openat2,creat,rename,renameat2,unlink,unlinkat,execve"
CALLS = f"{FILE_CALLS},%network,landlock_restrict_self"
SOCKET_CALLS = ("socket", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg")
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
_CALL = re.compile(r"^\d+\s+(?:\S+\s+)?(\w+)\((.*)\)\s+=\s+(-?\d+|\?)(.*)$")
_PATH = re.compile(r'"([^"]*)"')


@dataclass
class Seen:
    """What was tried while the layers were active: (call, arguments, whether it worked)."""

    outside: list[tuple[str, str, bool]] = field(default_factory=list)
    sockets: list[tuple[str, str, bool]] = field(default_factory=list)
    opened: int = 0

    @property
    def succeeded(self) -> list[tuple[str, str, bool]]:
        return [entry for entry in self.outside + self.sockets if entry[2]]


class Tracer:
    """Runs programs in the sandbox under strace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers = find_layers("auto")
        self.sandbox = Sandbox(address_space=4 << 30, file_size=1 << 30, layers=self.layers)
        self._number = 0

    def run(self, argv: Sequence[str], reads: Sequence[str]) -> Seen:
        """Run a program that may read `reads`; return what it tried outside of that."""
        self._number += 1
        log = self.folder.parent / f"strace-{self._number}.txt"
        confined = self._wrap(argv, reads)
        # -D makes the tracer a grandchild, because the launcher must be our child.
        strace = ["strace", "-D", "-f", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(log)]
        done = subprocess.run(
            [*strace, *confined],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        print(f"  exit status {done.returncode}; {done.stderr.strip()[-200:] or 'nothing said'}")
        return self._read(self._whole(log), [*reads, *self._program_paths(argv)])

    def _wrap(self, argv: Sequence[str], reads: Sequence[str]) -> list[str]:
        if argv[0] == PROBE_CHILD:
            return self.sandbox.wrap_script(argv, reads, PROBE_PACKAGE)
        return self.sandbox.wrap(argv, reads, str(self.folder))

    @staticmethod
    def _whole(log: Path) -> list[str]:
        """Return the log's lines once strace has ended and written the last one."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            lines = log.read_text(errors="replace").splitlines()
            first = lines[0].split()[0] if lines else ""
            if any(line.startswith(f"{first} ") and "+++" in line for line in lines):
                return lines
            time.sleep(0.05)
        raise SystemExit("strace did not end")

    def _program_paths(self, argv: Sequence[str]) -> list[str]:
        """Return what the launcher allows the program to read, according to its settings."""
        settings = [item.partition("=") for item in self._wrap(argv, ())]
        return [path for key, _, path in settings if key in ("read", "write", "execute")]

    def _read(self, lines: list[str], allowed: list[str]) -> Seen:
        seen = Seen()
        within = [str(Path(p).resolve()) for p in (*allowed, str(self.folder))] + allowed
        confined = not (self.layers & {"landlock"})  # then from the first line on
        for line in lines:
            match = _CALL.match(line)
            if match is None:
                continue
            call, arguments, result, _ = match.groups()
            worked = result.isdigit()
            if call == "landlock_restrict_self" and worked:
                confined = True
            elif call in SOCKET_CALLS:
                seen.sockets.append((call, arguments, worked))
            elif confined and (paths := _PATH.findall(arguments)):
                seen.opened += 1
                path = paths[0] if call == "execve" else paths[-1]
                whole = str(Path(path if path.startswith("/") else self.folder / path).resolve())
                below = any(whole == p or whole.startswith(p.rstrip("/") + "/") for p in within)
                own = whole == str(self.folder) or whole.startswith(f"{self.folder}/")
                writes = WRITES.search(arguments) or call.startswith(("rename", "unlink", "creat"))
                if not below or (writes and not own and whole != "/dev/null"):
                    seen.outside.append((call, arguments, worked))
        return seen


def commands(tracer: Tracer, source: Path) -> list[tuple[str, list[str], list[str]]]:
    """Return the name, argv and readable files of each command."""
    ffmpeg = find_ffmpeg().path
    workspace = Workspace("source", "work")
    probe: Command = probe_command()
    argv = probe.resolve(
        lambda name: str(source) if workspace.key_of(name) == "source" else name, 1
    )
    quiet = [ffmpeg, "-nostdin", "-v", "error", "-y"]
    output = str(tracer.folder / "out.mp4")
    return [
        ("probe", [PROBE_CHILD, *argv], [str(source)]),
        (
            "encode",
            [*quiet, "-i", f"file:{source}", "-t", "1", "-c:v", "libx264", f"file:{output}"],
            [str(source)],
        ),
    ]


def lures(tracer: Tracer, port: int) -> list[tuple[str, list[str], list[str]]]:
    """Return encodes that try to break out, without FFmpeg's own limits."""
    quiet = [find_ffmpeg().path, "-nostdin", "-v", "error", "-y"]
    return [
        ("read another file", [*quiet, "-i", "/etc/passwd", "-f", "null", "-"], []),
        ("connect", [*quiet, "-i", f"http://127.0.0.1:{port}/", "-f", "null", "-"], []),
        (
            "write another file",
            [*quiet, "-f", "lavfi", "-i", "testsrc=d=0.1", str(tracer.folder.parent / "x.mp4")],
            [],
        ),
    ]


def report(seen: Seen) -> bool:
    """Print what was tried; return whether nothing outside was accessed."""
    print(f"  {seen.opened} calls that name files while confined")
    for call, arguments, worked in seen.outside + seen.sockets:
        print(f"  {'SUCCEEDED' if worked else 'refused'}: {call}({arguments[:200]})")
    return not seen.succeeded


def main() -> int:
    """Run it."""
    if shutil.which("strace") is None:
        print("there is no strace on the PATH (apt-get install strace)")
        return 2
    with tempfile.TemporaryDirectory(prefix="vidproc-strace-") as root:
        folder = Path(root).resolve() / "work"
        folder.mkdir()
        source = Path(root).resolve() / "source"
        shutil.copy(CLIP, source)
        tracer = Tracer(folder)
        print("layers:", ", ".join(tracer.sandbox.description))
        well = True
        with socket.create_server(("127.0.0.1", 0)) as listener:
            runs = commands(tracer, source) + lures(tracer, listener.getsockname()[1])
            for name, argv, reads in runs:
                print(f"{name}:")
                well &= report(tracer.run(argv, reads))
    print("nothing outside was reached" if well else "SOMETHING OUTSIDE WAS REACHED")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
