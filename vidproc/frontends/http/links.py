"""Signed links: who has one may fetch that one result, for a while, without a token.

A link's signature is an HMAC over the task and the time at which the link ends, with a key that is
kept in the data folder. `TOKEN` is the expiry in hexadecimal, a dot, and the signature.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

LIFETIME = 3600
"""Seconds for which a link is good."""
KEY_SIZE = 32
_TOKEN = re.compile(r"([0-9a-f]{1,12})\.([0-9a-f]{64})", re.ASCII)


class LinkKeyUnusable(OSError):
    """The key file holds no key."""


def load_key(path: Path) -> bytes:
    """Return the key in the file at `path`, which is made when it is not there. Blocks.

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
        raise LinkKeyUnusable(f"{path} has {len(key)} bytes and not {KEY_SIZE}; remove it")
    return key


class Links:
    """Makes and checks links. `now` returns the time in seconds."""

    def __init__(self, key: bytes, now: Callable[[], float], lifetime: float = LIFETIME) -> None:
        self._key = key
        self._now = now
        self._lifetime = lifetime

    def token_for(self, task_id: str) -> tuple[str, float]:
        """Return a new link's token, and the time at which it ends."""
        ends = int(self._now() + self._lifetime)
        return f"{ends:x}.{self._sign(task_id, ends)}", float(ends)

    def opens(self, task_id: str, token: str) -> bool:
        """Return whether `token` is of a link to this task's result that has not ended."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return False
        ends = int(match[1], 16)
        genuine = hmac.compare_digest(self._sign(task_id, ends), match[2])
        return genuine and self._now() < ends

    def _sign(self, task_id: str, ends: int) -> str:
        text = f"result\n{task_id}\n{ends}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
