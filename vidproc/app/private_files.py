"""Keeps the server's files private to its user, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vidproc.topics import Topic, TopicLogger

_log = TopicLogger(Topic.SERVICE, __name__)

UMASK = 0o077
_OTHERS = 0o077


def keep_private() -> None:
    """Let every file and folder that this process makes be 0600 or 0700."""
    os.umask(UMASK)


def tighten(paths: Iterable[Path]) -> None:
    """Take the rights of others from files and folders that an earlier run may have left open.

    Links are not followed, and what is not there is fine. A file that belongs to somebody else is
    left as it is, with a warning.
    """
    for path in paths:
        try:
            mode = path.lstat().st_mode
            if not mode & _OTHERS or path.is_symlink():
                continue
            path.chmod(mode & 0o7777 & ~_OTHERS)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warn(
                "others may read {path}: {error}; give it to the server's user",
                path=str(path),
                error=str(error),
            )


def everything_below(folder: Path) -> Iterator[Path]:
    """Return `folder` and all that it holds, without following links."""
    yield folder
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent, name)


def rotated(path: Path) -> list[Path]:
    """Return a log file's path and those of its rotated ones."""
    return [path, *path.parent.glob(f"{path.name}.*")]
