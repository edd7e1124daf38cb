"""Secret keys, each in its own file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

KEY_SIZE = 32
"""The length of a key in bytes."""


class KeyUnusable(OSError):
    """The key file does not contain a valid key."""


def load_key(path: Path) -> bytes:
    """Return the key in the file at `path`, which is created if it does not exist. Blocks.

    Raises `OSError`.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(KEY_SIZE)
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(fd)
        new.replace(path)
        return key
    if len(key) != KEY_SIZE:
        raise KeyUnusable(f"{path} has {len(key)} bytes and not {KEY_SIZE}; remove it")
    return key
