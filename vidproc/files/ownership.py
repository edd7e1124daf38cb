"""Recognising data folders: the marker, and which files they may contain.

A server deletes unknown files from its data folder, so it must not mistake another folder for one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from vidproc.text import escape

FORMAT = 1
"""The format number of this version's layout."""
MARKER = "vidproc-data"
"""The name of the marker file."""

FOLDERS = ("inputs", "uploads", "work", "results")
ORPHANS = "orphans"

_TEXT = "This is a data folder of vidproc.\nformat {format}\n"
_MARKED = re.compile(r"\AThis is a data folder of vidproc\.\nformat (\d{1,9})\n\Z")
_OURS = re.compile(
    r"lock|vidproc-data\.new|tasks\.sqlite(-wal|-shm|-journal)?|tasks\.sqlite\.before-\d+(\.new)?"
    r"|(link|server)\.key(\.new)?"
)
_NOBODYS = frozenset({"lost+found"})  # created by the file system itself
_REMOVED_WHILE_OPEN = (".nfs", ".fuse_hidden")  # left for a while by network file systems
_BEFORE_MARKERS = frozenset({*FOLDERS, "lock"})
_BEGUN = frozenset({"lock", f"{MARKER}.new"})
"""What an interrupted start may have created before the marker."""


class NotADataFolder(Exception):
    """The folder belongs to something else, or to a newer vidproc. The text says what to do."""


def check(root: Path) -> None:
    """Return if `root` is a data folder, is empty or does not exist; changes nothing.

    Folders of versions without markers are recognised by their contents. A data folder that also
    contains other files is refused too: they would count towards the limit, and no one would look
    after them. Raises `NotADataFolder`, or `OSError` if it cannot be read.
    """
    try:
        names = {path.name for path in root.iterdir()} - _NOBODYS
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise NotADataFolder(
            f"{root} is not a folder; name one for vidproc alone with --data-dir"
        ) from None
    foreign = sorted(
        name
        for name in names - {*FOLDERS, ORPHANS, MARKER}
        if _OURS.fullmatch(name) is None and not name.startswith(_REMOVED_WHILE_OPEN)
    )
    if MARKER in names:
        _check_format(root)
        if foreign:
            raise NotADataFolder(
                f"the data folder {root} contains {escape(foreign[0])!r}, which is not vidproc's."
                " Move it to another place and start again"
            )
        return
    if not foreign and (names <= _BEGUN or names >= _BEFORE_MARKERS):
        return
    example = escape(foreign[0] if foreign else min(names))
    raise NotADataFolder(
        f"{root} is not a data folder of vidproc: it contains {example!r}."
        " Name an empty folder, or a new one, with --data-dir"
    )


def _check_format(root: Path) -> None:
    try:
        match = _MARKED.match((root / MARKER).read_text(encoding="ascii"))
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise NotADataFolder(
            f"the marker {MARKER} in {root} cannot be read;"
            f" if this is vidproc's data folder, remove that file and start again"
        )
    if int(match[1]) > FORMAT:
        raise NotADataFolder(
            f"{root} has format {match[1]} but this vidproc supports {FORMAT};"
            " use the newer vidproc, or another --data-dir"
        )


def mark(root: Path) -> None:
    """Write the marker if it does not exist; only for a folder that `check` has accepted."""
    path = root / MARKER
    if not path.exists():
        new = root / f"{MARKER}.new"
        with new.open("w", encoding="ascii") as file:
            file.write(_TEXT.format(format=FORMAT))
            file.flush()
            os.fsync(file.fileno())  # an empty marker would be refused
        new.replace(path)
