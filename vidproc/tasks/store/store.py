"""The store of tasks: what is asked of any of them, and its parts.

`TaskStore` is plain and synchronous; its callers run it in a thread of its own
(`vidproc.files.threads.WorkerThreads` with one thread):

    task = await store_thread.call(store.attempts.claim_next, owner, now, lease_until)

`look_up` and `list_own` alone are for a second thread. Each method is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vidproc.tasks.model import InvalidTransition, State, Task
from vidproc.tasks.store import records
from vidproc.tasks.store.attempt_rows import AttemptRows
from vidproc.tasks.store.database import Database
from vidproc.tasks.store.on_done_rows import OnDoneRows
from vidproc.tasks.store.recovery_rows import RecoveryRows
from vidproc.tasks.store.result_rows import ResultRows
from vidproc.tasks.store.upload_rows import UploadRows


class TaskStore:
    """The tasks in the database file at `path`. Methods raise `sqlite3.Error` when it fails."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.uploads = UploadRows(self.database)
        self.attempts = AttemptRows(self.database)
        self.results = ResultRows(self.database)
        self.recovery = RecoveryRows(self.database)
        self.on_done = OnDoneRows(self.database)

    def open(self) -> None:
        """Open the database and bring its schema up to date. Raises `SchemaTooNew`."""
        self.database.open()

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def get(self, task_id: str) -> Task | None:
        """Return the task, or None."""
        return records.get(self.database.connection, task_id)

    def look_up(self, task_id: str) -> Task | None:
        """Return the task as last committed, or None; for another thread than the others'."""
        return records.get(self.database.reader, task_id)

    def list_own(self, principal: str, most: int) -> list[Task]:
        """Return the tasks of a token's owner, newest first; for the thread of `look_up`."""
        rows = self.database.reader.execute(
            "SELECT * FROM tasks WHERE principal = ? AND state NOT IN ('uploading', 'partial')"
            " ORDER BY seq DESC LIMIT ?",
            (principal, most),
        )
        return [records.from_row(row) for row in rows]

    def in_states(self, states: Iterable[State]) -> list[Task]:
        """Return the tasks in these states, oldest first."""
        return records.in_states(self.database.connection, states)

    def move(
        self, task_id: str, to: State, *, expected: State | None = None, **fields: object
    ) -> Task:
        """Move a task to another state and set `fields`; return it as it is then.

        Raises `KeyError` when there is no such task, `InvalidTransition` when the table of moves
        does not have this one or the task is not in the `expected` state.
        """
        with self.database.transaction() as db:
            task = records.get(db, task_id)
            if task is None:
                raise KeyError(task_id)
            if expected is not None and task.state is not expected:
                raise InvalidTransition(task_id, task.state, to)
            return records.move(db, task, to, fields)

    def update(self, task_id: str, **fields: object) -> None:
        """Set `fields` of a task without moving it."""
        with self.database.transaction() as db:
            records.set_fields(db, task_id, fields)
