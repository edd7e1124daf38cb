"""Upgrading data folders of earlier versions; backup, restore and downgrading.

`tests/data/data-folder-0.1.0.tar.xz` was left by a server of version 0.1.0 (the first data format,
without a marker) that was killed: two results, a partial upload of 5,000 bytes, a task that was
processing and two that were queued.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase, TestCase

from support.server_process import PlainClient, ServerProcess
from tests.media_harness import FRIDAY
from vidproc.files.data_folder import DataFolder
from vidproc.tasks.model import State, Task
from vidproc.tasks.recovery import recover
from vidproc.tasks.store.database import SchemaTooNew
from vidproc.tasks.store.store import TaskStore

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = sorted((ROOT / "vidproc/tasks/schema").glob("*.sql"))
DIGESTS = Path(__file__).parent / "data" / "schema-digests.json"
FIRST = 2
"""The schema of that folder, the first one of any server."""
ARCHIVE = Path(__file__).parent / "data" / "data-folder-0.1.0.tar.xz"
UPLOAD_ID = "11111111-2222-4333-8444-555555555555"


def extract(folder: Path) -> None:
    """Extract the data folder of 0.1.0 below `folder`."""
    with tarfile.open(ARCHIVE) as archive:
        # Python before 3.11.4 knows no filters, and the archive is our own.
        known: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **known)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that no server uses."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        yield connection
    finally:
        connection.close()


class EachFormatTests(SynchronousTestCase):
    """The data folder of 0.1.0, upgraded to each later format as the versions between did."""

    def folder_of(self, version: int) -> Path:
        folder = Path(self.mktemp())
        extract(folder)
        with opened(folder / "data/tasks.sqlite") as store:
            self.assertEqual(store.execute("PRAGMA user_version").fetchone()[0], FIRST)
            for number, script in enumerate(SCHEMA[FIRST:version], FIRST + 1):
                store.executescript(script.read_text())
                store.execute(f"PRAGMA user_version = {number}")
            store.commit()
        return folder / "data"

    def upgrade(self, root: Path) -> dict[str, Task]:
        """Start as the server does, and return all tasks."""
        data_folder = DataFolder(root, 1 << 40)
        data_folder.open()
        store = TaskStore(root / "tasks.sqlite")
        try:
            store.open()
            recover(store, data_folder, time.time())
            return {task.task_id: task for task in store.in_states(list(State))}
        finally:
            store.close()
            data_folder.close()

    def before(self, root: Path) -> dict[str, sqlite3.Row]:
        with opened(root / "tasks.sqlite") as store:
            return {row["task_id"]: row for row in store.execute("SELECT * FROM tasks")}

    def test_each_keeps_its_tasks_and_files(self) -> None:
        for version in range(FIRST, len(SCHEMA) + 1):
            root = self.folder_of(version)
            before = self.before(root)
            files = {path.name: path.read_bytes() for path in root.glob("*s/*") if path.is_file()}
            after = self.upgrade(root)
            self.assertEqual(after.keys(), before.keys(), version)
            for task_id, task in after.items():
                row = before[task_id]
                expected = {"processing": "queued", "uploading": "partial"}
                self.assertEqual(task.state, expected.get(row["state"], row["state"]), version)
                self.assertEqual(task.parameters, json.loads(row["parameters"]))
                self.assertEqual(task.output_sha256, row["output_sha256"])
                self.assertEqual(task.upload_id, row["upload_id"])
            kept = {path.name: path.read_bytes() for path in root.glob("*s/*") if path.is_file()}
            self.assertEqual(kept, files, version)
            self.assertTrue((root / "vidproc-data").is_file())

    def test_the_way_back_is_the_copy_that_was_made_before(self) -> None:
        """The copy is the store as each older version left it."""
        for version in range(FIRST, len(SCHEMA)):
            root = self.folder_of(version)
            before = {name: tuple(row) for name, row in self.before(root).items()}
            self.upgrade(root)
            for ending in ("", "-wal", "-shm"):
                (root / f"tasks.sqlite{ending}").unlink(missing_ok=True)
            (root / f"tasks.sqlite.before-{version}").rename(root / "tasks.sqlite")
            with opened(root / "tasks.sqlite") as store:
                self.assertEqual(store.execute("PRAGMA user_version").fetchone()[0], version)
            self.assertEqual({n: tuple(row) for n, row in self.before(root).items()}, before)

    def test_a_newer_format_is_refused(self) -> None:
        root = self.folder_of(len(SCHEMA))
        with opened(root / "tasks.sqlite") as store:
            store.execute(f"PRAGMA user_version = {len(SCHEMA) + 1}")
        self.assertRaises(SchemaTooNew, self.upgrade, root)

    def test_what_was_released_is_never_changed(self) -> None:
        """Existing folders have gone through these steps in this order, so only add steps.

        After adding one, add a line to tests/data/schema-digests.json.
        """
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SCHEMA}
        self.assertEqual(list(json.loads(DIGESTS.read_text()).items()), list(found.items()))


class BackupTests(TestCase):
    """`deploy/backup`, and restoring its copies."""

    def backup(self, data: Path, target: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "deploy/backup", data, target], capture_output=True, text=True, timeout=120
        )

    def test_a_copy_of_a_running_server_has_all_of_it(self) -> None:
        """A server on the copy returns the results and processes the waiting tasks."""
        server = ServerProcess(Path(self.mktemp()))
        self.addCleanup(server.stop)
        client = PlainClient(server.start().port)
        done = client.upload(FRIDAY, "extract_audio", {})["task_id"]
        client.wait(done)
        _, _, result = client.download(done)
        waiting = client.upload(FRIDAY, "compress", {"preset": "small"})["task_id"]
        target = server.root / "backup"
        made = self.backup(server.data_dir, target)
        self.assertEqual((made.returncode, made.stderr), (0, ""))
        server.kill()

        restored = ServerProcess(Path(self.mktemp()))
        self.addCleanup(restored.stop)
        target.rename(restored.data_dir)
        client = PlainClient(restored.start().port)
        self.assertEqual(client.download(done)[2], result)
        self.assertIn(client.status(waiting)["status"], ("queued", "processing"))
        self.assertEqual(
            client.request({"action": "cancel", "task_id": waiting})[0]["status"], "cancelled"
        )
        self.assertEqual(list(restored.data_dir.glob("orphans/*")), [])

    def test_what_is_no_data_folder_and_what_exists_is_left_alone(self) -> None:
        folder = Path(self.mktemp())
        (folder / "data").mkdir(parents=True)
        self.assertIn("not a data folder", self.backup(folder / "data", folder / "new").stderr)
        (folder / "data/vidproc-data").touch()
        made = self.backup(folder / "data", folder)
        self.assertEqual(made.returncode, 1)
        self.assertIn("exists", made.stderr)
        self.assertEqual([path.name for path in folder.iterdir()], ["data"])


class UpgradeTests(TestCase):
    def setUp(self) -> None:
        options = ("--retention=36500d", "--upload-retention=36500d")  # the archive only gets older
        self.server = ServerProcess(Path(self.mktemp()), *options)
        extract(self.server.root)
        self.film = (self.server.root / "clip.mp4").read_bytes()
        self.addCleanup(self.server.stop)

    def rows(self) -> dict[str, sqlite3.Row]:
        store = sqlite3.connect(f"file:{self.server.data_dir}/tasks.sqlite?mode=ro", uri=True)
        store.row_factory = sqlite3.Row
        try:
            return {row["task_id"]: row for row in store.execute("SELECT * FROM tasks")}
        finally:
            store.close()

    def test_nothing_of_a_folder_of_0_1_0_is_lost(self) -> None:
        """Results can be fetched, the upload resumes at its offset, waiting tasks are done."""
        before = self.rows()
        client = PlainClient(self.server.start().port)
        for task_id, row in before.items():
            if row["state"] == "completed":
                head, _, payload = client.download(task_id)
                self.assertEqual(head["sha256"], row["output_sha256"])
                self.assertEqual(hashlib.sha256(payload).hexdigest(), row["output_sha256"])
            elif row["state"] in ("queued", "processing"):
                self.assertEqual(client.wait(task_id)["status"], "completed")
        known = client.request({"action": "upload_status", "upload_id": UPLOAD_ID})[0]
        self.assertEqual(known, {"status": "partial", "offset": 5000})
        request = {
            "action": "upload",
            "type": "extract_audio",
            "parameters": {},
            "upload_id": UPLOAD_ID,
            "size": len(self.film),
            "offset": 5000,
            "sha256": hashlib.sha256(self.film).hexdigest(),
        }
        answer = client.request(request, self.film[5000:], "mp4")[0]
        self.assertEqual(answer["status"], "accepted", answer)
        self.assertEqual(client.wait(answer["task_id"])["status"], "completed")
        self.assertTrue((self.server.data_dir / "vidproc-data").is_file())
        copy = sqlite3.connect(self.server.data_dir / "tasks.sqlite.before-2")
        self.addCleanup(copy.close)
        states = copy.execute("SELECT task_id, state FROM tasks").fetchall()
        self.assertEqual(dict(states), {task_id: row["state"] for task_id, row in before.items()})

    def test_a_lost_store_costs_no_film(self) -> None:
        """The files are moved aside, and that is logged."""
        for path in self.server.data_dir.glob("tasks.sqlite*"):
            path.unlink()
        held = [
            path.read_bytes()
            for folder in ("inputs", "uploads", "results")
            for path in (self.server.data_dir / folder).iterdir()
        ]
        self.server.start()
        orphans = list((self.server.data_dir / "orphans").iterdir())
        self.assertEqual(sorted(path.read_bytes() for path in orphans), sorted(held))
        log = self.server.log()
        for path in orphans:
            self.assertIn(path.name.partition("-")[2], log)

    def test_a_strangers_folder_is_refused_before_anything_is_started(self) -> None:
        """There is one line, exit status 1, and nothing is changed."""
        (self.server.data_dir / "thesis.tex").write_text("precious")
        before = sorted(self.server.data_dir.rglob("*"))
        done = subprocess.run(
            self.server.command(), cwd=self.server.root, capture_output=True, text=True, timeout=60
        )
        self.assertEqual(done.returncode, 1)
        (line,) = done.stderr.splitlines()
        self.assertIn("thesis.tex", line)
        self.assertIn("--data-dir", line)
        self.assertEqual(sorted(self.server.data_dir.rglob("*")), before)
