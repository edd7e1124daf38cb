"""Rows of ended tasks: which results may be removed, and which rows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vidproc.tasks.model import State, Task
from vidproc.tasks.store import records
from vidproc.tasks.store.database import Database

_KEPT = "state = 'completed' AND output_key IS NOT NULL"
_FETCHED = (
    "CASE WHEN ? THEN downloaded_at IS NOT NULL"
    " ELSE downloaded_at IS NULL AND completed_at <= ? END"
)


class ResultRows:
    """The results in the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expired(self, before: float, most: int) -> list[Task]:
        """Return tasks that completed before that time and still have a result, oldest first."""
        rows = self._database.connection.execute(
            f"SELECT * FROM tasks WHERE {_KEPT} AND completed_at <= ?"  # noqa: S608 - our own text
            " ORDER BY completed_at LIMIT ?",
            (before, most),
        )
        return [records.from_row(row) for row in rows]

    def expire(self, task_ids: Sequence[str]) -> set[str]:
        """Move completed tasks to `EXPIRED` and clear their results' keys, in one transaction.

        Returns the ids of those that were moved; the others had no result, or are gone.
        """
        with self._database.transaction() as db:
            rows = db.execute(
                f"UPDATE tasks SET state = ?, output_key = NULL WHERE {_KEPT}"  # noqa: S608
                " AND task_id IN (SELECT value FROM json_each(?)) RETURNING task_id",
                (State.EXPIRED, msgspec.json.encode(task_ids).decode()),
            )
            return {row["task_id"] for row in rows.fetchall()}

    def evictable(self, *, fetched: bool, before: float, most: int) -> list[Task]:
        """Return tasks whose results may be evicted, oldest first.

        Either those that were fetched, or those that nobody fetched and that completed before that
        time.
        """
        rows = self._database.connection.execute(
            f"SELECT * FROM tasks WHERE {_KEPT} AND {_FETCHED}"  # noqa: S608 - our own text
            " ORDER BY completed_at LIMIT ?",
            (fetched, before, most),
        )
        return [records.from_row(row) for row in rows]

    def evictable_size(self, *, fetched: bool, before: float) -> int:
        """Return the total bytes of what `evictable` would list."""
        query = f"SELECT coalesce(sum(output_size), 0) FROM tasks WHERE {_KEPT} AND {_FETCHED}"  # noqa: S608
        size: int = self._database.connection.execute(query, (fetched, before)).fetchone()[0]
        return size

    def delete_ended(self, before: float) -> int:
        """Delete tasks that ended before that time and have no file; return how many."""
        with self._database.transaction() as db:
            return db.execute(
                "DELETE FROM tasks WHERE completed_at < ? AND output_key IS NULL"
                " AND state IN ('completed', 'failed', 'cancelled', 'expired')",
                (before,),
            ).rowcount
