"""Signed links: whoever has one may download that result for a while, without a token.

A link's signature is an HMAC of the task and the link's expiry, with a key from the data folder.
`TOKEN` is the expiry in hexadecimal, a dot, and the signature.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

LIFETIME = 3600
"""Seconds for which a link is valid."""
_TOKEN = re.compile(r"([0-9a-f]{1,12})\.([0-9a-f]{64})", re.ASCII)


class Links:
    """Makes and checks links. `now` returns the time in seconds."""

    def __init__(self, key: bytes, now: Callable[[], float], lifetime: float = LIFETIME) -> None:
        self._key = key
        self._now = now
        self._lifetime = lifetime

    def token_for(self, task_id: str) -> tuple[str, float]:
        """Return a new link's token, and the time at which it expires."""
        ends = int(self._now() + self._lifetime)
        return f"{ends:x}.{self._sign(task_id, ends)}", float(ends)

    def opens(self, task_id: str, token: str) -> bool:
        """Return whether `token` is that of an unexpired link to this task's result."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return False
        ends = int(match[1], 16)
        genuine = hmac.compare_digest(self._sign(task_id, ends), match[2])
        return genuine and self._now() < ends

    def _sign(self, task_id: str, ends: int) -> str:
        text = f"result\n{task_id}\n{ends}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
