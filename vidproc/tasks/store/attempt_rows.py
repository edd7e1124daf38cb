"""Rows of tasks being processed: claimed by a server, as long as its lease lasts."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from vidproc.tasks.model import State, Task
from vidproc.tasks.store import records
from vidproc.tasks.store.database import Database

LEASE = 60.0
"""Seconds for which a running task belongs to its server; renewed while it runs."""
SUSPECT_AFTER = 3
"""Crashes of the server during a task after which it is paused, and then tried alone."""


class AttemptRows:
    """The attempts in the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_next(
        self,
        owner: str,
        now: float,
        lease_until: float,
        only: str | None = None,
        *,
        alone: bool = True,
        but: Collection[str] = (),
    ) -> Task | None:
        """Claim the oldest queued task, or `only` that one, for `owner`, for a new attempt.

        Skips the tasks in `but`, paused tasks, and, unless nothing else runs (`alone`), those that
        must run alone. Returns None if there is no other.
        """
        with self._database.transaction() as db:
            row = db.execute(
                "SELECT * FROM tasks WHERE state = 'queued' AND (? IS NULL OR task_id = ?)"
                " AND (not_before IS NULL OR not_before <= ?) AND (? OR crashes < ?)"
                " AND task_id NOT IN (SELECT value FROM json_each(?))"
                " ORDER BY seq LIMIT 1",
                (only, only, now, alone, SUSPECT_AFTER, msgspec.json.encode(list(but)).decode()),
            ).fetchone()
            if row is None:
                return None
            task = records.from_row(row)
            return records.move(
                db,
                task,
                State.PROCESSING,
                {
                    "owner": owner,
                    "lease_until": lease_until,
                    "attempt": task.attempt + 1,
                    "attempt_at": now,
                    "started_at": task.started_at or now,
                },
            )

    def renew_leases(self, owner: str, lease_until: float) -> None:
        """Extend the leases of all tasks that `owner` is processing."""
        with self._database.transaction() as db:
            db.execute(
                "UPDATE tasks SET lease_until = ? WHERE owner = ? AND state = 'processing'",
                (lease_until, owner),
            )
