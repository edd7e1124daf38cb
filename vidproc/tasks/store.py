"""Where tasks are kept: SQLite, one connection for everything and one for looking tasks up.

`TaskStore` is plain and synchronous; its callers run it in a thread of its own
(`vidproc.files.threads.WorkerThreads` with one thread):

    task = await store_thread.call(store.claim_next, owner, now, lease_until)

`look_up` alone is for a second thread: who asks after a task does not wait for the disk to have
taken another task's commit. Each method is one transaction. Settings and why: WAL, so that readers
(lookups, backups) and the writer do not block each other; ``synchronous=FULL``, so that a commit
is on the disk when it returns, for `accepted` is a promise.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vidproc.errors import ErrorCode, ServiceError
from vidproc.files.data_folder import upload_key
from vidproc.tasks.model import ACTIVE, TRANSITIONS, Failure, InvalidTransition, State, Task

_JSON_COLUMNS = {"parameters", "input", "output", "warnings", "failure"}
_COLUMNS = Task.__struct_fields__
_ACTIVE = ", ".join(f"'{state}'" for state in sorted(ACTIVE))


_KEPT = "state = 'completed' AND output_key IS NOT NULL"
_FETCHED = (
    "CASE WHEN ? THEN downloaded_at IS NOT NULL"
    " ELSE downloaded_at IS NULL AND completed_at <= ? END"
)

LEASE = 60.0
"""Seconds for which a running task belongs to its server; renewed while it runs."""
EARLY = 600.0
"""Seconds of an attempt within which a crash of the server counts for the task."""
SUSPECT_AFTER = 3
"""Crashes of the server after which a task that ran then is tried alone, and after a pause."""
CRASH_PAUSE = 5.0
"""Seconds of that pause at first; it doubles with each further crash, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 3600.0
MOST_PARTIAL = 16
"""Partial uploads that an address may keep."""
MAX_CRASHES_ALONE = 10
"""Crashes in which nothing else ran: then the task is taken to be the reason, and fails."""


class Recovery(NamedTuple):
    """What a start found: tasks that were being worked on, as they are now; ids of uploads that
    wait for their client now; and ids of those that are forgotten."""

    interrupted: list[Task]
    broken: list[str]
    forgotten: list[str]


class SchemaTooNew(Exception):
    """The data folder was last used by a newer vidproc."""


class TaskStore:
    """The tasks in the database file at `path`. Methods raise `sqlite3.Error` when it fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the database and bring its schema up to date. Raises `SchemaTooNew`."""
        # One thread at a time uses it: the start's, then the store thread.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 10000")
        self._connection = connection
        self._migrate()
        self._reader = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        self._reader.row_factory = sqlite3.Row

    def close(self) -> None:
        """Close the database."""
        if self._reader is not None:
            # First, for the last one to close puts the log back into the database, and this can't.
            self._reader.close()
            self._reader = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the store is closed")
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk may have rolled it back already
                db.execute("ROLLBACK")
            raise

    def _migrate(self) -> None:
        """Apply the schema files that this database has not seen, each in one transaction."""
        files = sorted(
            (entry for entry in resources.files("vidproc.tasks").joinpath("schema").iterdir()),
            key=lambda entry: entry.name,
        )
        scripts = [entry for entry in files if entry.name.endswith(".sql")]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(scripts):
            raise SchemaTooNew(
                f"{self._path} has schema {version} and this vidproc knows {len(scripts)}; "
                "use the newer vidproc, or another --data-dir"
            )
        if 0 < version < len(scripts):
            self._copy_before_migration(version)
        for number, script in enumerate(scripts[version:], version + 1):
            self._db.executescript(
                f"BEGIN IMMEDIATE;\n{script.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;"
            )

    def _copy_before_migration(self, version: int) -> None:
        """Keep the database as it is, beside it, whole or not at all, and no older copy."""
        path = self._path.with_name(f"{self._path.name}.before-{version}")
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        copy = sqlite3.connect(new)
        try:
            self._db.backup(copy)
        finally:
            copy.close()
        new.replace(path)
        for older in path.parent.glob(f"{self._path.name}.before-*"):
            if older != path:
                older.unlink()

    # --- dates -------------------------------------------------------------------------------

    def note_clock_offset(self, offset: float) -> None:
        """Note by how many seconds the wall clock is ahead of the one that our dates are from."""
        with self._transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS clock (offset REAL NOT NULL)")
            db.execute("DELETE FROM clock")
            db.execute("INSERT INTO clock VALUES (?)", (offset,))

    def adopt_dates(self, now: float) -> float:
        """Move all dates by the noted offset, and those that lie in the future to `now`.

        For the start. Returns the offset in seconds, 0 if the clock was not set meanwhile.
        """
        dates = [name for name in _COLUMNS if name.endswith("_at")]
        moved = ", ".join(
            f"{name} = {name} + :offset" for name in (*dates, "lease_until", "not_before")
        )
        believed = ", ".join(f"{name} = min({name}, :now)" for name in dates)
        late = " OR ".join(f"{name} > :now" for name in dates)
        with self._transaction() as db:
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

    # --- boots -------------------------------------------------------------------------------

    def last_boot(self) -> str | None:
        """Return the id of the machine's boot that was noted last, None before the first."""
        row = self._db.execute("SELECT id FROM boot").fetchone()
        return None if row is None else str(row["id"])

    def note_boot(self, boot: str) -> None:
        """Note the id of the machine's boot."""
        with self._transaction() as db:
            db.execute("DELETE FROM boot")
            db.execute("INSERT INTO boot VALUES (?)", (boot,))

    # --- admission ---------------------------------------------------------------------------

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
        with self._transaction() as db:
            self._require_slot(db, task, tasks_per_peer, tasks_per_token, queue_size)
            self._insert(db, task)

    def announce(self, task: Task, most: int) -> None:
        """Insert the `task` of an upload that has no byte yet, in state `PARTIAL`.

        Forgets the oldest such uploads of its peer beyond `most`.
        """
        with self._transaction() as db:
            self._insert(db, task)
            db.execute(
                "DELETE FROM tasks WHERE seq IN (SELECT seq FROM tasks WHERE peer = ?"
                " AND state = 'partial' AND announced_at IS NOT NULL AND received = 0"
                " ORDER BY seq DESC LIMIT -1 OFFSET ?)",
                (task.peer, most),
            )

    @staticmethod
    def _insert(db: sqlite3.Connection, task: Task) -> None:
        columns = ", ".join(_COLUMNS)
        marks = ", ".join("?" * len(_COLUMNS))
        db.execute(
            f"INSERT INTO tasks ({columns}) VALUES ({marks})",  # noqa: S608 - our own names
            [_to_column(name, getattr(task, name)) for name in _COLUMNS],
        )

    def resume(
        self,
        task_id: str,
        tasks_per_peer: int,
        queue_size: int,
        sha256: str | None = None,
        *,
        tasks_per_token: int | None = None,
    ) -> Task:
        """Move a broken upload back to `UPLOADING`, and remember the file's `sha256` if given.

        Raises as `admit` does, `KeyError` when it was forgotten meanwhile, `InvalidTransition`
        when it is not broken any more.
        """
        with self._transaction() as db:
            task = self._get(db, task_id)
            if task is None:
                raise KeyError(task_id)
            self._require_slot(db, task, tasks_per_peer, tasks_per_token, queue_size)
            promised = {} if sha256 is None else {"upload_sha256": sha256}
            return self._move(db, task, State.UPLOADING, promised)

    @staticmethod
    def _require_slot(
        db: sqlite3.Connection,
        task: Task,
        tasks_per_peer: int,
        tasks_per_token: int | None,
        queue_size: int,
    ) -> None:
        if tasks_per_token is not None and task.principal is not None:
            column, holder, most, whose = "principal", task.principal, tasks_per_token, "token"
        else:
            column, holder, most, whose = "peer", task.peer, tasks_per_peer, "address"
        query = f"SELECT count(*) FROM tasks WHERE {column} = ? AND state IN ({_ACTIVE})"  # noqa: S608
        if db.execute(query, (holder,)).fetchone()[0] >= most:
            tasks = "a task" if most == 1 else f"its {most} tasks"
            raise ServiceError(
                ErrorCode.TOO_MANY,
                f"Your {whose} already has {tasks} uploading, queued or processing.",
                "Wait until it has ended, or cancel it, then send this one again.",
            )
        waiting = db.execute("SELECT count(*) FROM tasks WHERE state = 'queued'").fetchone()[0]
        if waiting >= queue_size:
            raise ServiceError(
                ErrorCode.UNAVAILABLE,
                f"The queue is full: {waiting} tasks wait.",
                "Try again in a few minutes.",
            )

    # --- reading -----------------------------------------------------------------------------

    def get(self, task_id: str) -> Task | None:
        """Return the task, or None."""
        return self._get(self._db, task_id)

    def look_up(self, task_id: str) -> Task | None:
        """Return the task as last committed, or None; for another thread than the others'."""
        if self._reader is None:
            raise sqlite3.ProgrammingError("the store is closed")
        return self._get(self._reader, task_id)

    def list_own(self, principal: str, most: int) -> list[Task]:
        """Return the tasks of a token's owner, newest first; for the thread of `look_up`."""
        if self._reader is None:
            raise sqlite3.ProgrammingError("the store is closed")
        rows = self._reader.execute(
            "SELECT * FROM tasks WHERE principal = ? AND state NOT IN ('uploading', 'partial')"
            " ORDER BY seq DESC LIMIT ?",
            (principal, most),
        )
        return [_from_row(row) for row in rows]

    def by_upload_id(self, upload_id: str) -> Task | None:
        """Return the task of a resumable upload, or None."""
        return self._one("SELECT * FROM tasks WHERE upload_id = ?", (upload_id,))

    def in_states(self, states: Iterable[State]) -> list[Task]:
        """Return the tasks in these states, oldest first."""
        names = list(states)
        marks = ", ".join("?" * len(names))
        query = f"SELECT * FROM tasks WHERE state IN ({marks}) ORDER BY seq"  # noqa: S608
        return [_from_row(row) for row in self._db.execute(query, names)]

    def expired(self, before: float, most: int) -> list[Task]:
        """Return tasks that completed before that time and whose results are kept, oldest first."""
        rows = self._db.execute(
            f"SELECT * FROM tasks WHERE {_KEPT} AND completed_at <= ?"  # noqa: S608 - our own text
            " ORDER BY completed_at LIMIT ?",
            (before, most),
        )
        return [_from_row(row) for row in rows]

    def expire(self, task_ids: Sequence[str]) -> set[str]:
        """Move completed tasks to `EXPIRED` and forget their results, all at once.

        Returns the ids of those that were moved; the others had none, or are gone.
        """
        with self._transaction() as db:
            rows = db.execute(
                f"UPDATE tasks SET state = ?, output_key = NULL WHERE {_KEPT}"  # noqa: S608
                " AND task_id IN (SELECT value FROM json_each(?)) RETURNING task_id",
                (State.EXPIRED, msgspec.json.encode(task_ids).decode()),
            )
            return {row["task_id"] for row in rows.fetchall()}

    def evictable(self, *, fetched: bool, before: float, most: int) -> list[Task]:
        """Return tasks whose results may go to make space, oldest first.

        Those that were fetched whole, or those that nobody fetched and that completed before that
        time.
        """
        rows = self._db.execute(
            f"SELECT * FROM tasks WHERE {_KEPT} AND {_FETCHED}"  # noqa: S608 - our own text
            " ORDER BY completed_at LIMIT ?",
            (fetched, before, most),
        )
        return [_from_row(row) for row in rows]

    def evictable_size(self, *, fetched: bool, before: float) -> int:
        """Return the bytes of all that `evictable` would list."""
        query = f"SELECT coalesce(sum(output_size), 0) FROM tasks WHERE {_KEPT} AND {_FETCHED}"  # noqa: S608
        size: int = self._db.execute(query, (fetched, before)).fetchone()[0]
        return size

    def task_ids(self) -> set[str]:
        """Return the ids of all tasks that the store knows, uploads too."""
        return {row["task_id"] for row in self._db.execute("SELECT task_id FROM tasks")}

    def known_keys(self) -> set[str]:
        """Return the keys of all files that some task needs."""
        keys = {upload_key(task.task_id) for task in self.in_states([State.PARTIAL])}
        rows = self._db.execute(
            "SELECT input_key AS key FROM tasks WHERE input_key IS NOT NULL"
            " UNION SELECT output_key FROM tasks WHERE output_key IS NOT NULL"
        )
        return keys | {row["key"] for row in rows}

    @staticmethod
    def _get(db: sqlite3.Connection, task_id: str) -> Task | None:
        row = db.execute("SELECT * FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return None if row is None else _from_row(row)

    def _one(self, query: str, arguments: tuple[Any, ...]) -> Task | None:
        row = self._db.execute(query, arguments).fetchone()
        return None if row is None else _from_row(row)

    # --- moves -------------------------------------------------------------------------------

    def move(
        self, task_id: str, to: State, *, expected: State | None = None, **fields: Any
    ) -> Task:
        """Move a task to another state and set `fields`; return it as it is then.

        Raises `KeyError` when there is no such task, `InvalidTransition` when the table of moves
        does not have this one or the task is not in the `expected` state.
        """
        with self._transaction() as db:
            task = self._get(db, task_id)
            if task is None:
                raise KeyError(task_id)
            if expected is not None and task.state is not expected:
                raise InvalidTransition(task_id, task.state, to)
            return self._move(db, task, to, fields)

    def update(self, task_id: str, **fields: Any) -> None:
        """Set `fields` of a task without moving it."""
        with self._transaction() as db:
            self._set(db, task_id, fields)

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
        """Give the oldest queued task, or `only` that one, to `owner` and begin an attempt.

        Those whose ids are in `but` or that pause after a crash are passed over, and unless nothing
        else runs (`alone`) those that must run alone, too. Returns None when none waits.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT * FROM tasks WHERE state = 'queued' AND (? IS NULL OR task_id = ?)"
                " AND (not_before IS NULL OR not_before <= ?) AND (? OR crashes < ?)"
                " AND task_id NOT IN (SELECT value FROM json_each(?))"
                " ORDER BY seq LIMIT 1",
                (only, only, now, alone, SUSPECT_AFTER, msgspec.json.encode(list(but)).decode()),
            ).fetchone()
            if row is None:
                return None
            task = _from_row(row)
            return self._move(
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
        """Extend the lease of every task that `owner` works on."""
        with self._transaction() as db:
            db.execute(
                "UPDATE tasks SET lease_until = ? WHERE owner = ? AND state = 'processing'",
                (lease_until, owner),
            )

    def recover(self, now: float) -> Recovery:
        """Make the rows right after the server's end, however it ended.

        For the start, under the data folder's lock: no other server is alive then. What a dead
        server worked on goes back into the queue. Uploads that were under way are over; those that
        can be resumed wait for their client.
        """
        with self._transaction() as db:
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
            rows = db.execute("SELECT * FROM tasks WHERE state = 'processing' ORDER BY seq")
            ran = [_from_row(row) for row in rows.fetchall()]
            return Recovery(
                interrupted=[self._take_back(db, task, now, alone=len(ran) == 1) for task in ran],
                broken=[row["task_id"] for row in broken],
                forgotten=[row["task_id"] for row in plain],
            )

    def _take_back(self, db: sqlite3.Connection, task: Task, now: float, *, alone: bool) -> Task:
        """Queue a task that ran when the server crashed.

        A crash is no verdict on what ran then. But a file may be the reason: so after
        `SUSPECT_AFTER` of them a task runs alone, which shows whether it is.
        """
        # The lease was renewed until shortly before the end.
        lived = (task.lease_until or 0) - LEASE - (task.attempt_at or 0)
        early = lived < EARLY
        crashes = task.crashes + 1 if early else 0
        crashes_alone = task.crashes_alone + alone if early else 0
        pause = min(LONGEST_PAUSE, CRASH_PAUSE * 2 ** min(30, crashes - SUSPECT_AFTER))
        fields: dict[str, Any] = {
            "owner": None,
            "lease_until": None,
            "crashes": crashes,
            "crashes_alone": crashes_alone,
            "not_before": now + pause if crashes >= SUSPECT_AFTER else None,
        }
        if crashes_alone < MAX_CRASHES_ALONE:
            return self._move(db, task, State.QUEUED, fields)
        failure = Failure(
            code=int(ErrorCode.INTERNAL),
            description=f"The server stopped {MAX_CRASHES_ALONE} times while it worked on this"
            " file alone.",
            solution="Send it in another format, or tell the server's operator the task id.",
        )
        return self._move(
            db,
            task,
            State.FAILED,
            {**fields, "failure": failure, "completed_at": now, "input_key": None},
        )

    def delete_ended(self, before: float) -> int:
        """Forget tasks that ended before that time and have no file left; return how many."""
        with self._transaction() as db:
            return db.execute(
                "DELETE FROM tasks WHERE completed_at < ? AND output_key IS NULL"
                " AND state IN ('completed', 'failed', 'cancelled', 'expired')",
                (before,),
            ).rowcount

    def park(
        self, task_id: str, now: float, received: int, *, own_budget: int, budget: int
    ) -> list[str]:
        """Move a broken upload, of which `received` bytes are synced, to `PARTIAL`.

        Forgets those of its peer that broke off longest ago, beyond `own_budget` bytes or
        `MOST_PARTIAL` uploads; this one, when all partial uploads together exceed `budget`, or
        nothing of it has arrived. Never another peer's. Returns the ids of those forgotten; their
        files are for the caller to remove. Does nothing to a task that is not `UPLOADING`.
        """
        with self._transaction() as db:
            task = self._get(db, task_id)
            if task is None or task.state is not State.UPLOADING:
                return []
            kept_of_it = {"received": received, "synced": received}
            self._move(db, task, State.PARTIAL, {"parked_at": now, **kept_of_it})
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

    def note_synced(self, task_id: str, size: int) -> None:
        """Note that `size` bytes of an upload under way outlive a power cut."""
        with self._transaction() as db:
            db.execute(
                "UPDATE tasks SET synced = ? WHERE task_id = ? AND state = 'uploading'",
                (size, task_id),
            )

    def park_again(self, task: Task) -> None:
        """Move an upload that was refused before a byte came back to what it was: no trace."""
        with self._transaction() as db:
            now = self._get(db, task.task_id)
            if now is not None and now.state is State.UPLOADING:
                self._move(db, now, State.PARTIAL, {"parked_at": task.parked_at})

    def delete_parked(self, before: float, announced_before: float = 0.0) -> list[str]:
        """Forget the uploads that broke off before that time; return their ids.

        And those created before `announced_before` of which no byte has come.
        """
        with self._transaction() as db:
            rows = db.execute(
                "DELETE FROM tasks WHERE state = 'partial' AND (parked_at < ?"
                " OR (received = 0 AND announced_at < ?)) RETURNING task_id",
                (before, announced_before),
            )
            return [row["task_id"] for row in rows.fetchall()]

    def delete_upload(self, task_id: str) -> bool:
        """Forget an upload that never became a task; does nothing to one that did.

        Returns whether there is no such task now, so that its files may go.
        """
        with self._transaction() as db:
            db.execute(
                "DELETE FROM tasks WHERE task_id = ? AND state IN ('uploading', 'partial')",
                (task_id,),
            )
            return self._get(db, task_id) is None

    def _move(self, db: sqlite3.Connection, task: Task, to: State, fields: dict[str, Any]) -> Task:
        if to not in TRANSITIONS[task.state]:
            raise InvalidTransition(task.task_id, task.state, to)
        self._set(db, task.task_id, {"state": to, **fields})
        return msgspec.structs.replace(task, state=to, **fields)

    @staticmethod
    def _set(db: sqlite3.Connection, task_id: str, fields: dict[str, Any]) -> None:
        if unknown := fields.keys() - set(_COLUMNS):
            raise ValueError(f"a task has no {unknown}")
        assignments = ", ".join(f"{name} = ?" for name in fields)
        values = [_to_column(name, value) for name, value in fields.items()]
        db.execute(
            f"UPDATE tasks SET {assignments} WHERE task_id = ?",  # noqa: S608 - checked above
            [*values, task_id],
        )


def _to_column(name: str, value: Any) -> Any:
    if name in _JSON_COLUMNS and value is not None:
        return msgspec.json.encode(value).decode()
    return value


def _from_row(row: sqlite3.Row) -> Task:
    fields = {name: row[name] for name in _COLUMNS}
    for name in _JSON_COLUMNS:
        if fields[name] is not None:
            fields[name] = msgspec.json.decode(
                fields[name], type=Failure if name == "failure" else Any
            )
    fields["state"] = State(fields["state"])
    return Task(**fields)
