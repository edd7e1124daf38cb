"""Makes the server's files accessible to its user alone, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vidproc.topics import Topic, TopicLogger

_log = TopicLogger(Topic.SERVICE, __name__)

UMASK = 0o077
_OTHERS = 0o077


def keep_private() -> None:
    """Give every file and folder that this process creates the mode 0600 or 0700."""
    os.umask(UMASK)


def tighten(paths: Iterable[Path]) -> None:
    """Remove other users' permissions on files and folders of earlier runs.

    Links are not followed, and missing files are ignored. A file that belongs to someone else is
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
    """Return `folder` and everything in it, without following links."""
    yield folder
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent, name)


def rotated(path: Path) -> list[Path]:
    """Return the paths of a log file and its rotated files."""
    return [path, *path.parent.glob(f"{path.name}.*")]
