"""The page's files, read once: their bytes, types and the name of their folder."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
"""A name's ending -> media type."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file as it is served: `packed` is the same, compressed by gzip."""

    data: bytes
    packed: bytes
    media_type: str

    @classmethod
    def of(cls, data: bytes, media_type: str) -> PageFile:
        """Return `data` as a file."""
        return cls(data, gzip.compress(data, mtime=0), media_type)


@dataclass(frozen=True, slots=True)
class Page:
    """The document, and the files below ``static/VERSION/`` by name."""

    document: PageFile
    version: str
    files: dict[str, PageFile]


@cache
def page() -> Page:
    """Return the page; raises `OSError` if the install lacks its files."""
    folder = files(__package__)
    contents = {
        entry.name: entry.read_bytes()
        for entry in sorted(folder.joinpath("static").iterdir(), key=lambda entry: entry.name)
        if entry.name.rpartition(".")[2] in MEDIA_TYPES
    }
    digest = hashlib.sha256()
    for name, data in contents.items():
        digest.update(b"%s %d\n" % (name.encode(), len(data)) + data)
    version = digest.hexdigest()[:16]
    document = folder.joinpath("index.html").read_text(encoding="utf-8")
    return Page(
        PageFile.of(document.replace("VERSION", version).encode(), "text/html; charset=utf-8"),
        version,
        {
            name: PageFile.of(data, MEDIA_TYPES[name.rpartition(".")[2]])
            for name, data in contents.items()
        },
    )
