"""What a server that cannot start says."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from vidproc.app.startup_errors import explain
from vidproc.tasks.store.store import TaskStore


class ExplainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.data = Path(self.mktemp()).absolute()
        self.log = Path(self.mktemp()).absolute()

    def explained(self, number: int, path: Path) -> str:
        error = OSError(number, os.strerror(number), str(path))
        return explain(error, self.data, self.log)

    def test_the_folder_its_option_and_what_to_do_are_named(self) -> None:
        """Whether a file within it or a folder above it is the trouble."""
        for path in (self.data, self.data / "lock", self.data.parent):
            text = self.explained(errno.EROFS, path)
            self.assertIn(f"--data-dir: {self.data} cannot be used (Read-only file system)", text)
            self.assertIn("let this user write to it, or name another folder", text)
        self.assertIn("--log-dir: ", self.explained(errno.EACCES, self.log / "server.log"))
        self.assertIn("free some space", self.explained(errno.ENOSPC, self.data / "lock"))

    def test_a_full_disk_needs_no_name(self) -> None:
        error = self.assertRaises(OSError, self.write_to_a_full_disk)
        text = explain(error, self.data, self.log)
        self.assertIn(f"{self.data} cannot be used (No space left on device); free some", text)

    def write_to_a_full_disk(self) -> None:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    def test_a_link_that_leads_nowhere_is_called_that(self) -> None:
        self.data.symlink_to("nowhere")
        error = self.assertRaises(OSError, self.data.mkdir, exist_ok=True)
        text = explain(error, self.data, None)
        self.assertIn("(it is a link to a folder that does not exist)", text)

    def test_a_task_store_that_is_none_is_named(self) -> None:
        self.data.mkdir()
        path = self.data / "tasks.sqlite"
        path.write_bytes(b"no database" * 1000)
        store = TaskStore(path)
        error = self.assertRaises(sqlite3.Error, store.open)
        text = explain(error, self.data, None)
        self.assertIn(f"{path} cannot be used (file is not a database); restore it", text)

    def test_anything_else_is_said_as_it_is(self) -> None:
        self.assertEqual(explain(ValueError("odd"), self.data, None), "odd")
        self.assertIn("/nowhere", self.explained(errno.ENOENT, Path("/nowhere/at/all")))
