"""Data folders of earlier versions, taken over by this one.

`tests/data/data-folder-0.1.0.tar.xz` was left by a server of version 0.1.0 (the first data format,
without a marker) that was killed: two results, a partial upload of 5,000 bytes, a task that was
processing and two that were queued.
"""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from support.server_process import PlainClient, ServerProcess

ARCHIVE = Path(__file__).parent / "data" / "data-folder-0.1.0.tar.xz"
UPLOAD_ID = "11111111-2222-4333-8444-555555555555"


class UpgradeTests(TestCase):
    def setUp(self) -> None:
        options = ("--retention=36500d", "--upload-retention=36500d")  # the archive only gets older
        self.server = ServerProcess(Path(self.mktemp()), *options)
        with tarfile.open(ARCHIVE) as archive:
            # Python before 3.11.4 knows no filters, and the archive is our own.
            known: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(self.server.root, **known)
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
        """Results can be fetched, the upload goes on at its byte, what waited is done."""
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
        """What it would have named is put aside, and told in the log."""
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
        """One line, exit status 1, and nothing is touched."""
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
