"""The database file: opened, brought up to date, read and written in transactions.

One connection is for everything, and one, which only reads, for looking tasks up: who asks after a
task does not wait for the disk to have taken another task's commit. Settings and why: WAL, so that
readers (lookups, backups) and the writer do not block each other; ``synchronous=FULL``, so that a
commit is on the disk when it returns, for `accepted` is a promise.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path


class SchemaTooNew(Exception):
    """The data folder was last used by a newer vidproc."""


class Database:
    """The SQLite file at `path`. Everything raises `sqlite3.Error` when it fails."""

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
    def connection(self) -> sqlite3.Connection:
        """The connection for everything but lookups."""
        if self._connection is None:
            raise sqlite3.ProgrammingError("the store is closed")
        return self._connection

    @property
    def reader(self) -> sqlite3.Connection:
        """The connection for lookups, for one thread other than that of the rest."""
        if self._reader is None:
            raise sqlite3.ProgrammingError("the store is closed")
        return self._reader

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run what is inside as one transaction; an exception takes all of it back."""
        db = self.connection
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
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(scripts):
            raise SchemaTooNew(
                f"{self._path} has schema {version} and this vidproc knows {len(scripts)}; "
                "use the newer vidproc, or another --data-dir"
            )
        if 0 < version < len(scripts):
            self._copy_before_migration(version)
        for number, script in enumerate(scripts[version:], version + 1):
            self.connection.executescript(
                f"BEGIN IMMEDIATE;\n{script.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;"
            )

    def _copy_before_migration(self, version: int) -> None:
        """Keep the database as it is, beside it, whole or not at all, and no older copy."""
        path = self._path.with_name(f"{self._path.name}.before-{version}")
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        copy = sqlite3.connect(new)
        try:
            self.connection.backup(copy)
        finally:
            copy.close()
        new.replace(path)
        for older in path.parent.glob(f"{self._path.name}.before-*"):
            if older != path:
                older.unlink()
