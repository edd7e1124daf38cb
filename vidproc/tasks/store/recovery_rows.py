"""Changes of rows at startup: dates, boots, and what the last run left behind."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from vidproc.errors import ErrorCode
from vidproc.files.data_folder import upload_key
from vidproc.tasks.model import Failure, State, Task
from vidproc.tasks.store import records
from vidproc.tasks.store.attempt_rows import SUSPECT_AFTER
from vidproc.tasks.store.database import Database

CRASH_PAUSE = 5.0
"""Seconds of a suspect task's first pause; doubled at each further crash."""
LONGEST_PAUSE = 3600.0
"""Seconds that it pauses at most."""
OTHER_PAUSE = 60.0
"""Seconds that a task pauses at most for reasons other than crashes."""
MAX_CRASHES_ALONE = 10
"""Crashes while only this task ran, after which it is taken for the cause, and fails."""


class Recovery(NamedTuple):
    """What recovery found: interrupted tasks, as they are now; ids of resumable uploads that were
    interrupted; and ids of uploads that were deleted."""

    interrupted: list[Task]
    broken: list[str]
    forgotten: list[str]


class RecoveryRows:
    """The recovery of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note_clock_offset(self, offset: float) -> None:
        """Note by how many seconds the wall clock is ahead of the clock of the stored dates."""
        with self._database.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS clock (offset REAL NOT NULL)")
            db.execute("DELETE FROM clock")
            db.execute("INSERT INTO clock VALUES (?)", (offset,))

    def adopt_dates(self, now: float) -> float:
        """Shift all dates by the noted offset, and set future ones to `now`.

        For startup. Returns the offset in seconds, 0 if the clock was not set.
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
        """Return the noted id of the machine's boot, None if there is none."""
        row = self._database.connection.execute("SELECT id FROM boot").fetchone()
        return None if row is None else str(row["id"])

    def note_boot(self, boot: str) -> None:
        """Note the id of the machine's boot."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM boot")
            db.execute("INSERT INTO boot VALUES (?)", (boot,))

    def task_ids(self) -> set[str]:
        """Return the ids of all tasks, including uploads."""
        found = self._database.connection.execute("SELECT task_id FROM tasks")
        return {row["task_id"] for row in found}

    def known_keys(self) -> set[str]:
        """Return the keys of all files that a task needs."""
        db = self._database.connection
        keys = {upload_key(task.task_id) for task in records.in_states(db, [State.PARTIAL])}
        found = db.execute(
            "SELECT input_key AS key FROM tasks WHERE input_key IS NOT NULL"
            " UNION SELECT output_key FROM tasks WHERE output_key IS NOT NULL"
        )
        return keys | {row["key"] for row in found}

    def recover(self, now: float) -> Recovery:
        """Clean up the rows after the last run, however it ended.

        For startup, with the data folder locked, so that no other server is running. Tasks that
        were being processed go back into the queue. Uploads that were in progress have ended;
        resumable ones wait for their client.
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
            # A pause longer than the task's own was set by another clock.
            paused = db.execute(
                "SELECT seq, crashes, not_before FROM tasks WHERE not_before > ?", (now,)
            )
            for row in paused.fetchall():
                latest = now + max(OTHER_PAUSE, _pause(row["crashes"]))
                if row["not_before"] > latest:
                    db.execute(
                        "UPDATE tasks SET not_before = ? WHERE seq = ?", (latest, row["seq"])
                    )
            ran = records.in_states(db, [State.PROCESSING])
            return Recovery(
                interrupted=[self._take_back(db, task, now, alone=len(ran) == 1) for task in ran],
                broken=[row["task_id"] for row in broken],
                forgotten=[row["task_id"] for row in plain],
            )

    def _take_back(self, db: sqlite3.Connection, task: Task, now: float, *, alone: bool) -> Task:
        """Queue a task that was running when the server crashed.

        A crash does not mean that this task caused it. But a file may be the cause: so after
        `SUSPECT_AFTER` of them it runs alone, which shows whether it is. It does not matter how
        long an attempt had lasted: some files do their harm late.
        """
        crashes = task.crashes + 1
        crashes_alone = task.crashes_alone + alone
        fields: dict[str, object] = {
            "owner": None,
            "lease_until": None,
            "crashes": crashes,
            "crashes_alone": crashes_alone,
            "not_before": now + _pause(crashes) if crashes >= SUSPECT_AFTER else None,
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


def _pause(crashes: int) -> float:
    """Return the seconds that a task pauses after so many crashes."""
    if crashes < SUSPECT_AFTER:
        return 0.0
    return min(LONGEST_PAUSE, CRASH_PAUSE * 2.0 ** min(30, crashes - SUSPECT_AFTER))
