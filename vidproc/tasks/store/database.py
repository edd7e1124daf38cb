"""The database file: migrations, transactions and connections.

A second, read-only connection is for lookups, which then do not wait for another task's commit to
reach the disk. Settings: WAL, so that readers (lookups, backups) and the writer do not block each
other; ``synchronous=FULL``, so that a commit is on the disk when it returns, because `accepted` is
a promise.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

LOG_ALLOCATED = 1 << 20
"""Bytes of the write-ahead log that are allocated at the start, for about a hundred changes."""


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
        # Used by one thread at a time: the main thread at startup, then the store thread.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 10000")
        self._connection = connection
        self._migrate()
        self._allocate_log()
        self._reader = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        self._reader.row_factory = sqlite3.Row

    def _allocate_log(self) -> None:
        """Give the write-ahead log its blocks now, so that changes need none on a full disk.

        SQLite overwrites the log from its start after each checkpoint, and stops reading at the
        first frame that is not its own, so zeros after the last one do no harm.
        """
        try:
            log = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.posix_fallocate(log, 0, LOG_ALLOCATED)
        except OSError:
            pass  # the disk is full now, or cannot do it
        finally:
            os.close(log)

    def close(self) -> None:
        """Close the database."""
        if self._reader is not None:
            # First, because the last one checkpoints the log, which a read-only one cannot do.
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
        """Run the block as one transaction; an exception rolls it back."""
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
        """Apply the schema files that are new to this database, each in one transaction."""
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
        """Save a copy of the database beside it, atomically, and remove older copies."""
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
