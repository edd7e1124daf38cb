"""Content-Disposition: the name under which a browser saves a result (RFC 6266, RFC 8187)."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote

_LONGEST = 120
"""Bytes of a name, in UTF-8, without its ending; file systems take 255."""
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"
"""What RFC 8187 lets stand unescaped besides letters and digits."""
_FORBIDDEN = set('<>:"/\\|?*%;')
"""What some file system, shell or header takes amiss."""
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
"""Names that are devices on Windows, whatever their ending."""


def result_name(label: str | None, kind: str) -> str:
    """Return the file name of a result of `kind` (``mp4``) whose upload was called `label`.

    `label` is a client's text: what comes out is one path component that no file system takes
    amiss, without control and direction characters, and ends in `kind`.
    """
    name = (label or "").replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(
        " "
        if character in _FORBIDDEN or unicodedata.category(character) in ("Zl", "Zp")
        else character
        for character in unicodedata.normalize("NFC", name)
        if unicodedata.category(character)[0] != "C"
    )
    stem = " ".join(PurePosixPath(name).stem.split()).strip(". ") if name.strip(". ") else ""
    stem = stem.encode()[:_LONGEST].decode(errors="ignore").lstrip("-. ").rstrip(". ") or "result"
    if stem.split(".")[0].strip().lower() in _RESERVED:
        stem = f"{stem}_"
    return f"{stem}_processed.{kind}" if stem != "result" else f"result.{kind}"


def attachment(name: str) -> str:
    """Return the header's value that has a browser save the body under `name`.

    `name` is one of `result_name`. A name beyond ASCII is given twice: for old clients with `_` for
    what they can't show, and encoded.
    """
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
    header = f'attachment; filename="{plain}"'
    if plain != name:
        header += f"; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARACTERS)}"
    return header
