"""Rows of uploads: admitted, resumed, interrupted."""

from __future__ import annotations

from vidproc.tasks.model import State, Task
from vidproc.tasks.store import records
from vidproc.tasks.store.database import Database
from vidproc.tasks.store.slots import require_slot

MOST_PARTIAL = 16
"""Partial uploads that an address may keep."""


class UploadRows:
    """The uploads in the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def admit(
        self,
        task: Task,
        tasks_per_peer: int,
        queue_size: int,
        *,
        tasks_per_token: int | None = None,
    ) -> None:
        """Insert `task` in state `UPLOADING`, which takes a slot of its peer; with
        `tasks_per_token` a task that was sent with a token takes a slot of that instead.

        The slots are counted in the same transaction, so that no two requests take the last one.
        Raises `ServiceError` 429 when no slot is free, 503 when the queue is full.
        """
        with self._database.transaction() as db:
            require_slot(db, task, tasks_per_peer, tasks_per_token, queue_size)
            records.insert(db, task)

    def announce(self, task: Task, most: int) -> None:
        """Insert the `task` of an upload that has no byte yet, in state `PARTIAL`.

        Forgets the oldest such uploads of its peer beyond `most`.
        """
        with self._database.transaction() as db:
            records.insert(db, task)
            db.execute(
                "DELETE FROM tasks WHERE seq IN (SELECT seq FROM tasks WHERE peer = ?"
                " AND state = 'partial' AND announced_at IS NOT NULL AND received = 0"
                " ORDER BY seq DESC LIMIT -1 OFFSET ?)",
                (task.peer, most),
            )

    def resume(
        self,
        task_id: str,
        tasks_per_peer: int,
        queue_size: int,
        sha256: str | None = None,
        verified: int | None = None,
        *,
        tasks_per_token: int | None = None,
    ) -> Task:
        """Move an interrupted upload back to `UPLOADING`, and note the file's `sha256` if given.

        With `verified`, what arrives now counts as received only once the upload is parked.

        Raises as `admit` does, `KeyError` if it was deleted meanwhile, `InvalidTransition` if it
        is not interrupted any more.
        """
        with self._database.transaction() as db:
            task = records.get(db, task_id)
            if task is None:
                raise KeyError(task_id)
            require_slot(db, task, tasks_per_peer, tasks_per_token, queue_size)
            promised = {} if sha256 is None else {"upload_sha256": sha256}
            return records.move(db, task, State.UPLOADING, {**promised, "verified": verified})

    def by_upload_id(self, upload_id: str) -> Task | None:
        """Return the task of a resumable upload, or None."""
        return records.one(
            self._database.connection, "SELECT * FROM tasks WHERE upload_id = ?", (upload_id,)
        )

    def note_synced(self, task_id: str, size: int) -> None:
        """Note that `size` bytes of an upload in progress would survive a power cut."""
        with self._database.transaction() as db:
            db.execute(
                "UPDATE tasks SET synced = ? WHERE task_id = ? AND state = 'uploading'",
                (size, task_id),
            )

    def park(
        self, task_id: str, now: float, received: int, *, own_budget: int, budget: int
    ) -> list[str]:
        """Move an interrupted upload, of which `received` bytes are synced, to `PARTIAL`.

        Deletes the peer's oldest partial uploads beyond `own_budget` bytes or `MOST_PARTIAL`
        uploads; and this one if all partial uploads together exceed `budget`, or if no byte of it
        was received. Never another peer's. Returns the ids of the deleted ones, whose files the
        caller has to remove. Does nothing to a task that is not `UPLOADING`.
        """
        with self._database.transaction() as db:
            task = records.get(db, task_id)
            if task is None or task.state is not State.UPLOADING:
                return []
            kept_of_it = {"received": received, "synced": received, "verified": None}
            records.move(db, task, State.PARTIAL, {"parked_at": now, **kept_of_it})
            others = db.execute(
                "SELECT coalesce(sum(received), 0) FROM tasks"
                " WHERE state = 'partial' AND task_id != ?",
                (task_id,),
            ).fetchone()[0]
            forgotten = []
            without_bytes = received == 0 and task.announced_at is None
            if without_bytes or (received and others + received > budget):
                forgotten.append(task_id)
            rows = db.execute(
                "SELECT task_id, received FROM tasks WHERE peer = ? AND state = 'partial'"
                " AND task_id != ? ORDER BY parked_at DESC, seq DESC",
                (task.peer, task_id),
            ).fetchall()
            kept, number = received, 1
            for row in rows:
                kept, number = kept + row["received"], number + 1
                if kept > own_budget or number > MOST_PARTIAL:
                    forgotten.append(row["task_id"])
            db.executemany("DELETE FROM tasks WHERE task_id = ?", [(old,) for old in forgotten])
            return forgotten

    def park_again(self, task: Task) -> None:
        """Move an upload that was refused before its first byte back to its former state."""
        with self._database.transaction() as db:
            now = records.get(db, task.task_id)
            if now is not None and now.state is State.UPLOADING:
                former = {"parked_at": task.parked_at, "verified": None}
                records.move(db, now, State.PARTIAL, former)

    def delete_parked(self, before: float, announced_before: float = 0.0) -> list[str]:
        """Delete uploads that were interrupted before that time; return their ids.

        Also those created before `announced_before` of which no byte was received.
        """
        with self._database.transaction() as db:
            rows = db.execute(
                "DELETE FROM tasks WHERE state = 'partial' AND (parked_at < ?"
                " OR (received = 0 AND announced_at < ?)) RETURNING task_id",
                (before, announced_before),
            )
            return [row["task_id"] for row in rows.fetchall()]

    def delete_upload(self, task_id: str) -> bool:
        """Delete an upload, unless it has become a task.

        Returns whether there is no such task now, so that its files may be removed.
        """
        with self._database.transaction() as db:
            db.execute(
                "DELETE FROM tasks WHERE task_id = ? AND state IN ('uploading', 'partial')",
                (task_id,),
            )
            return records.get(db, task_id) is None
