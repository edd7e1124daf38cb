"""Signed links: who has one may fetch that one result, for a while, without a token.

A link's signature is an HMAC over the task and the time at which the link ends, with a key that is
kept in the data folder. `TOKEN` is the expiry in hexadecimal, a dot, and the signature.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

LIFETIME = 3600
"""Seconds for which a link is good."""
_TOKEN = re.compile(r"([0-9a-f]{1,12})\.([0-9a-f]{64})", re.ASCII)


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
