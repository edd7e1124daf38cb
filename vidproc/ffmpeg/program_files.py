"""The files that a program needs: itself, its loader and its libraries."""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_TIMEOUT = 20.0
_PT_INTERP = 3

# For programs whose libraries cannot be listed. Paths that do not exist are skipped.
_LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")


@dataclass(frozen=True, slots=True)
class ProgramFiles:
    """Paths that a program must be able to execute (and read), and paths that it only reads."""

    execute: tuple[str, ...]
    read: tuple[str, ...]


def find_program_files(program: str) -> ProgramFiles:
    """Return the files of the program at the path `program`.

    Blocks for a few milliseconds the first time, and again after the program was replaced, because
    it asks the dynamic loader. A file that cannot be read, or is not an ELF file, needs only
    itself.
    """
    try:
        changed = Path(program).stat().st_mtime_ns
    except OSError:
        changed = 0  # running it will show what is wrong
    return _find(program, changed)


@lru_cache(maxsize=16)
def _find(program: str, changed: int) -> ProgramFiles:
    itself = tuple(dict.fromkeys((program, str(Path(program).resolve()))))
    loader = _loader(program)
    if loader is None:
        return ProgramFiles(itself, ())
    return ProgramFiles((*itself, loader), (*_libraries(loader, program), "/etc/ld.so.cache"))


def _loader(program: str) -> str | None:
    """Return the path of the dynamic loader, None if the program has none."""
    try:
        with open(program, "rb") as file:
            head = file.read(64)
            if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
                return None
            (table,) = struct.unpack_from("<Q", head, 32)
            size, count = struct.unpack_from("<HH", head, 54)
            for number in range(count):
                file.seek(table + number * size)
                entry = file.read(56)
                kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", entry)
                if kind == _PT_INTERP:
                    file.seek(offset)
                    return file.read(min(length, 4096)).rstrip(b"\0").decode()
    except (OSError, struct.error, ValueError, OverflowError):
        pass  # running it will show what is wrong
    return None


def _libraries(loader: str, program: str) -> tuple[str, ...]:
    """Return the paths of the libraries, as listed by glibc's and musl's loaders."""
    try:
        listing = subprocess.run(
            [loader, "--list", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=True,
            env={},
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return _LIBRARY_FOLDERS
    return tuple(re.findall(r"^\s.*=> (/.+) \(0x[0-9a-f]+\)$", listing, re.MULTILINE))
