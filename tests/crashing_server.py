"""twistd in a process that kills itself, as `kill -9` would, at a named step.

``python crashing_server.py POINT twistd's arguments``. What is wrapped are the calls by which the
server touches the outside (files, the database's commits, its children), so that the code under
test needs no hooks and a point stays where it is when code is moved. `POINTS` has their names.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

POINT = "crash point:"
"""What stands before a point's name in the output of a server that got there."""


def die(name: str) -> None:
    """End this process at once, having said where."""
    os.write(2, f"{POINT} {name}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[..., bool] | None = None,
    after: Callable[..., bool] | None = None,
) -> None:
    """Have calls of `owner.name` die before or after they are made, when the predicate says so."""
    inner = getattr(owner, name)

    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        if before is not None and before(*arguments, **keywords):
            die(sys.argv[0])
        result = inner(*arguments, **keywords)
        if after is not None and after(*arguments, **keywords):
            die(sys.argv[0])
        return result

    setattr(owner, name, wrapper)


# --- files -----------------------------------------------------------------------------------


def _folder(path: Any) -> str:
    return Path(path).parent.name


def _folder_of_descriptor(fd: int) -> str:
    return _folder(os.readlink(f"/proc/self/fd/{fd}"))


def within_a_write() -> None:
    """Some of an upload's payload is written, the rest is on its way."""

    def large(fd: int, _: Any) -> bool:
        status = os.fstat(fd)
        return stat.S_ISREG(status.st_mode) and status.st_size >= 200_000

    wrap(os, "write", after=large)


def before_fsync(folder: str) -> None:
    """All is written, nothing is certain yet."""
    wrap(os, "fsync", before=lambda fd: _folder_of_descriptor(fd) == folder)


def before_rename(folder: str) -> None:
    """All is on the disk, under its temporary name."""
    wrap(os, "replace", before=lambda _, target: _folder(target) == folder)


def after_rename(folder: str) -> None:
    """It has its final name, of which the store knows nothing."""
    wrap(os, "replace", after=lambda _, target: _folder(target) == folder)


def before_removal(folder: str) -> None:
    """The store knows nothing of the file any more, but it is there."""
    wrap(os, "unlink", before=lambda path, **_: _folder(path) == folder)


def within_a_download() -> None:
    """A part of the result was sent."""
    reads: list[int] = []

    def second(fd: int, *_: Any) -> bool:
        reads.append(fd)
        return len(reads) == 2

    wrap(os, "pread", before=second)


# --- the store -------------------------------------------------------------------------------

_armed: list[bool] = [True]


def commit(state: str, when: str, *, stopping: bool = False) -> None:
    """`when` (before or after) the commit that moves a task to `state`; once a stop has begun."""

    class Connection(sqlite3.Connection):
        moves = False

        def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
            if sql.startswith("BEGIN"):
                self.moves = False
            if sql.startswith("UPDATE tasks SET") and (f"'{state}'" in sql or state in values):
                self.moves = _armed[0]
            due = self.moves and sql == "COMMIT"
            if due and when == "before":
                die(sys.argv[0])
            cursor = super().execute(sql, values)
            if due and when == "after":
                die(sys.argv[0])
            return cursor

    connect = sqlite3.connect
    sqlite3.connect = lambda *a, **k: connect(*a, factory=Connection, **k)  # type: ignore
    if stopping:
        from vidproc.server.service import VidprocService

        _armed[0] = False

        def arm(_: Any) -> bool:
            _armed[0] = True
            return False

        wrap(VidprocService, "stopService", before=arm)


# --- media processes -------------------------------------------------------------------------


def child_started(stage: str) -> None:
    """A media process was just started."""
    from vidproc.ffmpeg.runner import LocalCommand

    wrap(LocalCommand, "spawn", after=lambda self, *_: self.command.stage == stage)


def child_reported(stage: str) -> None:
    """A media process has told of its progress."""
    from vidproc.ffmpeg.runner import LocalCommand

    wrap(
        LocalCommand,
        "childDataReceived",
        after=lambda self, fd, _: fd == 3 and self.command.stage == stage,
    )


POINTS: dict[str, Callable[[], None]] = {
    "upload: mid-payload": within_a_write,
    "upload: before fsync": lambda: before_fsync("uploads"),
    "upload: after fsync, before rename": lambda: before_rename("inputs"),
    "upload: after rename": lambda: after_rename("inputs"),
    "upload: before commit": lambda: commit("queued", "before"),
    "upload: after commit, before the answer": lambda: commit("queued", "after"),
    "upload: broken, before it is parked": lambda: commit("partial", "before"),
    "claimed": lambda: commit("processing", "after"),
    "probing": lambda: child_started("probing"),
    "encoding": lambda: child_reported("encoding"),
    "verifying": lambda: child_started("verifying"),
    "result: before fsync": lambda: before_fsync("1"),
    "result: before rename": lambda: before_rename("results"),
    "result: after rename": lambda: after_rename("results"),
    "result: before commit": lambda: commit("completed", "before"),
    "result: after commit": lambda: commit("completed", "after"),
    "downloading": within_a_download,
    "pruning: before commit": lambda: commit("expired", "before"),
    "pruning: between row and file": lambda: before_removal("results"),
    "cancelling: before commit": lambda: commit("cancelled", "before"),
    "cancelling: after commit": lambda: commit("cancelled", "after"),
    "stopping: before commit": lambda: commit("queued", "before", stopping=True),
    "stopping: after commit": lambda: commit("queued", "after", stopping=True),
    "starting: after the recovery's commit": lambda: commit("queued", "after"),
}


def main() -> None:
    """Arm the point and become twistd."""
    del sys.path[0]  # this file's folder, which is no place for imports
    name, arguments = sys.argv[1], sys.argv[2:]
    POINTS[name]()
    sys.argv = [name, *arguments]
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
