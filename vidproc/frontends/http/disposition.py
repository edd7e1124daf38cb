"""Content-Disposition: the file name that a browser gives to a result (RFC 6266, RFC 8187)."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote

_LONGEST = 120
"""The most bytes of a name in UTF-8, without its extension; file systems allow 255."""
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"
"""Characters that RFC 8187 allows unescaped, besides letters and digits."""
_FORBIDDEN = set('<>:"/\\|?*%;')
"""Characters that some file system, shell or header parser cannot handle."""
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
"""Names of devices on Windows, whatever the extension."""


def result_name(label: str | None, kind: str) -> str:
    """Return the file name of a result of `kind` (``mp4``) whose upload was called `label`.

    `label` is a text from a client. The result is one path component that every file system
    accepts, without control or direction characters, and its extension is `kind`.
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
    """Return the header's value that makes a browser save the body as `name`.

    `name` comes from `result_name`. If it is not ASCII, it is given twice: encoded, and with `_` in
    place of other characters for old clients.
    """
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
    header = f'attachment; filename="{plain}"'
    if plain != name:
        header += f"; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARACTERS)}"
    return header
