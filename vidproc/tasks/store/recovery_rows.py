"""What a start changes in the rows: dates, boots, and what the last run left behind."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from vidproc.errors import ErrorCode
from vidproc.files.data_folder import upload_key
from vidproc.tasks.model import Failure, State, Task
from vidproc.tasks.store import records
from vidproc.tasks.store.attempt_rows import SUSPECT_AFTER
from vidproc.tasks.store.database import Database

CRASH_PAUSE = 5.0
"""Seconds that a suspect task pauses at first; doubled at each further crash."""
LONGEST_PAUSE = 3600.0
"""Seconds that it pauses at most."""
MAX_CRASHES_ALONE = 10
"""Crashes in which nothing else ran: then the task is taken to be the reason, and fails."""


class Recovery(NamedTuple):
    """What a start found: tasks that were being worked on, as they are now; ids of uploads that
    wait for their client now; and ids of those that are forgotten."""

    interrupted: list[Task]
    broken: list[str]
    forgotten: list[str]


class RecoveryRows:
    """The store as a start finds it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note_clock_offset(self, offset: float) -> None:
        """Note by how many seconds the wall clock is ahead of the one that our dates are from."""
        with self._database.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS clock (offset REAL NOT NULL)")
            db.execute("DELETE FROM clock")
            db.execute("INSERT INTO clock VALUES (?)", (offset,))

    def adopt_dates(self, now: float) -> float:
        """Move all dates by the noted offset, and those that lie in the future to `now`.

        For the start. Returns the offset in seconds, 0 if the clock was not set meanwhile.
        """
        dates = [name for name in records.COLUMNS if name.endswith("_at")]
        moved = ", ".join(
            f"{name} = {name} + :offset" for name in (*dates, "lease_until", "not_before")
        )
        believed = ", ".join(f"{name} = min({name}, :now)" for name in dates)
        late = " OR ".join(f"{name} > :now" for name in dates)
        with self._database.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS clock (offset REAL NOT NULL)")
            row = db.execute("SELECT offset FROM clock").fetchone()
            offset = 0.0 if row is None else float(row[0])
            if abs(offset) < 1:  # set and set back
                offset = 0.0
            else:
                db.execute(f"UPDATE tasks SET {moved}", {"offset": offset})  # noqa: S608
                db.execute("DELETE FROM clock")
            db.execute(f"UPDATE tasks SET {believed} WHERE {late}", {"now": now})  # noqa: S608
        return offset

    def last_boot(self) -> str | None:
        """Return the id of the machine's boot that was noted last, None before the first."""
        row = self._database.connection.execute("SELECT id FROM boot").fetchone()
        return None if row is None else str(row["id"])

    def note_boot(self, boot: str) -> None:
        """Note the id of the machine's boot."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM boot")
            db.execute("INSERT INTO boot VALUES (?)", (boot,))

    def task_ids(self) -> set[str]:
        """Return the ids of all tasks that the store knows, uploads too."""
        found = self._database.connection.execute("SELECT task_id FROM tasks")
        return {row["task_id"] for row in found}

    def known_keys(self) -> set[str]:
        """Return the keys of all files that some task needs."""
        db = self._database.connection
        keys = {upload_key(task.task_id) for task in records.in_states(db, [State.PARTIAL])}
        found = db.execute(
            "SELECT input_key AS key FROM tasks WHERE input_key IS NOT NULL"
            " UNION SELECT output_key FROM tasks WHERE output_key IS NOT NULL"
        )
        return keys | {row["key"] for row in found}

    def recover(self, now: float) -> Recovery:
        """Make the rows right after the server's end, however it ended.

        For the start, under the data folder's lock: no other server is alive then. What a dead
        server worked on goes back into the queue. Uploads that were under way are over; those that
        can be resumed wait for their client.
        """
        with self._database.transaction() as db:
            plain = db.execute(
                "DELETE FROM tasks WHERE state = 'uploading' AND upload_id IS NULL"
                " RETURNING task_id"
            ).fetchall()
            broken = db.execute(
                "UPDATE tasks SET state = 'partial', parked_at = ? WHERE state = 'uploading'"
                " RETURNING task_id",
                (now,),
            ).fetchall()
            # A pause that ends later than any can was set by another clock.
            latest = now + LONGEST_PAUSE
            db.execute("UPDATE tasks SET not_before = ? WHERE not_before > ?", (latest, latest))
            ran = records.in_states(db, [State.PROCESSING])
            return Recovery(
                interrupted=[self._take_back(db, task, now, alone=len(ran) == 1) for task in ran],
                broken=[row["task_id"] for row in broken],
                forgotten=[row["task_id"] for row in plain],
            )

    def _take_back(self, db: sqlite3.Connection, task: Task, now: float, *, alone: bool) -> Task:
        """Queue a task that ran when the server crashed.

        A crash is no verdict on what ran then. But a file may be the reason: so after
        `SUSPECT_AFTER` of them a task runs alone, which shows whether it is. It does not matter how
        long an attempt had lasted: some files do their harm late.
        """
        crashes = task.crashes + 1
        crashes_alone = task.crashes_alone + alone
        pause = min(LONGEST_PAUSE, CRASH_PAUSE * 2 ** min(30, crashes - SUSPECT_AFTER))
        fields: dict[str, Any] = {
            "owner": None,
            "lease_until": None,
            "crashes": crashes,
            "crashes_alone": crashes_alone,
            "not_before": now + pause if crashes >= SUSPECT_AFTER else None,
        }
        if crashes_alone < MAX_CRASHES_ALONE:
            return records.move(db, task, State.QUEUED, fields)
        failure = Failure(
            code=int(ErrorCode.INTERNAL),
            description=f"The server stopped {MAX_CRASHES_ALONE} times while it worked on this"
            " file alone.",
            solution="Send it in another format, or tell the server's operator the task id.",
        )
        return records.move(
            db,
            task,
            State.FAILED,
            {**fields, "failure": failure, "completed_at": now, "input_key": None},
        )
