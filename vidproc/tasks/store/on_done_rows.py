"""Tasks that have ended, for which the command of `--on-done` has not been run yet."""

from __future__ import annotations

from vidproc.tasks.model import TERMINAL, Task
from vidproc.tasks.store import records
from vidproc.tasks.store.database import Database

_TERMINAL = ", ".join(f"'{state}'" for state in sorted(TERMINAL))
# Part of whatever commit ends a task, as long as this connection is open.
_NOTE = (
    "CREATE TEMP TRIGGER IF NOT EXISTS note_end AFTER UPDATE OF state ON main.tasks"  # noqa: S608
    f" WHEN NEW.state IN ({_TERMINAL}) AND OLD.state NOT IN ({_TERMINAL})"
    " BEGIN UPDATE tasks SET to_tell = 1 WHERE task_id = NEW.task_id; END"
)


class OnDoneRows:
    """The notes of which tasks `--on-done` must still be run for. Used through `TaskStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note_ends(self) -> None:
        """From now on, let the commit that ends a task note that the command must run for it."""
        self._database.connection.execute(_NOTE)

    def forget(self) -> None:
        """Discard the notes of an earlier run: there is no command any more."""
        with self._database.transaction() as db:
            db.execute("UPDATE tasks SET to_tell = NULL WHERE to_tell IS NOT NULL")

    def all(self) -> list[str]:
        """Return the IDs of the tasks that are noted, oldest first."""
        rows = self._database.connection.execute(
            "SELECT task_id FROM tasks WHERE to_tell IS NOT NULL ORDER BY seq"
        )
        return [row["task_id"] for row in rows]

    def take(self, task_id: str) -> Task | None:
        """Return a task that is noted, and remove its note; None for any other."""
        with self._database.transaction() as db:
            told = db.execute(
                "UPDATE tasks SET to_tell = NULL WHERE task_id = ? AND to_tell IS NOT NULL",
                (task_id,),
            ).rowcount
            return records.get(db, task_id) if told else None
