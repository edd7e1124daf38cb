"""Where the server is, and how patient a client is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vidproc.api.models import Progress


@dataclass(frozen=True)
class Settings:
    """Where the server is, and how patient a client is. Times are in seconds.

    `tries` is how many times in a row a connection may fail without progress. `slot_timeout` is how
    long a call may wait in all after answers of 429 and 503.
    """

    url: str
    token: str | None = None
    timeout: float = 60.0
    tries: int = 5
    slot_timeout: float = 3600.0
    clock: Callable[[], float] = time.monotonic

    def at(self, path: str) -> str:
        """Return the absolute URL of a path below the API's root."""
        return f"{self.url.rstrip('/')}/api/v1/{path}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


def ignore_progress(progress: Progress) -> None:
    """Do nothing with a progress report."""
