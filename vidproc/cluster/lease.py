"""The lease on a server's part of the object store: one server at a time uses it.

Two servers that were started with copies of one data folder have the same id. A lease is a new
object for each term, created only if there is none, since not every store can update an object on
a condition. No clock is compared with another machine's: whoever finds a lease watches it for a
term, and takes it only if it is not renewed meanwhile.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from vidproc.cluster.object_store import ObjectStore

TERM = 15.0
"""Seconds without a renewal after which another server may take the lease."""


class Lease:
    """A server's lease on the objects below `prefix`. Its calls block and raise `StoreAway`.

    `held` says whether we have it, as of the last `renew`.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        term: float = TERM,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self.prefix = f"{prefix}/lease"
        self._term = term
        self._now = now
        self._owner = secrets.token_bytes(16)
        self._number = 0
        self._seen = 0
        self._seen_at = 0.0
        self._renewed_at = float("-inf")

    @property
    def held(self) -> bool:
        """Whether the lease is ours now."""
        return bool(self._number) and self._now() - self._renewed_at < self._term

    def renew(self) -> bool:
        """Renew our lease, or take it if it is free; return whether it is ours."""
        numbers = sorted(self._numbers())
        newest = numbers[-1] if numbers else 0
        if newest != self._number:
            self._number = 0  # another one has taken it
            if newest and newest != self._seen:
                self._seen, self._seen_at = newest, self._now()
            if newest and self._now() - self._seen_at < self._term:
                return False
        asked_at = self._now()
        if not self._store.create(self._key(newest + 1), self._owner):
            self._number = 0
            return False
        self._number, self._renewed_at = newest + 1, asked_at
        self._store.remove([self._key(number) for number in numbers])
        return True

    def give_up(self) -> None:
        """Let another server take the lease at once."""
        if self.held:
            self._store.remove([self._key(self._number)])
        self._number = 0

    def _key(self, number: int) -> str:
        return f"{self.prefix}/{number:012d}"

    def _numbers(self) -> list[int]:
        names = [key.rpartition("/")[2] for key, _ in self._store.keys(self.prefix)]
        return [int(name) for name in names if name.isdecimal()]
