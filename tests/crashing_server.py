"""twistd in a process that kills itself, as `kill -9` would, when it reaches a named step.

``python crashing_server.py FILE twistd's arguments``. FILE contains the name of one of `POINTS` or
nothing, and may change while the server runs. The calls by which the server affects the outside are
wrapped (files, commits of the database, child processes), so the code under test needs no hooks,
and a point keeps its place when code is moved.
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

SAID = "crash point:"
"""Precedes a point's name in the output of a server that reached it."""

Predicate = Callable[..., bool]


class Point:
    """One point. `check` kills the process there if the point is armed and due."""

    file: Path

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def armed(self) -> bool:
        return self.file.read_text() == self.name

    def die(self) -> None:
        """Print the name of the point and kill this process."""
        sys.stderr.write(f"{SAID} {self.name}\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(
        self,
        owner: Any,
        name: str,
        *,
        before: Predicate | None = None,
        after: Predicate | None = None,
    ) -> None:
        """Let calls of `owner.name` kill the process before or after, if a predicate says so."""
        inner = getattr(owner, name)

        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            if before is not None and self.armed and before(*arguments, **keywords):
                self.die()
            result = inner(*arguments, **keywords)
            if after is not None and self.armed and after(*arguments, **keywords):
                self.die()
            return result

        setattr(owner, name, wrapper)


# --- files -----------------------------------------------------------------------------------


def _folder(path: Any) -> str:
    return Path(path).parent.name


def _folder_of_descriptor(fd: int) -> str:
    return _folder(os.readlink(f"/proc/self/fd/{fd}"))


def within_a_write(point: Point) -> None:
    """A part of an upload's payload is written; the rest has not arrived."""

    def large(fd: int) -> bool:
        status = os.fstat(fd)
        return stat.S_ISREG(status.st_mode) and status.st_size >= 200_000

    for name in ("write", "writev", "pwrite", "pwritev"):
        point.wrap(os, name, after=lambda fd, *_: large(fd))
    point.wrap(os, "splice", after=lambda _, fd, *__, **___: large(fd))


def before_fsync(point: Point, folder: str) -> None:
    """Everything is written, but not synced."""
    point.wrap(os, "fsync", before=lambda fd: _folder_of_descriptor(fd) == folder)


def before_fsync_of_a_result(point: Point) -> None:
    """The result is written into the folder of its attempt, whose name is a number."""
    point.wrap(os, "fsync", before=lambda fd: _folder_of_descriptor(fd).isdigit())


def before_rename(point: Point, folder: str) -> None:
    """Everything is synced, under its temporary name."""
    point.wrap(os, "replace", before=lambda _, target: _folder(target) == folder)


def after_rename(point: Point, folder: str) -> None:
    """The file has its final name, but the store does not know it."""
    point.wrap(os, "replace", after=lambda _, target: _folder(target) == folder)


def before_removal(point: Point, folder: str) -> None:
    """The store no longer knows the file, but it still exists."""
    point.wrap(os, "unlink", before=lambda path, **_: _folder(path) == folder)


def within_a_download(point: Point) -> None:
    """A part of the result has been sent."""
    sent: list[bool] = []

    def second(*_: Any) -> bool:
        sent.append(True)
        return len(sent) == 2

    point.wrap(os, "pread", before=second)
    point.wrap(os, "sendfile", after=lambda *_: True)  # one call may send all of it


# --- the store -------------------------------------------------------------------------------


class Connection(sqlite3.Connection):
    """A connection whose commits may be points, by (new state of the task, when)."""

    points: dict[tuple[str, str], list[Point]] = {}
    stopping = False

    _values: frozenset[Any] = frozenset()

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        if sql.startswith("BEGIN"):
            self._values = frozenset()
        elif sql.startswith("UPDATE tasks SET"):
            self._values |= frozenset(values)
        commits = sql == "COMMIT"
        if commits:
            self._check("before")
        cursor = super().execute(sql, values)
        if commits:
            self._check("after")
        return cursor

    def _check(self, when: str) -> None:
        for (state, moment), points in self.points.items():
            if moment != when or state not in self._values:
                continue
            for point in points:
                if point.armed and (self.stopping or not point.name.startswith("stopping")):
                    point.die()


def commit(point: Point, state: str, when: str) -> None:
    """`when` (before or after) the commit that moves a task to `state`."""
    Connection.points.setdefault((state, when), []).append(point)


def watch_commits() -> None:
    """Make the store use such connections."""
    from vidproc.app.service import VidprocService

    connect, stop = sqlite3.connect, VidprocService.stopService

    def stop_service(self: Any) -> Any:
        Connection.stopping = True
        return stop(self)

    sqlite3.connect = lambda *a, **k: connect(*a, factory=Connection, **k)  # type: ignore
    VidprocService.stopService = stop_service  # type: ignore


# --- media processes -------------------------------------------------------------------------


def child_started(point: Point, stage: str) -> None:
    """A media process has just started."""
    from vidproc.runners.ffmpeg_process import MediaProcess

    point.wrap(MediaProcess, "spawn", after=lambda self, *_: self.command.stage == stage)


def child_reported(point: Point, stage: str) -> None:
    """A media process has reported progress."""
    from vidproc.runners.ffmpeg_process import MediaProcess

    point.wrap(
        MediaProcess,
        "childDataReceived",
        after=lambda self, fd, _: fd == 3 and self.command.stage == stage,
    )


def try_again_soon() -> None:
    """Make the pause after repeated crashes short."""
    from vidproc.tasks.store import recovery_rows

    recovery_rows.CRASH_PAUSE = recovery_rows.LONGEST_PAUSE = 0.05


POINTS: dict[str, Callable[[Point], None]] = {
    "upload: mid-payload": within_a_write,
    "upload: before fsync": lambda p: before_fsync(p, "uploads"),
    "upload: after fsync, before rename": lambda p: before_rename(p, "inputs"),
    "upload: after rename": lambda p: after_rename(p, "inputs"),
    "upload: before commit": lambda p: commit(p, "queued", "before"),
    "upload: after commit, before the answer": lambda p: commit(p, "queued", "after"),
    "upload: broken, before it is parked": lambda p: commit(p, "partial", "before"),
    "claimed": lambda p: commit(p, "processing", "after"),
    "probing": lambda p: child_started(p, "probing"),
    "encoding": lambda p: child_reported(p, "encoding"),
    "verifying": lambda p: child_started(p, "verifying"),
    "result: before fsync": before_fsync_of_a_result,
    "result: before rename": lambda p: before_rename(p, "results"),
    "result: after rename": lambda p: after_rename(p, "results"),
    "result: before commit": lambda p: commit(p, "completed", "before"),
    "result: after commit": lambda p: commit(p, "completed", "after"),
    "downloading": within_a_download,
    "pruning: before commit": lambda p: commit(p, "expired", "before"),
    "pruning: between row and file": lambda p: before_removal(p, "results"),
    "cancelling: before commit": lambda p: commit(p, "cancelled", "before"),
    "cancelling: after commit": lambda p: commit(p, "cancelled", "after"),
    "stopping: before commit": lambda p: commit(p, "queued", "before"),
    "stopping: after commit": lambda p: commit(p, "queued", "after"),
    "starting: after the recovery's commit": lambda p: commit(p, "queued", "after"),
}


def main() -> None:
    """Set the points and become twistd."""
    del sys.path[0]  # this file's folder must not be searched for imports
    Point.file = Path(sys.argv[1]).absolute()
    try_again_soon()
    watch_commits()
    for name, place in POINTS.items():
        place(Point(name))
    sys.argv = ["twistd", *sys.argv[2:]]
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
