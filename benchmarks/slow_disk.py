"""twistd with a data folder on a slow disk, for the benchmarks.

    python benchmarks/slow_disk.py BYTES_PER_SECOND -n vidproc ...

Each thread that writes an upload waits as long as such a disk would, and leaves a hole of that size
in the file instead. So gigabytes take neither disk space nor time of the real disk.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.scripts.twistd import run

from vidproc.files import file_writer, splice


def slow_down(rate: float) -> None:
    """Limit the writing of uploads to `rate` bytes per second and thread."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    move: Callable[..., None] = splice._Pipe.empty

    def leave_hole(fd: int, size: int) -> None:
        time.sleep(size / rate)
        os.ftruncate(fd, os.lseek(fd, size, os.SEEK_CUR))

    def write(self: Any, chunks: list[bytes | memoryview]) -> int:
        size = sum(map(len, chunks))
        if self._digest is not None:
            for chunk in chunks:
                self._digest.update(chunk)
        leave_hole(self._open(), size)
        return size

    def empty(self: Any, fd: int, size: int) -> None:
        move(self, nowhere, size)
        leave_hole(fd, size)

    file_writer.FileWriter._write_in_thread = write  # type: ignore[method-assign]
    splice._Pipe.empty = empty  # type: ignore[method-assign]


if __name__ == "__main__":
    slow_down(float(sys.argv.pop(1)))
    sys.exit(run())
